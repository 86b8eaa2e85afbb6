"""launch/slurm.py against stand-ins, and its batch script as Slurm would run it."""

import shlex
import signal
import subprocess
import sys

import pytest

from tests.commands import ROOT

BATCH = ROOT / "launch/slurm.sbatch"
AWKWARD = [
    "--config=configs/latte.py:XL/2",
    '--workdir=it\'s "a" run',
    "--config.data.strides=(1,)",
]
SBATCH = "(here / 'queue').write_text('123 PENDING')"
SQUEUE = "print((here / 'queue').read_text() if (here / 'queue').exists() else '')"


@pytest.fixture
def slurm(tools):
    for tool, answer in {"sbatch": SBATCH, "squeue": SQUEUE, "scancel": "", "scontrol": ""}.items():
        tools.add(tool, answer)
    return tools


def script(tools, action, *words, **kwargs):
    return tools.run("slurm.py", action, "--name=my run's", *words, **kwargs)


def test_run_submits_one_job_of_a_name(slurm):
    words = "--nodes=2", "--gpus=4", "--sbatch-flag=--partition=a100", *AWKWARD
    printed = script(slurm, "run", *words, "--dry-run")
    assert slurm.calls() == []
    script(slurm, "run", *words)
    calls = slurm.calls()
    queue = ["squeue", "--me", "--name=my run's", "--noheader", "--format=%A %T"]
    submitted = [
        "sbatch", "--job-name=my run's", "--nodes=2", "--gpus-per-node=4", "--ntasks-per-node=4",
        "--time=24:00:00", "--output=jaxvid-%j.log", "--partition=a100", str(BATCH), "python", "-m",
        "jaxvid.train", *AWKWARD, "--distributed=auto",
    ]  # fmt: skip
    assert calls == [queue, submitted]
    assert printed == "".join(f"{shlex.join(call)}\n" for call in calls)
    assert "job 123 has this name (PENDING): follow its logs" in script(
        slurm, "run", *words, expect=1
    )
    script(slurm, "delete")
    assert slurm.calls()[-1] == ["scancel", "123"]
    (slurm.folder / "queue").write_text("123 RUNNING")
    script(slurm, "delete")  # it may save
    assert slurm.calls()[-1] == ["scancel", "--signal=TERM", "123"]
    (slurm.folder / "queue").unlink()
    assert "no job is called my run's" in script(slurm, "delete")
    per_node = script(slurm, "run", "--gpus=8", "--process-per=node", *AWKWARD, "--dry-run")
    assert "--gpus-per-node=8 --ntasks-per-node=1 " in per_node


def test_a_login_node_is_needed_and_a_command(tools):
    assert "sbatch is not installed: run this on a login" in script(tools, "status", expect=2)
    assert "run needs a command after --" in script(tools, "run", expect=2)


def test_the_batch_script_asks_for_a_signal_and_a_requeue():
    lines = BATCH.read_text().splitlines()
    options = [line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH")]
    assert options == ["--requeue", "--open-mode=append", "--signal=B:USR1@180"]
    assert lines[1:4] == [f"#SBATCH {option}" for option in options]  # else Slurm ignores them


# Like srun: runs a command, and passes SIGTERM on.
SRUN = """
assert words[:2] == ["--kill-on-bad-exit=1", "--label"], words
os.execvp(words[2], words[2:])
"""
RUN = """
import signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
print(sys.argv[1:], flush=True)
signal.pause()
"""


@pytest.mark.parametrize(
    ("number", "requeued"),
    [(signal.SIGUSR1, True), (signal.SIGTERM, False)],
    ids=["limit", "cancel"],
)
def test_a_job_near_its_limit_saves_and_is_queued_again(slurm, number, requeued):
    slurm.add("srun", SRUN)
    job = subprocess.Popen(
        ["bash", BATCH, sys.executable, "-c", RUN, *AWKWARD], stdout=subprocess.PIPE, text=True,
        env=slurm.environment | {"SLURM_JOB_ID": "123"},
    )  # fmt: skip
    assert job.stdout.readline() == f"{AWKWARD}\n"
    job.send_signal(number)
    assert job.wait() == 143
    assert slurm.calls()[1:] == [["scontrol", "requeue", "123"]] * requeued


def test_a_job_ends_as_its_run_does(slurm):
    slurm.add("srun", SRUN)
    environment = slurm.environment | {"SLURM_JOB_ID": "123"}
    for code in (0, 3):
        words = ["bash", BATCH, "bash", "-c", f"exit {code}"]
        assert subprocess.run(words, env=environment).returncode == code
    assert [call[0] for call in slurm.calls()] == ["srun", "srun"]
