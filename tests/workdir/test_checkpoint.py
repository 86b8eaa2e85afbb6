import shutil

import jax
import numpy as np
import pytest

from jaxvid.build import build
from jaxvid.errors import InputError
from jaxvid.parallel import rules
from jaxvid.training import ema
from jaxvid.training.state import from_parts, to_parts
from jaxvid.workdir.checkpoint import Checkpoints, Snapshots

WIDTHS = (0.05, 0.1)


@pytest.fixture
def run(config, batch):
    config.ema.widths = WIDTHS
    run = build(config, jax.devices()[:1])
    return run.init, run.state, run.train_step


def average(snapshots, width, abstract):
    kept, steps = snapshots.averages(abstract), snapshots.steps
    return ema.reconstruct(kept, snapshots.widths, steps, width, steps[-1])


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(a), jax.device_get(b))


def test_what_is_saved_is_the_state_of_that_step_though_training_goes_on(run, batch, tmp_path):
    """The step donates its state: the save must not read it after it has been given up."""
    init, abstract, step = run
    state, kept = init(), {}
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        for i in range(1, 7):
            state, _ = step(state, batch)
            kept[i] = jax.tree.map(np.array, jax.device_get(state))
            checkpoints.save(i, to_parts(state))
        checkpoints.wait()
        assert checkpoints.steps == [5, 6]
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        same(from_parts(checkpoints.restore(to_parts(abstract))), kept[6])
        same(checkpoints.restore_part("ema", abstract.ema), kept[6].ema)


def test_a_checkpoint_is_restored_onto_another_mesh(config, run, tmp_path):
    init, _, _ = run
    state = init()
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(1, to_parts(state))
    config.mesh.update(data=2, fsdp=4)
    spread = build(config).state
    with Checkpoints(tmp_path) as checkpoints:
        restored = from_parts(checkpoints.restore(to_parts(spread)))
    same(restored, state)
    assert rules.bytes_of_part(restored) < rules.bytes_of_part(state)


@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_damaged_newest_checkpoint_is_put_aside_for_the_one_before(
    run, batch, tmp_path, capsys, damage
):
    """And once more: the run comes past the same step again, and that one may be damaged too."""
    init, abstract, step = run
    state = init()
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        checkpoints.save(1, to_parts(state))
        before = jax.tree.map(np.array, jax.device_get(state))
        state, _ = step(state, batch)
    for times in (1, 2):
        with Checkpoints(tmp_path, keep=2) as checkpoints:
            checkpoints.save(2, to_parts(state))
        files = [f for f in (tmp_path / "checkpoints/2/train").rglob("*") if f.is_file()]
        victim = max(files, key=lambda f: f.stat().st_size)
        if damage == "gone":
            victim.unlink()
        else:
            victim.write_bytes(victim.read_bytes()[: victim.stat().st_size // 2])
        with Checkpoints(tmp_path, keep=2) as checkpoints:
            same(from_parts(checkpoints.restore(to_parts(abstract))), before)
            assert checkpoints.steps == [1]
        (warning,) = capsys.readouterr().err.splitlines()
        assert "step 2 is damaged (" in warning
        assert len(list((tmp_path / "checkpoints-damaged").iterdir())) == times


def test_without_a_checkpoint_there_is_nothing_to_sample(run, tmp_path):
    _, abstract, _ = run
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore(to_parts(abstract)) is None
        with pytest.raises(InputError, match="no checkpoint"):
            checkpoints.restore_part("ema", abstract.ema)


def test_reading_leaves_what_a_run_is_writing_in_its_place(run, tmp_path):
    init, abstract, _ = run
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(1, to_parts(init()))
    begun = tmp_path / "checkpoints/2.orbax-checkpoint-tmp"
    (tmp_path / "checkpoints/1").rename(begun)
    (begun / "commit_success.txt").unlink()
    (tmp_path / "checkpoints/0").mkdir()  # damaged
    with (
        Checkpoints(tmp_path) as checkpoints,
        pytest.raises(InputError, match="no usable checkpoint"),
    ):
        checkpoints.restore_part("ema", abstract.ema)
    assert begun.is_dir()
    assert (tmp_path / "checkpoints/0").is_dir()
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(3, to_parts(init()))
    assert not begun.exists()


def test_snapshots_all_stay_and_the_first_of_a_step_counts(run, batch, tmp_path):
    """A run that was killed comes past some steps again; and the step donates its state."""
    init, abstract, step = run
    state, kept = init(), {}
    with Snapshots(tmp_path, WIDTHS, "float32") as snapshots:
        for i in (1, 2, 3, 2):
            state, _ = step(state, batch)
            kept.setdefault(i, jax.tree.map(np.array, jax.device_get(state.profiles)))
            snapshots.save(i, state.profiles)
    assert not (tmp_path / "checkpoints").exists()
    for newest in (3, 2, 1):
        with Snapshots(tmp_path, WIDTHS) as snapshots:
            assert snapshots.steps == list(range(1, newest + 1))
            for width, profile in zip(WIDTHS, kept[newest], strict=True):
                got, missed = average(snapshots, width, abstract.params)
                jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), got, profile)
                assert missed < 1e-6
        shutil.rmtree(tmp_path / f"snapshots/{newest}")


def test_snapshots_of_half_the_bytes_are_read_beside_older_ones(tmp_path):
    rng = np.random.default_rng(0)
    profiles = tuple({"w": jax.numpy.array(rng.normal(size=(64, 256)), "float32")} for _ in WIDTHS)
    sizes = []
    for step, dtype in enumerate(("float32", "float16", "bfloat16")):
        with Snapshots(tmp_path, WIDTHS, dtype) as snapshots:
            snapshots.save(step, profiles)
        files = (tmp_path / f"snapshots/{step}").rglob("*")
        sizes.append(sum(file.stat().st_size for file in files if file.is_file()))
    assert max(sizes[1:]) < 0.6 * sizes[0]
    with Snapshots(tmp_path, WIDTHS) as snapshots:
        saved = [tree["w"] for tree in snapshots.averages(profiles[0])]
    assert {x.dtype for x in saved} == {np.dtype("float32")}
    for step, rounding in enumerate((0, 2**-11, 2**-8)):
        for got, profile in zip(saved[2 * step :], profiles, strict=False):
            np.testing.assert_allclose(got, profile["w"], rtol=rounding, atol=1e-7)


def test_without_good_snapshots_there_is_no_average_of_another_width(run, tmp_path):
    init, abstract, _ = run
    with pytest.raises(InputError, match="has no snapshots"), Snapshots(tmp_path, ()) as snapshots:
        snapshots.averages(abstract.params)
    assert not (tmp_path / "snapshots").exists()
    with Snapshots(tmp_path, WIDTHS, "float32") as snapshots:
        with pytest.raises(InputError, match="no snapshot"):
            snapshots.averages(abstract.params)
        snapshots.save(1, init().profiles)
    with Snapshots(tmp_path, WIDTHS) as snapshots:
        shutil.rmtree(tmp_path / "snapshots/1/0.1")
        with pytest.raises(InputError, match=r"is damaged.*move it away"):
            list(snapshots.averages(abstract.params))
