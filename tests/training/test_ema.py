import gc
import itertools
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvid import config as configs
from jaxvid.errors import InputError
from jaxvid.training import ema

WIDTHS = (0.05, 0.10)


def walk(steps):
    """Parameters at each of the steps 1, 2, …: a curve, and noise on it, of size 1."""
    rng = np.random.default_rng(0)
    t = np.arange(1, steps + 1)[:, None]
    return np.cos(t / 40 + np.arange(16)) + rng.normal(0, 0.3, (steps, 16))


def average(params, width, step):
    """The definition, in float64: s^gamma, taken over each step's interval, up to `step`."""
    edges = (np.arange(step + 1) / step) ** (ema.gamma_of(width) + 1)
    return np.diff(edges) @ params[:step]


def snapshots_of(params, count):
    """Of two profiles, at `count` steps evenly spaced: the averages, the widths and the steps."""
    steps = range(len(params) // count, len(params) + 1, len(params) // count)
    kept = [average(params, width, step) for step, width in itertools.product(steps, WIDTHS)]
    return [{"w": jnp.asarray(x, jnp.float32)} for x in kept], WIDTHS, steps


def test_exponents_are_those_of_the_paper_and_their_profiles_have_the_width():
    assert ema.gamma_of(0.05) == pytest.approx(16.97, abs=0.005)
    assert ema.gamma_of(0.10) == pytest.approx(6.94, abs=0.005)
    t = (np.arange(100_000) + 0.5) / 100_000
    for width in (0.02, 0.05, 0.10, 0.2, 0.28):
        profile = t ** ema.gamma_of(width)
        mean = np.average(t, weights=profile)
        std = np.sqrt(np.average((t - mean) ** 2, weights=profile))
        assert std == pytest.approx(width, rel=1e-4)


@pytest.mark.parametrize("width", [0.0, -0.1, 0.29, float("nan")])
def test_a_width_out_of_range_is_refused(width):
    with pytest.raises(InputError, match="must be above 0 and at most"):
        ema.gamma_of(width)


@pytest.mark.parametrize("widths", [(0.05, 0.3), (0.1, 0.1), 0.1, ("0.1",)])
def test_widths_that_cannot_be_kept_are_refused(config, widths):
    with config.ignore_type():
        config.ema.widths = widths
    with pytest.raises(InputError, match=r"config\.ema\.widths=.*different numbers"):
        configs.check(config)


def test_snapshots_are_due_at_an_interval_and_at_the_end(config):
    config.steps, config.ema.snapshot_every = 8, 3
    assert not any(ema.is_due(config, step) for step in range(9))
    config.ema.widths = WIDTHS
    assert [step for step in range(9) if ema.is_due(config, step)] == [3, 6, 8]


@pytest.mark.parametrize("width", [0.05, 0.28])
def test_updates_add_up_to_the_weighted_sum_of_all_parameters(width):
    params = walk(300)
    update = jax.jit(lambda *args: ema.update(*args, width))
    state = jnp.full(16, 1e3)  # what was there before the first step leaves no trace
    for step, now in enumerate(params, 1):
        state = update(state, jnp.asarray(now, jnp.float32), jnp.asarray(step, jnp.int32))
    np.testing.assert_allclose(state, average(params, width, 300), atol=2e-6)


def test_the_rate_keeps_its_digits_late_in_training():
    t, width = 1_000_000, 0.28
    exact = -np.expm1((ema.gamma_of(width) + 1) * np.log1p(-1 / np.float64(t)))
    assert float(ema.update_rate(jnp.int32(t), width)) == pytest.approx(exact, rel=1e-6)


@pytest.mark.parametrize("width", [0.07, 0.15, 0.2])
def test_a_third_profile_is_met_and_better_with_more_snapshots(width):
    params = walk(512)
    exact, errors, missed = average(params, width, 512), [], []
    for count in (4, 8, 16, 32):
        got, off = ema.reconstruct(*snapshots_of(params, count), width, 512)
        errors.append(np.linalg.norm(got["w"] - exact) / np.linalg.norm(exact))
        missed.append(off)
    assert (np.diff(missed) < 0).all()
    assert errors[-1] < 0.2 * errors[0]
    assert errors[-1] < 2e-3
    assert missed[-1] < 0.01


def test_rounding_of_snapshots_adds_little_to_what_reconstruction_misses():
    params = walk(512)
    trees, *rest = snapshots_of(params, 16)
    exact, errors = average(params, 0.15, 512), []
    for dtype in ("float32", "float16"):
        kept = [{"w": tree["w"].astype(dtype).astype("float32")} for tree in trees]
        got, _ = ema.reconstruct(kept, *rest, 0.15, 512)
        errors.append(np.linalg.norm(got["w"] - exact))
    assert errors[1] < 1.1 * errors[0]


def test_what_was_kept_comes_back_as_it_was():
    trees, widths, steps = snapshots_of(walk(64), 8)
    for i, (step, width) in enumerate(itertools.product(steps, widths)):
        got, missed = ema.reconstruct(trees, widths, steps, width, step)
        np.testing.assert_allclose(got["w"], trees[i]["w"], atol=1e-6)
        assert missed < 1e-6


def test_weights_are_the_best_there_are():
    """Against least squares on profiles sampled finely: no formula of inner products."""
    _, widths, steps = snapshots_of(np.zeros((8, 1)), 4)
    t = (np.arange(80_000) + 0.5) / 10_000

    def profile(width, step):
        gamma = ema.gamma_of(width)
        return np.where(t < step, (gamma + 1) * t**gamma / step ** (gamma + 1), 0)

    basis = np.stack(
        [profile(width, step) for step, width in itertools.product(steps, widths)], axis=1
    )
    wanted = profile(0.15, 7)
    best, _, _, _ = np.linalg.lstsq(basis, wanted)
    weights, missed = ema.solve_weights(widths, steps, 0.15, 7)
    np.testing.assert_allclose(weights, best, atol=1e-3)
    left = np.linalg.norm(basis @ best - wanted) / np.linalg.norm(wanted)
    assert missed == pytest.approx(left, rel=1e-3)


def test_one_snapshot_is_in_memory_at_a_time():
    trees, widths, steps = snapshots_of(walk(64), 4)
    alive = []

    def read():
        for tree in trees:
            if any(ref() is not None for ref in alive):
                gc.collect()  # walks all that JAX has kept of other tests
            assert not any(ref() is not None for ref in alive)
            copy = {"w": tree["w"] + 0}
            alive.append(weakref.ref(copy["w"]))
            yield copy
            del copy

    got, _ = ema.reconstruct(read(), widths, steps, 0.15, 64)
    assert len(alive) == len(trees)
    assert np.isfinite(got["w"]).all()
