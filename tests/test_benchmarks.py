import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize("name", ["train_step", "architectures"])
def test_a_benchmark_reads_its_flags_as_the_commands_do(name):
    command = [sys.executable, "-m", f"benchmarks.{name}", "--config=tests/tiny.py"]
    done = subprocess.run(
        [*command, "--config.stepss=1"], capture_output=True, text=True, env=os.environ
    )
    assert done.returncode == 1
    assert done.stderr == "error: config.stepss: there is no such key; did you mean config.steps?\n"
