"""Stand-ins for the tools of the cloud: they record how they are called, and answer as those do."""

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import ROOT

RECORD = """#!{python} -SE
import json, os, subprocess, sys
from pathlib import Path

here, words = Path({here!r}), sys.argv[1:]
with open(here / "calls", "a") as calls:
    print(json.dumps([{tool!r}, *words]), file=calls)

def flag(name):
    return next((word.split("=", 1)[1] for word in words if word.startswith(name + "=")), None)

"""


# What a machine has that is no tool of the cloud.
SYSTEM = "bash cat cp flock gzip hostname mkdir rm setsid tail tar touch"


class Tools:
    """A folder of tools, the only ones that a script finds."""

    def __init__(self, folder: Path):
        self.folder, self.bin = folder, folder / "bin"
        self.bin.mkdir()
        for tool in SYSTEM.split():
            (self.bin / tool).symlink_to(shutil.which(tool))
        home = str(folder / "home")
        self.environment = {"PATH": str(self.bin), "HOME": home, "LC_ALL": "C.UTF-8"}

    def add(self, tool: str, answer: str = "") -> None:
        """`answer` is Python that follows `RECORD`."""
        file = self.bin / tool
        head = RECORD.format(python=sys.executable, here=str(self.folder), tool=tool)
        file.write_text(head + answer)
        file.chmod(0o755)

    def run(self, script: str, *words: str, expect: int = 0) -> str:
        """What a script says, or its errors if they are expected."""
        done = subprocess.run(
            [sys.executable, ROOT / "launch" / script, *words], env=self.environment,
            cwd=self.folder, capture_output=True, text=True, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert done.returncode == expect, done.stdout + done.stderr
        return done.stderr if expect else done.stdout

    def calls(self) -> list[list[str]]:
        """The calls since the last look."""
        file = self.folder / "calls"
        lines = file.read_text().splitlines() if file.exists() else []
        file.unlink(missing_ok=True)
        return list(map(json.loads, lines))

    def typed(self) -> str:
        """The calls since the last look, as one would type them."""
        return "".join(f"{shlex.join(call)}\n" for call in self.calls())


@pytest.fixture
def tools(tmp_path: Path) -> Tools:
    return Tools(tmp_path)
