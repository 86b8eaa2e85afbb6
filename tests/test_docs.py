"""The commands of the README and of docs/, as a reader copies them."""

import re
import shlex

import pytest

from tests.commands import ROOT, attempt

PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
BLOCK = re.compile(r"^```bash\n(.*?)^```", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"(?:python -m |^)((?:jaxvid|benchmarks)[. ].*)")
MISSING = "is not a folder: make it"  # the clips of a reader


def commands():
    for page in PAGES:
        for block in BLOCK.findall(page.read_text()):
            for line in block.replace("\\\n", " ").splitlines():
                line = line.strip().replace("$stage", "outline").replace("gs://BUCKET/", "")
                if match := COMMAND.search(line):
                    module, *arguments = shlex.split(match[1], comments=True)
                    if module == "jaxvid":
                        module, *arguments = [f"jaxvid.{arguments[0]}", *arguments[1:]]
                    if "--plugins=my_lab" not in arguments:
                        yield pytest.param(module, arguments, id=f"{page.name}: {match[1]}")


def test_there_are_commands():
    assert len(list(commands())) > 40


@pytest.mark.parametrize(("module", "arguments"), [*commands()])
def test_a_command_of_the_docs_has_options_keys_and_files_that_exist(module, arguments):
    if "--help" in arguments or "…" in " ".join(arguments):
        pytest.skip("a pattern")
    code, _, err = attempt("tests.parses", module, *arguments)
    assert code == 0 or MISSING in err, err
