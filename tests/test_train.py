"""The commands as a user runs them, in processes of their own."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxvid.data.video import write_video
from jaxvid.training import ema
from jaxvid.training.optimizer import make_optimizer
from jaxvid.training.state import make_init, make_network, to_parts
from jaxvid.workdir.checkpoint import Checkpoints, Snapshots

ROOT = Path(__file__).parents[1]
PROFILES = "--config.ema.widths=(0.05, 0.1)", "--config.ema.snapshot_every=3"
ONE_DEVICE = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=1")
ENVIRONMENT = os.environ | {"XLA_FLAGS": ONE_DEVICE}


def command(module, *arguments):
    return [sys.executable, "-m", f"jaxvid.{module}", *map(str, arguments)]


def run(module, *arguments, expect=0, env=ENVIRONMENT):
    done = subprocess.run(
        command(module, *arguments), cwd=ROOT, env=env, capture_output=True, text=True
    )
    assert done.returncode == expect, done.stdout + done.stderr
    return done.stdout if expect == 0 else done.stderr


def train(workdir, *overrides, **kwargs):
    return run("train", "--config=tests/tiny.py", f"--workdir={workdir}", *overrides, **kwargs)


def state_of(workdir, config, mesh):
    """The newest state, and the average of a width that was not kept, from all snapshots."""
    config.ema.widths = (0.05, 0.1)
    net, tx = make_network(config), make_optimizer(config)
    abstract = make_init(config, net, tx, mesh)[1]
    with Checkpoints(workdir) as checkpoints, Snapshots(workdir, config.ema.widths) as snapshots:
        assert snapshots.steps == [3, 6, 8]
        kept = snapshots.averages(abstract.params)
        average, _ = ema.reconstruct(kept, snapshots.widths, snapshots.steps, 0.15, 8)
        return checkpoints.restore(to_parts(abstract)), average


def losses(workdir):
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return {line["step"]: line["loss"] for line in lines}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run from start to end."""
    workdir = tmp_path_factory.mktemp("whole")
    return workdir, train(workdir, *PROFILES)


def test_a_run_leaves_samples_curves_and_says_where(whole):
    workdir, said = whole
    assert said.splitlines()[-1].endswith(str(workdir))
    assert re.search(r"step 8/8  loss \S+  \S+ clips/s  data wait \d+%", said)
    assert list(losses(workdir)) == [2, 3, 4, 6, 8]
    for name in (
        "loss.png",
        "samples/0000008-generate/sheet.png",
        "samples/0000008-predict/000.mp4",
    ):
        assert (workdir / name).stat().st_size > 500
    assert list((workdir / "tensorboard").iterdir())


def test_killed_at_any_moment_and_restarted_it_ends_bit_for_bit_the_same(
    whole, config, one_device_mesh, tmp_path
):
    process = subprocess.Popen(
        command("train", "--config=tests/tiny.py", f"--workdir={tmp_path}", *PROFILES),
        cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    # In the middle of writing the checkpoint of step 3, or just after.
    while not list(tmp_path.glob("checkpoints/3*")) and process.poll() is None:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    # The checkpoint may be whole and the snapshot of its step not.
    shutil.rmtree(tmp_path / "snapshots/3", ignore_errors=True)
    train(tmp_path, *PROFILES)
    a, b = (state_of(w, config, one_device_mesh) for w in (whole[0], tmp_path))
    jax.tree.map(np.testing.assert_array_equal, a, b)
    assert losses(tmp_path) == losses(whole[0])


def test_a_signal_saves_and_leaves_and_the_run_goes_on_from_there(tmp_path):
    process = subprocess.Popen(
        command("train", "--config=tests/tiny.py", f"--workdir={tmp_path}",
                "--config.steps=100000", "--config.checkpoint.every=100000"),
        cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    for line in process.stdout:
        if line.startswith("step"):
            process.send_signal(signal.SIGTERM)
            break
    rest = process.stdout.read()
    assert process.wait() == 0
    (step,) = re.findall(r"stopped by a signal and saved at step (\d+)", rest)
    assert (tmp_path / "checkpoints" / step).is_dir()


def test_another_config_is_refused_with_the_difference(whole):
    error = train(whole[0], "--config.optimizer.lr=0.5", expect=1)
    assert "optimizer.lr: 0.002 then, 0.5 now" in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("--config.optimizer.lrr=1", "config.optimizer.lrr: there is no such key; did you mean"),
        ("--config.steps=many", "it must be an integer of at least 1"),
        ("--config.data.size=10", "does not divide into patches of 4"),
        ("--config.mesh.data=3", "does not fit the 1 device"),
        ("--config.model.blocks=space mpl", "did you mean 'mlp'"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_made(tmp_path, override, line):
    error = train(tmp_path / "run", override, expect=1)
    assert line in error
    assert "Traceback" not in error
    assert not (tmp_path / "run").exists()


def test_two_processes_train_as_one_does(whole, config, one_device_mesh, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    processes = [
        subprocess.Popen(
            command("train", "--config=tests/tiny.py", f"--workdir={tmp_path}",
                    f"--distributed={address},2,{rank}", "--config.mesh.fsdp=2", *PROFILES),
            cwd=ROOT, env=ENVIRONMENT | {"JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo"},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    said = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "".join(said)
    alone, together = losses(whole[0]), losses(tmp_path)
    assert list(alone) == list(together)
    np.testing.assert_allclose(list(together.values()), list(alone.values()), rtol=1e-5)
    (_, a), (_, b) = (state_of(w, config, one_device_mesh) for w in (whole[0], tmp_path))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), a, b)


def test_sample_draws_from_the_average_and_continues_a_video(whole, tmp_path):
    workdir = whole[0]
    said = run("sample", f"--workdir={workdir}", "--num=3", "--steps=3", "--seed=5",
               f"--output={tmp_path}/a")  # fmt: skip
    assert "3 clips of 4 frames" in said
    assert len(list((tmp_path / "a").glob("*.mp4"))) == 3

    video = tmp_path / "given.mp4"
    write_video(video, np.random.default_rng(0).integers(0, 255, (6, 16, 16, 3), np.uint8), 8)
    said = run("sample", f"--workdir={workdir}", "--num=2", "--task=predict", "--observed=2",
        f"--input={video}", f"--output={tmp_path}/b", "--ema_width=0.15")  # fmt: skip
    assert "EMA of width 0.15 at step 8, from 3 snapshot(s)" in said
    assert (tmp_path / "b/sheet.png").exists()

    for arguments, line in [
        (["--task=predcit"], "did you mean 'predict'"),
        (["--task=predict", "--observed=4"], "leaves none"),
        (["--task=predict", f"--input={tmp_path}/none.mp4"], "cannot be read"),
        (["--label=9"], "has 3 classes"),
        (["--steps=0"], "sampler.steps=0"),
        ([f"--input={video}"], "name a --task that has some"),
        (["--actions=none.csv"], "not trained on actions"),
    ]:
        error = run("sample", f"--workdir={workdir}", *arguments, expect=1)
        assert line in error
        assert "Traceback" not in error


def test_sample_follows_a_low_resolution_video_and_a_table_of_actions(tmp_path):
    workdir, video, table = (tmp_path / name for name in ("run", "given.mp4", "actions.csv"))
    given = "--config.data.low_res=2", "--config.data.action_dim=2"
    small = "--config.model.blocks=mlp", "--config.model.depth=1", "--config.tasks.predict=0"
    train(workdir, "--config.steps=2", *given, *small)
    assert (workdir / "samples/0000002-generate/sheet.png").exists()
    write_video(video, np.random.default_rng(0).integers(0, 255, (6, 8, 8, 3), np.uint8), 8)
    table.write_text("0.5,-0.5\n" * 5)
    given = f"--input={video}", f"--actions={table}"
    said = run("sample", f"--workdir={workdir}", "--num=1", "--frames=6", "--overlap=2", *given)
    assert "1 clips of 6 frames" in said
    for arguments, line in [
        (given, "5 rows of 2 numbers: give 1 to 4 rows"),
        (["--frames=6"], "give it as --input"),
    ]:
        error = run("sample", f"--workdir={workdir}", *arguments, expect=1)
        assert line in error
        assert "Traceback" not in error
