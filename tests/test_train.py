"""The commands as a user runs them."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxvid.build import Run, build
from jaxvid.data.sources.registry import RENDERS
from jaxvid.data.video import write_video
from jaxvid.errors import InputError
from jaxvid.trained import load
from jaxvid.training import ema
from jaxvid.training.state import to_parts
from jaxvid.workdir import folder
from jaxvid.workdir.checkpoint import Checkpoints, Snapshots
from jaxvid.workdir.pictures import contact_sheet
from tests.commands import ENVIRONMENT, ROOT, mistakes, run, train_on

PROFILES = "--config.ema.widths=(0.05, 0.1)", "--config.ema.snapshot_every=3"
# With a network that compiles fast: what is tested here is around it.
TINY = "--config=tests/tiny.py", "--config.model.blocks=time"


def start(workdir, *overrides, **kwargs):
    """Begins a run in a process that is imported, and ends, as a user's."""
    words = [sys.executable, "-m", "jaxvid.train", *TINY, f"--workdir={workdir}", *overrides]
    return subprocess.Popen(
        words, cwd=ROOT, env=ENVIRONMENT | kwargs.pop("env", {}), text=True, **kwargs
    )


def train(workdir, *overrides):
    return run("train", *TINY, f"--workdir={workdir}", *overrides)


def state_of(workdir, config):
    """The newest state, and the average of a width that was not kept, from all snapshots."""
    config.ema.widths, config.model.blocks = (0.05, 0.1), "time"
    run = build(config, jax.devices()[:1])
    with Checkpoints(workdir) as checkpoints, Snapshots(workdir, config.ema.widths) as snapshots:
        assert snapshots.steps == [3, 6, 8]
        kept = snapshots.averages(run.params)
        average, _ = ema.reconstruct(kept, snapshots.widths, snapshots.steps, 0.15, 8)
        return checkpoints.restore(to_parts(run.state)), average


def metrics(workdir):
    return list(map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines()))


def losses(workdir):
    return {line["step"]: line["loss"] for line in metrics(workdir)}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run from start to end."""
    workdir = tmp_path_factory.mktemp("whole")
    return workdir, train(workdir, *PROFILES, "--config.log.profile=(5, 2)")


def test_a_run_leaves_samples_curves_and_says_where(whole):
    workdir, said = whole
    assert said.splitlines()[-1].endswith(str(workdir))
    assert re.search(r"step 8/8  loss \S+  \S+ clips/s  data wait \d+%", said)
    assert list(losses(workdir)) == [2, 3, 4, 6, 8]
    for name in (
        "report.html",
        "data.png",
        "loss.png",
        "samples/0000008-generate/sheet.png",
        "samples/0000008-predict/000.mp4",
    ):
        assert (workdir / name).stat().st_size > 500
    assert list((workdir / "tensorboard").iterdir())
    shares = re.search(r"goodput of \S+ min: (.*)", said)[1]
    assert sum(map(float, re.findall(r"([\d.]+)%", shares))) == pytest.approx(100, abs=0.4)


def test_a_profile_has_the_steps_that_were_asked_for(whole):
    workdir, said = whole
    assert f"profiled up to step 6: pip install xprof, then tensorboard --logdir={workdir}" in said
    (traced,) = workdir.glob("profile/plugins/profile/*/*.xplane.pb")
    planes = jax.profiler.ProfileData.from_file(str(traced)).planes
    events = [event for plane in planes for line in plane.lines for event in line.events]
    assert [dict(e.stats)["step_num"] for e in events if e.name == "train"] == [5, 6]
    # What the host called, and what the device did.
    assert {"PjitFunction(train_step)", "ThunkExecutor::Execute"} <= {e.name for e in events}


def test_killed_at_any_moment_and_restarted_it_ends_bit_for_bit_the_same(whole, config, tmp_path):
    process = start(tmp_path, *PROFILES, stdout=subprocess.DEVNULL)
    # In the middle of writing the checkpoint of step 3, or just after.
    while not list(tmp_path.glob("checkpoints/3*")) and process.poll() is None:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    # The checkpoint may be whole and the snapshot of its step not.
    shutil.rmtree(tmp_path / "snapshots/3", ignore_errors=True)
    starting = metrics(tmp_path)[-1]["seconds/start"]
    train(tmp_path, *PROFILES)
    a, b = (state_of(w, config) for w in (whole[0], tmp_path))
    jax.tree.map(np.testing.assert_array_equal, a, b)
    assert losses(tmp_path) == losses(whole[0])
    assert metrics(tmp_path)[-1]["seconds/start"] > starting > 0  # of both starts


def test_a_dry_run_says_what_the_run_would_be_and_leaves_only_its_first_clips(config, tmp_path):
    said = run("train", *TINY, f"--workdir={tmp_path}", "--dry_run")
    config.model.blocks = "time"
    built = build(config, jax.devices()[:1])
    count = sum(x.size for x in jax.tree.leaves(built.params))
    assert f"network  {count / 1000:.4g} k parameters" in said
    assert "video uint8 [8, 4, 8, 8, 3]" in said
    shares = [float(share) for share in re.findall(r"([\d.]+)% of the FLOPs", said)]
    assert sum(shares) == pytest.approx(100, abs=0.3)
    assert [path.name for path in tmp_path.iterdir()] == ["data.png"]
    mistakes("train", ([*TINY, "--dry_run", "--config.model.heads=3"], "model.heads = 6"))


def test_another_config_is_refused_with_the_difference(whole):
    mistakes("train", (
        [*TINY, f"--workdir={whole[0]}", *PROFILES, "--config.optimizer.lr=0.5"],
        "optimizer.lr: 0.002 then, 0.5 now",
    ))  # fmt: skip


def test_two_processes_train_as_one_does(whole, config, tmp_path):
    """Both have all clips, and half of the tokens of each; `test_failures` has fsdp."""
    done = subprocess.run(
        [
            sys.executable, "launch/local.py", "--processes=2", *TINY, f"--workdir={tmp_path}",
            *PROFILES, "--config.mesh.data=1", "--config.mesh.context=2",
            "--config.data.render_on_device=True",  # but for rounding
        ],
        cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    alone, together = losses(whole[0]), losses(tmp_path)
    assert list(alone) == list(together)
    np.testing.assert_allclose(list(together.values()), list(alone.values()), rtol=1e-5)
    (_, a), (_, b) = (state_of(w, config) for w in (whole[0], tmp_path))
    # Snapshots are rounded to float16, whose last digit may differ.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-4), a, b)


def test_sample_draws_from_the_average_and_continues_a_video(whole, tmp_path):
    workdir = whole[0]
    assert folder.load(workdir).conditions.label.names == ("circle", "square", "triangle")
    said = run("sample", f"--workdir={workdir}", "--num=3", "--seed=5", "--label=square",
               "--config.sampler.steps=3", f"--output={tmp_path}/a")  # fmt: skip
    assert "3 clips of 4 frames" in said
    assert len(list((tmp_path / "a").glob("*.mp4"))) == 3
    model = load(workdir, changes={"sampler.steps": "3"})
    drawn = model.draw(3, seed=5, label="square")
    sheet = np.asarray(Image.open(tmp_path / "a/sheet.png"))
    expected = contact_sheet(drawn, observed=np.zeros(4, bool), titles=["square"] * 3)
    np.testing.assert_array_equal(sheet, expected)
    with pytest.raises(InputError, match="--labl: did you mean 'label'"):
        model.draw(3, labl="square")

    video = tmp_path / "given.mp4"
    write_video(video, np.random.default_rng(0).integers(0, 255, (6, 16, 16, 3), np.uint8), 8)
    said = run("sample", f"--workdir={workdir}", "--num=2", "--task=predict", "--observed=2",
        f"--input={video}", f"--output={tmp_path}/b", "--ema_width=0.15")  # fmt: skip
    assert "EMA of width 0.15 at step 8, from 3 snapshot(s)" in said
    assert (tmp_path / "b/sheet.png").exists()

    mistakes("sample", *(
        ([f"--workdir={workdir}", *arguments], line)
        for arguments, line in [
            (["--task=predcit"], "did you mean 'predict'"),
            (["--task=predict", "--observed=4"], "leaves none"),
            (["--task=predict", f"--input={tmp_path}/none.mp4"], "cannot be read"),
            ([f"--input={video}"], "name a --task that has some"),
            (["--observed=2"], "--observed: name a --task that observes frames"),
            (["--overlap=2"], "give --frames as well"),
            (["--frames=9", "--task=interpolate"], "--frames is for --task=generate or predict"),
            (["--frames=9", "--overlap=4"], "--overlap=4: it must be from 1 to 3 frames"),
            (["--label=9"], "has 3 classes"),
            (["--label=squar"], "did you mean 'square'"),
            (["--actions=none.csv"], "--actions: the model was trained without it"),
            (["--caption=a cat"], "--caption: the model was trained without it"),
            (["--config.sampler.steps=0"], "config.sampler.steps=0: it must be an integer"),
            (["--config.sampler.step=3"], "did you mean config.sampler.steps"),
            (["--config.sampler.observed_noise=0.9"], "at most config.diffusion.max_"),
            (["--config.model.width=32"], "--config.model.width: the model was trained with"),
            ([f"--workdir={tmp_path}/none"], "config.json is missing: give the work directory"),
            ([f"--workdir={whole[0]}s"], f"is missing: did you mean {whole[0].name!r}? give"),
        ]
    ))  # fmt: skip


def test_what_is_drawn_does_not_depend_on_the_mesh(whole):
    expected = load(whole[0]).draw(3)
    for mesh in ({"fsdp": "-1"}, {"context": "2", "tensor": "2"}):
        model = load(whole[0], changes={f"mesh.{axis}": size for axis, size in mesh.items()})
        assert model.run.mesh.size == 8
        difference = np.abs(np.int16(model.draw(3)) - expected)
        assert difference.max() <= 1
    with pytest.raises(InputError, match=r"config\.mesh\.context=8: it must divide the 4"):
        load(whole[0], changes={"mesh.context": "8"})


def test_a_seed_and_an_override_change_what_is_drawn_and_the_same_command_does_not(whole, tmp_path):
    flags = ["--seed=0", "--seed=0", "--seed=1", "--config.sampler.steps=1"]
    for i, flag in enumerate(flags):
        run("sample", f"--workdir={whole[0]}", "--num=1", flag, f"--output={tmp_path}/{i}")
    drawn = [(tmp_path / str(i) / "sheet.png").read_bytes() for i in range(4)]
    assert drawn[0] == drawn[1]
    assert len(set(drawn)) == 3


def test_a_signal_saves_and_leaves_and_the_run_goes_on_from_there(tmp_path):
    process = start(
        tmp_path, "--config.steps=100000", "--config.checkpoint.every=100000",
        "--config.model.blocks=mlp", stdout=subprocess.PIPE,
    )  # fmt: skip
    for line in process.stdout:
        if line.startswith("step"):
            process.send_signal(signal.SIGTERM)
            break
    rest = process.stdout.read()
    assert process.wait() == 143  # as a scheduler knows to start it again
    (step,) = re.findall(r"stopped by a signal and saved at step (\d+)", rest)
    assert (tmp_path / "checkpoints" / step).is_dir()


def test_a_mistake_is_one_line_before_anything_is_made(tmp_path):
    given = "--config=tests/tiny.py", f"--workdir={tmp_path}/run"
    mistakes("train", *(
        ([*given, override], line)
        for override, line in [
            ("--config.optimizer.lrr=1", "there is no such key; did you mean config.optimizer.lr?"),
            ("--config.model.labels=3", "it is called config.conditions.label.classes now"),
            ("--config.steps=many", "it must be an integer of at least 1"),
            ("--config.data.size=10", "does not divide into patches of 4"),
            ("--config.mesh.data=3", "does not fit the 1 device"),
            ("--config.log.profile=(7, 3)", "these steps end after the last one, config.steps=8"),
            ("--config.model.blocks=space mpl", "did you mean 'mlp'"),
            ("--config.evals.metrics=('energie',)", "it must be names among energy"),
            ("--config.conditions.label.classes=4", "the data has 3 classes: circle, square"),
            ("--config.conditions.action.dim=3", "set config.conditions.action.dim=2"),
        ]
    ))  # fmt: skip
    assert not (tmp_path / "run").exists()


def test_implicit_transfers_are_refused_in_the_step_alone(config, tmp_path, monkeypatch):
    """On accelerators Orbax makes some when it saves. Here, an array of NumPy makes one."""

    def transfer(*_):
        made.append(jnp.ones(2) + np.ones(2))

    made, step = [], Run.train_step.func
    monkeypatch.setattr(Checkpoints, "save", transfer)
    painted, render = [], RENDERS["synthetic"]
    monkeypatch.setitem(RENDERS, "synthetic", lambda *a: painted.append(a) or render(*a))
    config.update(steps=1)
    config.data.render_on_device = True
    config.model.update(blocks="mlp", depth=1)
    config.tasks.update(generate=0.0, predict=0.0)  # so that no samples are drawn
    train_on(1, config, tmp_path / "saved")
    assert len(made) == len(painted) == 1

    def guarded(run):
        return lambda *arguments: (transfer(), step(run)(*arguments))[1]

    monkeypatch.setattr(Run, "train_step", property(guarded))
    with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
        train_on(1, config, tmp_path / "guarded")


def test_scores_are_logged_and_what_is_trained_does_not_depend_on_them(config, tmp_path):
    config.steps, config.optimizer.lr = 4, 1e-9
    config.evals.update(num=12, metrics=("energy",))
    config.model.update(blocks="mlp", depth=1)
    config.tasks.update(generate=0.0, predict=0.0)  # so that no samples are drawn
    parameters = []
    for name, every in (("plain", 0), ("scored", 2)):
        config.evals.every = every
        train_on(1, config, tmp_path / name)
        with Checkpoints(tmp_path / name) as checkpoints:
            parameters.append(
                checkpoints.restore_part("ema", build(config, jax.devices()[:1]).params)
            )
    jax.tree.map(np.testing.assert_array_equal, *parameters)
    name = "evals/quick/energy"
    assert not any(name in line for line in metrics(tmp_path / "plain"))
    scores = {line["step"]: line for line in metrics(tmp_path / "scored") if name in line}
    assert list(scores) == [2, 4]
    for line in scores.values():
        # Noise is far from shapes on a plain ground; the same key drew it at nearly equal weights.
        assert line[name] > 5 * line[f"{name}_error"] > 0
        assert abs(line[f"{name}_floor"]) < line[name] / 5
    assert scores[4][name] == pytest.approx(scores[2][name], rel=0.02)


def test_sample_follows_a_low_resolution_video_a_table_of_actions_and_a_caption(tmp_path):
    workdir, video, table = (tmp_path / name for name in ("run", "given.mp4", "actions.csv"))
    train(workdir, "--config.steps=2", "--config.model.blocks=mlp", "--config.model.depth=1",
          "--config.tasks.predict=0", "--config.conditions.low_res.factor=2",
          "--config.conditions.action.dim=2", "--config.conditions.text.length=8")  # fmt: skip
    # Samples in the loop have captions and classes of the data, and the sheet shows them.
    untitled = contact_sheet(np.zeros((2, 4, 8, 8, 3), np.uint8), observed=np.zeros(4, bool))
    sheet = Image.open(workdir / "samples/0000002-generate/sheet.png")
    assert (sheet.width, sheet.height > len(untitled)) == (untitled.shape[1], True)
    write_video(video, np.random.default_rng(0).integers(0, 255, (6, 8, 8, 3), np.uint8), 8)
    table.write_text("0.5,-0.5\n" * 5)
    given = f"--low_res={video}", f"--actions={table}", "--caption=a red square"
    said = run("sample", f"--workdir={workdir}", "--num=1", "--frames=6", "--overlap=2", *given)
    assert "1 clips of 6 frames" in said
    mistakes("sample", *(
        ([f"--workdir={workdir}", *arguments], line)
        for arguments, line in [
            (given, "5 rows of 2 numbers: give 1 to 4 rows"),
            (["--frames=6"], "give one of 6 frames as --low_res"),
            (["--task=predict", f"--input={video}"], "give one of 4 frames as --low_res"),
        ]
    ))  # fmt: skip
