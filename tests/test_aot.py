import importlib.util
import json

import jax
import numpy as np
import pytest

from jaxvid.models.flops import train_flops
from jaxvid.parallel.chips import CHIPS
from jaxvid.parallel.mesh import AXES
from jaxvid.pods import search, tables
from jaxvid.pods.budget import Budget, checked, given, measure
from jaxvid.pods.layouts import changed, lighter, shapes
from jaxvid.pods.search import Pod, nearest_that_fits, sweep
from tests.commands import attempt, mistakes

TINY = "--config=tests/tiny.py"
V5E = CHIPS["v5e"]


@pytest.fixture
def small(config):
    """Compiles in a few seconds, and has what a budget tells apart."""
    config.model.update(blocks="mlp", depth=2)
    config.ema.widths = (0.1,)
    return config


def test_a_step_that_does_not_fit_is_told_and_the_nearest_that_does_is_found(small):
    small.batch_size, devices = 2, jax.devices()[:2]
    run = checked(small, devices, "train")
    # Replicated, the state alone is too large; over two devices all of it fits.
    chip = V5E._replace(memory=sum(given(run, "train").values()) - 1)
    too_large = measure(run, chip, "train")
    assert not too_large.fits
    assert too_large.compile_s == 0
    assert "It does not fit: " in tables.describe(too_large, chip)
    (changes, nearest), *more = nearest_that_fits(small, too_large, Pod(devices, chip, "train"), 3)
    assert changes == {"mesh.data": 1, "mesh.fsdp": 2}
    assert nearest.fits
    assert not more
    assert nearest.needs == sum(nearest.memory.values()) <= chip.memory

    # What it says of the memory is half of each matrix, and of what follows it.
    sharded = checked(changed(small, changes), devices, "train")
    whole = sum(4 * x.size for x in jax.tree.leaves(sharded.params))
    assert 0.5 * whole <= nearest.memory["parameters"] < 0.7 * whole
    assert nearest.memory["averages"] == 2 * nearest.memory["parameters"]

    # The network's FLOPs are those of its jaxpr, and the least time follows from the peaks.
    flops = sum(train_flops(*sharded.network_call(small.batch_size)).values())
    assert nearest.flops == flops
    assert 2 * nearest.compiled_flops == pytest.approx(flops, rel=0.2)
    assert nearest.seconds["compute"] >= flops / (2 * V5E.peak)
    assert nearest.seconds["hbm"] == nearest.hbm_bytes / V5E.bandwidth
    assert nearest.mfu == pytest.approx(flops / (2 * V5E.peak * nearest.least_s))
    assert {c.axes for c in nearest.collectives if c.kind == "all-gather"} == {"fsdp"}
    text = tables.describe(nearest, chip)
    assert "mesh fsdp=2; 2 clips" in text
    assert "| all-gather | fsdp | ICI | " in text
    assert json.loads(json.dumps(nearest.as_json()))["bound"] == nearest.bound


def test_the_sampler_has_no_averages_and_runs_the_network_at_every_step(small):
    devices = jax.devices()[:1]
    small.sampler.update(batch_size=4, steps=3, cfg_scale=2.0)
    budgets = [
        measure(checked(changed(small, {"sampler.steps": n}), devices, "sample"), V5E, "sample")
        for n in (3, 6)
    ]
    three, six = budgets
    assert three.clips == 4
    assert set(three.memory) & {"averages", "optimizer"} == set()
    assert three.memory["parameters"] == six.memory["parameters"] > 0
    assert six.flops == 2 * three.flops
    assert (three.compiled_flops, six.compiled_flops) == (three.flops, six.flops)
    assert not three.collectives


def test_a_sweep_ranks_by_time_per_clip_and_says_what_it_left_out(small, monkeypatch):
    small.model.heads, compiled = 1, []

    def made_up(run, chip, program):
        """As if the time grew with `fsdp`, and 16 clips were too many."""
        compiled.append((str(run.mesh.shape), run.config.batch_size))
        mesh = {axis: size for axis, size in run.mesh.shape.items() if size > 1}
        clips, seconds = run.config.batch_size, {"compute": 1.0 + run.mesh.shape["fsdp"]}
        return Budget(mesh, clips, 1.0, {}, 1, 2, clips < 16, seconds=seconds)

    monkeypatch.setattr(search, "measure", made_up)
    pod = Pod(jax.devices()[:2], V5E, "train")
    found = sweep(small, pod, 1, [8, 16, 32, 4], tries=100)
    per_clip = [budget.per_clip_s for _, budget in found.ranked]
    assert per_clip == sorted(per_clip)
    assert found.ranked[0].budget.mesh == {"data": 2}
    # Where 16 clips do not fit, 32 are not tried; where 8 fit, 4 are not.
    assert {one.budget.clips for one in found.found} == {8, 16}
    assert len(set(compiled)) == len(compiled)
    text = tables.ranking(found)
    assert text.startswith("| settings | clips |")
    assert "data=2 batch_size=16: does not fit: " in text
    assert any("config.model.heads=1 does not divide" in reason for reason in found.refused)
    assert not found.not_tried
    short = sweep(small, pod, 1, [8], tries=1)
    assert len(short.found) == 1
    assert "not tried: 2, such as fsdp=2" in tables.ranking(short)


def test_shapes_are_all_factorings_once():
    found = shapes(16, 2)
    sizes = [tuple(shape[f"mesh.{axis}"] for axis in AXES) for shape in found]
    assert len(set(sizes)) == len(sizes)
    assert {np.prod(shape) for shape in sizes} == {16}
    assert {shape[0] for shape in sizes} == {2}
    axes = len(AXES) - 1
    assert len(sizes) == np.prod([axes + i for i in range(3)]) / 6  # 8 = 2^3 over the axes


def test_lighter_settings_keep_the_results_until_the_last(small):
    small.batch_size = 32
    mesh = dict.fromkeys(AXES, 1) | {"data": 4}
    found = list(lighter(small, mesh))
    assert found[0] == {"optimizer.accumulate": 2}
    assert found[1] == {"mesh.data": 1, "mesh.fsdp": 4}
    assert [changes for changes in found if "batch_size" in changes] == found[-1:]
    assert found[-1]["batch_size"] == 4
    least = found[-2]
    assert least["optimizer.accumulate"] == 8
    assert least["model.remat"] == "full"


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0 B"), (1536, "1.536 kB"), (2.5e-4, "250 µB"), (3e20, "3e+05 PB")]
)
def test_amounts_have_steps_of_a_thousand(value, text):
    assert tables.amount(value, "B") == text


def test_what_cannot_be_compiled_for_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    mistakes(
        "aot",
        (["--topology=v5e:4x4"], "give --config=FILE.py, such"),
        ([TINY], "give --topology=GENERATION:SHAPE of a slice"),
        ([TINY, "--topology=v3:4x4"], "--topology=v3:4x4: give GENERATION:SHAPE, as in v4:"),
        (
            [TINY, "--topology=v5e:4x4", "--program=draw"],
            "--program=draw: value should be one of <train|sample>",
        ),
        ([TINY, "--topology=v5e:4x4", "--batch_sizes=8,a"], "--batch_sizes=8,a: give numbers"),
        ([TINY, "--topology=v5e:4x4", "--slices=0"], "--slices=0: it must be"),
        ([TINY, "--topology=v5e:4x4", f"--json={tmp_path}/file/a"], "it is a file"),
    )


@pytest.mark.skipif(bool(importlib.util.find_spec("libtpu")), reason="libtpu is installed")
def test_a_missing_compiler_is_one_line():
    mistakes("aot", ([TINY, "--topology=v5e:4x4"], 'pip install "jax[tpu]"'))


@pytest.mark.skipif(not importlib.util.find_spec("libtpu"), reason="needs libtpu")
def test_a_pod_that_is_not_there(tmp_path):
    mistakes(
        "aot",
        ([TINY, "--topology=v5e:3x5"], "--topology=v5e:3x5: Topology layout"),
        ([TINY, "--topology=v5e:2x2", "--slices=2"], "config.mesh.replica=1: the devices are in 2"),
    )
    code, out, err = attempt(
        "jaxvid.aot", TINY, "--topology=v5e:2x2", f"--json={tmp_path}/a.json",
        "--config.model.blocks=mlp", "--config.mesh.data=1", "--config.mesh.fsdp=4",
    )  # fmt: skip
    assert code == 0, err
    found = json.loads((tmp_path / "a.json").read_text())
    assert found["fits"]
    assert found["mesh"] == {"fsdp": 4}
    assert {c["axes"] for c in found["collectives"] if c["kind"] == "all-gather"} == {"fsdp"}
    assert "It fits: " in out
