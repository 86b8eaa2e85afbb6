import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvid.diffusion.process import (
    FLOOR,
    PREDICTIONS,
    PROCESSES,
    convert,
    corrupt,
    regression_target,
)
from jaxvid.errors import InputError

PAIRS = list(itertools.product(PREDICTIONS, PREDICTIONS))


@pytest.fixture(params=PROCESSES)
def process(request):
    return PROCESSES[request.param]


def frames(noise, dtype=jnp.float32):
    """Random x0 and eps [1, T, 3, 4, 2] for the levels `noise` [1, T]."""
    shape = (1, len(noise), 3, 4, 2)
    x0, eps = (jax.random.normal(key, shape, dtype) for key in jax.random.split(jax.random.key(0)))
    return x0, eps, jnp.array([noise], jnp.float32)


def test_no_signal_at_one_and_no_noise_at_zero(process):
    assert process.alpha(jnp.float32(1)) == 0
    assert process.sigma(jnp.float32(1)) == 1
    assert process.alpha(jnp.float32(0)) == 1
    assert process.sigma(jnp.float32(0)) == 0


def test_cosine_preserves_variance_and_rectified_flow_is_straight():
    t = jnp.linspace(0, 1, 101)
    cosine, flow = PROCESSES["cosine"], PROCESSES["rectified_flow"]
    np.testing.assert_allclose(cosine.alpha(t) ** 2 + cosine.sigma(t) ** 2, 1, rtol=1e-6)
    np.testing.assert_allclose(cosine.alpha(t), jnp.cos(jnp.pi / 2 * t), atol=1e-6)
    np.testing.assert_allclose(flow.alpha(t) + flow.sigma(t), 1, rtol=1e-6)


def test_velocity_is_the_slope_of_the_path(process):
    x0, eps, noise = frames([0.1, 0.4, 0.7, 0.9])
    h = 1e-2
    slope = (corrupt(process, x0, eps, noise + h) - corrupt(process, x0, eps, noise - h)) / (2 * h)
    velocity = regression_target(process, x0, eps, noise, "velocity")
    np.testing.assert_allclose(slope, velocity, atol=1e-3)


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_every_conversion_meets_its_definition(process, source, target):
    x0, eps, noise = frames([0.01, 0.2, 0.5, 0.8, 0.99])
    x_t = corrupt(process, x0, eps, noise)
    value, expected = (regression_target(process, x0, eps, noise, p) for p in (source, target))
    converted = convert(process, value, x_t, noise, source, target)
    np.testing.assert_allclose(converted, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_conversions_round_trip_whatever_the_network_said(process, source, target):
    value, x_t, noise = frames([0.1, 0.5, 0.9])
    there = convert(process, value, x_t, noise, source, target)
    np.testing.assert_allclose(
        convert(process, there, x_t, noise, target, source), value, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_same_prediction_is_unchanged(process, prediction):
    value, x_t, noise = frames([0, 0.3, 1])
    same = convert(process, value, x_t, noise, prediction, prediction)
    np.testing.assert_array_equal(same, value)


@pytest.mark.parametrize("source", PREDICTIONS)
def test_values_and_gradients_are_finite_at_and_near_both_ends(process, source):
    tiny = np.finfo(np.float32).tiny
    value, x_t, noise = frames([0, tiny, 1e-9, FLOOR, 1e-3, 1 - 1e-3, 1 - FLOOR, 1 - 6e-8, 1])

    @jax.jit
    def total(value, x_t, noise):
        converted = [convert(process, value, x_t, noise, source, p) for p in PREDICTIONS]
        return jnp.sum(jnp.stack(converted) ** 2)

    results = jax.value_and_grad(total, argnums=(0, 1, 2))(value, x_t, noise)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(results))


def test_what_is_unknown_at_an_end_is_zero_and_the_rest_is_exact(process):
    x0, eps, noise = frames([0, 1])
    x_t = corrupt(process, x0, eps, noise)
    assert jnp.all(convert(process, x0, x_t, noise, "x0", "eps")[:, 0] == 0)
    assert jnp.all(convert(process, eps, x_t, noise, "eps", "x0")[:, 1] == 0)
    np.testing.assert_array_equal(convert(process, x0, x_t, noise, "x0", "eps")[:, 1], eps[:, 1])
    np.testing.assert_array_equal(convert(process, eps, x_t, noise, "eps", "x0")[:, 0], x0[:, 0])
    for source in ("v", "velocity"):
        value = regression_target(process, x0, eps, noise, source)
        for target, expected in (("x0", x0), ("eps", eps)):
            found = convert(process, value, x_t, noise, source, target)
            np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("target", PREDICTIONS)
def test_float32_whatever_comes_in(process, target):
    x0, eps, noise = frames([0.3, 0.6], jnp.bfloat16)
    x_t = corrupt(process, x0, eps, noise)
    assert x_t.dtype == jnp.float32
    np.testing.assert_array_equal(
        x_t, corrupt(process, x0.astype(jnp.float32), eps.astype(jnp.float32), noise)
    )
    assert convert(process, x0, x_t, noise, "x0", target).dtype == jnp.float32


@pytest.mark.parametrize(("source", "target"), [("vv", "x0"), ("x0", "vv"), ("vv", "vv")])
def test_an_unknown_prediction_is_named(process, source, target):
    value, x_t, noise = frames([0, 1])
    with pytest.raises(InputError, match=r"'vv'.*velocity"):
        convert(process, value, x_t, noise, source, target)
