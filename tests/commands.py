"""`python -m MODULE ARGUMENT…`, without the imports, which take longer than most commands.

One process imports what they need, and forks for each command.
"""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from jaxvid.build import build
from jaxvid.train import train

ROOT = Path(__file__).parents[1]
ONE_DEVICE = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=1")
ENVIRONMENT = os.environ | {"XLA_FLAGS": ONE_DEVICE}
# A network that compiles fast, and no samples, where only what is around them is tested.
FAST = "--config=tests/tiny.py", "--config.model.blocks=mlp", "--config.model.depth=1"
FAST += "--config.tasks.generate=0", "--config.tasks.predict=0"

FORKS = """
import gc, json, os, resource, runpy, sys, tempfile
import matplotlib.backends.backend_agg, matplotlib.figure
import jaxvid.actions, jaxvid.comparison, jaxvid.trained, jaxvid.workdir.checkpoint
if "STORAGE_EMULATOR_HOST" in os.environ:
    import gcsfs, google.cloud.storage
gc.freeze()

for line in sys.stdin:
    folder, limit, module, *arguments = json.loads(line)
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = os.fork()
        if not child:
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            os.chdir(folder)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            sys.argv = ["command", *arguments]
            code = 0
            try:
                runpy.run_module(module, run_name="__main__", alter_sys=True)
            except SystemExit as ended:  # as Python does, without its slow end
                code = ended.code
                if isinstance(code, str):
                    code = print(code, file=sys.stderr) or 1
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code or 0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        texts = [(file.seek(0), file.read().decode())[1] for file in (out, err)]
        print(json.dumps([code, *texts]), flush=True)
"""


@functools.cache
def server() -> subprocess.Popen[str]:
    """It ends with the tests, as its input does."""
    return subprocess.Popen(
        [sys.executable, "-c", FORKS], cwd=ROOT, env=ENVIRONMENT, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def attempt(module: str, *arguments, cwd=ROOT, file_size: int = -1) -> tuple[int, str, str]:
    """The exit code, stdout and stderr of a command, on one device.

    `file_size`: the most bytes that a file may have, as if the disk were full beyond them.
    """
    forks, words = server(), [module, *map(str, arguments)]
    print(json.dumps([str(cwd), file_size, *words]), file=forks.stdin, flush=True)
    return tuple(json.loads(forks.stdout.readline()))


def run(module: str, *arguments) -> str:
    """What a command of jaxvid says, which must succeed."""
    code, out, err = attempt(f"jaxvid.{module}", *arguments)
    assert code == 0, out + err
    return out


def run_alone(module: str, *arguments, expect: int = 0, **environment: str) -> str:
    """What a command says, or its error, in a process that is imported, and ends, as a user's."""
    done = subprocess.run(
        [sys.executable, "-m", f"jaxvid.{module}", *map(str, arguments)],
        cwd=ROOT, env=ENVIRONMENT | environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == expect, done.stdout + done.stderr
    return done.stdout if expect == 0 else done.stderr


def mistakes(module: str, *cases) -> None:
    """Runs a command with arguments that are wrong, and looks for the line that goes with them."""
    for arguments, line in cases:
        code, out, err = attempt(f"jaxvid.{module}", *arguments)
        assert (code, line in "".join(err.rpartition("error: ")[1:])) == (1, True), (
            arguments, line, out, err,
        )  # fmt: skip
        assert "Traceback" not in err, err


def train_on(devices, config, workdir):
    """Trains here, on the first devices: on eight, a step takes three times as long to compile."""
    with pytest.MonkeyPatch.context() as patch:
        first = functools.partial(build, devices=jax.devices()[:devices])
        patch.setattr("jaxvid.train.build", first)
        train(config, workdir)
