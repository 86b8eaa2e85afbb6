"""A work directory in a bucket, by the commands."""

import json
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from orbax.checkpoint import v1 as ocp

from jaxvid.data.video import read_video
from jaxvid.errors import InputError
from jaxvid.files import store_of
from jaxvid.files import whole as whole_file
from jaxvid.workdir import folder, lease
from jaxvid.workdir.checkpoint import Checkpoints, steps_in
from jaxvid.workdir.levels import read_level
from tests.commands import ENVIRONMENT, ROOT, attempt, mistakes, run
from tests.emulator import FORBIDDEN

# With a network that compiles fast, and one kind of samples: what is tested here is around them.
TINY = "--config=tests/tiny.py", "--config.model.blocks=time", "--config.tasks.predict=0"


@pytest.fixture(scope="module")
def killed(bucket):
    """A run in the bucket that was killed while it saved its second checkpoint."""
    workdir = bucket / "run"
    words = [sys.executable, "-m", "jaxvid.train", *TINY, f"--workdir={workdir}"]
    process = subprocess.Popen(words, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.DEVNULL)
    while not (workdir / "checkpoints/6").exists() and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert steps_in(workdir / "checkpoints") == [3]
    assert (workdir / "lock").exists()
    return workdir


@pytest.fixture(scope="module")
def resumed(killed):
    """The run, taken up where it was killed, and what it said."""
    code, *said = attempt("jaxvid.train", *TINY, f"--workdir={killed}")
    assert code == 0, said
    return killed, "".join(said)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The same run, from start to end and on this machine."""
    workdir = tmp_path_factory.mktemp("whole")
    run("train", *TINY, f"--workdir={workdir}")
    return workdir


def copy_of(path, target):
    store_of(path).get(str(path), str(target), recursive=True)
    return target


def files_in(path):
    return {file.name for file in path.iterdir()}


def test_a_killed_run_goes_on_at_once_and_ends_bit_for_bit_as_one_on_a_disk(
    resumed, whole, tmp_path
):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    workdir, said = resumed
    assert f"resuming at step 3 of 8 in {workdir}" in said
    assert "sign of life" not in said
    here = copy_of(workdir, tmp_path / "here")
    states, losses, scalars = [], [], []
    for path in (here, whole):
        assert steps_in(path / "checkpoints") == [6, 8]
        states.append(ocp.load_checkpointables(path / "checkpoints/8"))
        lines = map(json.loads, (path / "metrics.jsonl").read_text().splitlines())
        losses.append([(line["step"], line["loss"]) for line in lines])
        events = EventAccumulator(str(path / "tensorboard"), size_guidance={"images": 0}).Reload()
        scalars.append([(event.step, event.value) for event in events.Scalars("loss")])
        assert events.Images("generate")
    jax.tree.map(np.testing.assert_array_equal, *states)
    assert losses[0] == losses[1]
    assert scalars[0] == scalars[1]
    assert files_in(here) == files_in(whole) - {"lock"}
    drawn = "samples/0000008-generate/000.mp4"
    assert (here / drawn).read_bytes() == (whole / drawn).read_bytes()


def test_a_model_in_a_bucket_draws_and_is_scored_there(resumed, bucket, tmp_path):
    workdir, drawn, levels = resumed[0], bucket / "drawn", bucket / "levels"
    (drawn / "002.mp4").write_bytes(b"of an earlier draw")
    said = run("sample", f"--workdir={workdir}", f"--output={drawn}", "--num=2")
    assert f"2 clips of 4 frames in {drawn}" in said
    assert files_in(drawn) == {"000.mp4", "001.mp4", "sheet.png"}
    assert read_video(drawn / "001.mp4", frames=4, size=None)[0].any()

    flags = "--num=12", "--metrics=energy", f"--output={bucket}/scores"
    assert "energy" in run("evaluate", f"--workdir={workdir}", *flags)
    assert {"scores.json", "scores.png"} < files_in(bucket / "scores")

    stage, line = tmp_path / "cascade.py", f"get_cascade = lambda: (Stage('a', '{workdir}'),)"
    stage.write_text(f"from jaxvid.cascade import Stage\n{line}")
    run("sample", f"--cascade={stage}", "--num=1", f"--output={levels}")
    assert files_in(levels) == {"1-a", "1-a.npy", "cascade.json", "sheet.png"}
    assert read_level(levels / "1-a.npy", (1, 4, 8, 8, 3)).any()


def test_a_run_starts_from_another_in_a_bucket(resumed, tmp_path):
    start = f"--config.init_from={resumed[0]}", "--config.steps=1", "--config.tasks.generate=0"
    said = run("train", *TINY, f"--workdir={tmp_path}", *start)
    assert f"from {resumed[0]}: took " in said


def test_a_damaged_checkpoint_in_a_bucket_is_put_aside(bucket, capsys):
    workdir, parts = bucket / "damaged", {"ema": {"x": jnp.ones(3)}}
    with Checkpoints(workdir, keep=2) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, parts)
    (workdir / "checkpoints/2/ema/manifest.ocdbt").unlink()
    with Checkpoints(workdir, keep=2) as checkpoints:
        np.testing.assert_array_equal(checkpoints.restore(parts)["ema"]["x"], np.ones(3))
    assert "the checkpoint of step 2 is damaged (" in capsys.readouterr().err
    assert steps_in(workdir / "checkpoints") == [1]
    (aside,) = files_in(workdir / "checkpoints-damaged")
    assert aside.startswith("2-")


def test_what_cannot_be_is_said_in_a_line_before_anything_is_compiled(killed, bucket):
    where = {"gs://none/run": "no such bucket", f"gs://{FORBIDDEN}/run": ""}
    with folder.lock(killed):
        mistakes("train", ([*TINY, f"--workdir={killed}"], f"{killed}: another run is writing"))
    mistakes("train", *(
        ([*TINY, f"--workdir={path}"], f"{path} cannot be written ({reason}")
        for path, reason in where.items()
    ))  # fmt: skip
    mistakes("sample", *(
        ([f"--workdir={killed}", f"--output={path}"], f"{path} cannot be written ({reason}")
        for path, reason in where.items()
    ), ([f"--workdir={killed}", f"--output={killed}"], "has other files than samples"),
    ([f"--workdir={bucket}/none"], "config.json is missing"))  # fmt: skip


@pytest.fixture
def elsewhere(monkeypatch):
    """Locks of this process, whose life cannot be seen from here, and a faster clock."""
    identity = lease._identity
    monkeypatch.setattr(lease, "_identity", lambda process: identity(process) | {"namespace": ""})
    monkeypatch.setattr(lease, "RENEWED", 0.2)
    monkeypatch.setattr(lease, "STALE", 1.0)


def test_a_run_on_another_machine_is_watched_for_signs_of_life(bucket, elsewhere, capfd):
    path = bucket / "watched/lock"
    with (
        lease.lease(path),
        pytest.raises(InputError, match="another run is writing there"),
        lease.lease(path),
    ):
        pass
    assert "waiting 1 s for a sign of life of process" in capfd.readouterr().err
    assert not path.exists()
    path.write_text(json.dumps(lease._identity(1) | {"token": "of a dead run"}))
    began = time.monotonic()
    with lease.lease(path):
        assert time.monotonic() - began > lease.STALE
    path.write_text("process 1 on here\n")  # copied with a folder from a disk
    with lease.lease(path):
        pass


def test_a_run_that_has_lost_its_lock_ends_at_once(bucket):
    path = bucket / "lost/lock"
    code = f"""
import time
from jaxvid.files import to_path
from jaxvid.workdir import lease
lease.RENEWED = 0.2
with lease.lease(to_path("{path}", "")):
    print("locked", flush=True)
    time.sleep(60)
"""
    command = [sys.executable, "-c", code]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, **pipes) as other:
        assert other.stdout.readline() == b"locked\n"
        path.write_text("of another run")
        assert other.wait(timeout=30) == 1
        assert b"the lock was taken by another run" in other.stderr.read()
    assert path.read_text() == "of another run"


@pytest.mark.parametrize("end", [b"\r", b"\n", b"\r\n", b"\r\r", b""])
def test_a_file_in_the_bucket_has_all_its_bytes(bucket, tmp_path, end):
    with whole_file(bucket / "bytes") as file:
        file.write_bytes(b"some" + end)
    assert (bucket / "bytes").read_bytes() == b"some" + end
