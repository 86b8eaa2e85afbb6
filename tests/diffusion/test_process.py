import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvid.diffusion.process import (
    FIRST_STEP,
    FLOOR,
    PREDICTIONS,
    PROCESSES,
    SIGMA_DATA,
    convert,
    corrupt,
    input_scale,
    inverse_logsnr,
    logsnr,
    regression_target,
    zero_terminal_snr,
)
from jaxvid.errors import InputError


@pytest.fixture(params=PROCESSES)
def process(request):
    return PROCESSES[request.param]


def frames(noise, dtype=jnp.float32):
    """Random x0 and eps [1, T, 3, 4, 2] for the levels `noise` [1, T]."""
    shape = (1, len(noise), 3, 4, 2)
    x0, eps = (jax.random.normal(key, shape, dtype) for key in jax.random.split(jax.random.key(0)))
    return x0, eps, jnp.array([noise], jnp.float32)


def formulas(name, t):
    """The published (alpha, sigma), in float64."""
    match name:
        case "rectified_flow":
            return 1 - t, t
        case "edm":
            return np.ones_like(t), (t * 80 ** (1 / 7)) ** 7
        case "cosine":
            alpha_bar = np.cos(np.pi / 2 * t) ** 2
        case "vp_cosine":
            f = [np.cos((u + 0.008) / 1.008 * np.pi / 2) ** 2 for u in (t, 0)]
            alpha_bar = f[0] / f[1]
        case "vp_linear" | "vp_linear_zero_snr":
            alpha_bar = np.exp(-(0.1 * t + 19.9 * t**2 / 2))
    if name == "vp_linear_zero_snr":
        last = np.exp(-(0.1 + 19.9 / 2) / 2)
        alpha_bar = ((np.sqrt(alpha_bar) - last) / (1 - last)) ** 2
    return np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar)


def test_published_formulas(process):
    t = np.linspace(FIRST_STEP, 1, 1001)
    found = [f(jnp.float32(t)) for f in (process.alpha, process.sigma)]
    for ours, published in zip(found, formulas(process.name, t), strict=True):
        np.testing.assert_allclose(ours, published, rtol=1e-5, atol=3e-7)


def test_clean_at_zero_and_ever_noisier(process):
    assert process.alpha(jnp.float32(0)) == 1
    assert process.sigma(jnp.float32(0)) == 0
    assert (np.diff(logsnr(process, jnp.linspace(0, 1, 1001))) < 0).all()


@pytest.mark.parametrize("name", ["vp_linear", "vp_cosine"])
def test_zero_terminal_snr_is_exactly_pure_noise(name):
    process = zero_terminal_snr(PROCESSES[name])
    x0, eps, noise = frames([1])
    np.testing.assert_array_equal(corrupt(process, x0, eps, noise), eps)
    jitted = jax.jit(lambda noise: corrupt(process, x0, eps, noise))
    np.testing.assert_array_equal(jitted(noise), eps)
    assert PROCESSES["vp_linear"].alpha(jnp.float32(1)) > 0.006


@pytest.mark.parametrize("name", ["cosine", "vp_linear", "vp_linear_zero_snr", "vp_cosine"])
def test_variance_is_preserved(name):
    t = jnp.concatenate([jnp.linspace(0, 1, 501), jnp.linspace(0, 2 * FIRST_STEP, 500)])
    process = PROCESSES[name]
    np.testing.assert_allclose(process.alpha(t) ** 2 + process.sigma(t) ** 2, 1, rtol=1e-6)


def test_edm_steps_are_karras_spacing():
    steps = 18
    ramp = np.arange(steps) / (steps - 1)
    sigma = (80 ** (1 / 7) + ramp * (0 - 80 ** (1 / 7))) ** 7
    np.testing.assert_allclose(
        PROCESSES["edm"].sigma(jnp.linspace(1, 0, steps)), sigma, rtol=1e-5, atol=1e-7
    )


def test_logsnr_and_back(process):
    t = jnp.linspace(1e-3, 1 - 1e-3, 1001)
    values = jnp.concatenate([logsnr(process, t), jnp.linspace(60, -20, 999)])
    found = inverse_logsnr(process, jnp.append(values, jnp.array([jnp.inf, -jnp.inf])))
    np.testing.assert_allclose(found[:1001], t, rtol=1e-5)
    assert (np.diff(found[1001:-2]) >= 0).all()
    np.testing.assert_array_equal(found[-2:], [0, 1])


def test_the_edm_network_sees_unit_variance_and_says_unit_variance():
    process, shape = PROCESSES["edm"], (1, 4, 100, 100, 2)
    x0, eps = (jax.random.normal(key, shape) for key in jax.random.split(jax.random.key(0)))
    noise = jnp.array([[0.0, 0.3, 0.6, 1.0]])
    x_t = corrupt(process, SIGMA_DATA * x0, eps, noise)
    F = regression_target(process, SIGMA_DATA * x0, eps, noise, "edm")
    for seen in (x_t * input_scale(process, noise), F):
        np.testing.assert_allclose(jnp.std(seen, (0, 2, 3, 4)), 1, rtol=0.03)


def test_other_networks_see_x_t_itself(process):
    scale = input_scale(process, jnp.array([[0.0, 0.5, 1.0]]))
    assert scale.shape == (1, 3, 1, 1, 1)
    assert (process.name == "edm") != bool((scale == 1).all())


@pytest.mark.parametrize("sigma", [0.002, 0.5, 80.0])
def test_edm_prediction_is_karras_preconditioning(sigma):
    """D = c_skip x + c_out F, as in table 1 of arXiv 2206.00364."""
    value, x_t, noise = frames([(sigma / 80) ** (1 / 7)])
    c_skip = 0.5**2 / (sigma**2 + 0.5**2)
    c_out = sigma * 0.5 / np.sqrt(0.5**2 + sigma**2)
    found = convert(PROCESSES["edm"], value, x_t, noise, "edm", "x0")
    np.testing.assert_allclose(found, c_skip * x_t + c_out * value, rtol=1e-4, atol=1e-6)


def test_coefficients_have_the_slopes_that_velocity_uses(process):
    t = np.linspace(0.05, 0.95, 9)
    h = 1e-5
    one, zero = jnp.ones((1, 9, 1, 1, 1)), jnp.zeros((1, 9, 1, 1, 1))
    noise = jnp.float32(t)[None]
    found = [
        regression_target(process, x0, eps, noise, "velocity").ravel()
        for x0, eps in ((one, zero), (zero, one))
    ]
    ahead, behind = formulas(process.name, t + h), formulas(process.name, t - h)
    for ours, a, b in zip(found, ahead, behind, strict=True):
        np.testing.assert_allclose(ours, (a - b) / (2 * h), rtol=2e-4, atol=1e-5)


def test_conversions_meet_their_definitions_and_round_trip_at_both_ends(process):
    """Except for the half, x0 or eps, that a prediction and x_t do not hold: it becomes 0."""
    x0, eps, noise = frames([0, 1e-9, 0.01, 0.2, 0.4, 0.6, 0.8, 0.98, 1])
    x_t = corrupt(process, x0, eps, noise)
    ones, zeros = jnp.ones((1, 9, 1, 1, 1)), jnp.zeros((1, 9, 1, 1, 1))
    units = [(ones, zeros), (zeros, ones)]
    alpha, sigma = (corrupt(process, *unit, noise) for unit in units)
    values, holds_x0, holds_eps = {}, {}, {}
    for name in PREDICTIONS:
        values[name] = regression_target(process, x0, eps, noise, name)
        p, q = (regression_target(process, *unit, noise, name) for unit in units)
        solvable = jnp.abs(alpha * q - sigma * p) >= FLOOR
        holds_x0[name], holds_eps[name] = solvable | (alpha >= FLOOR), solvable | (sigma >= FLOOR)

    def check(found, name, passed):
        halves = [
            jnp.where(functools.reduce(jnp.logical_and, map(holds.get, passed)), half, 0)
            for half, holds in ((x0, holds_x0), (eps, holds_eps))
        ]
        expected = regression_target(process, *halves, noise, name)
        scale = 1 + jnp.abs(expected).max((2, 3, 4), keepdims=True)
        np.testing.assert_allclose(found / scale, expected / scale, atol=1e-4)

    for source, target in itertools.permutations(PREDICTIONS, 2):
        there = convert(process, values[source], x_t, noise, source, target)
        check(there, target, [source])
        check(convert(process, there, x_t, noise, target, source), source, [source, target])


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_same_prediction_is_unchanged(process, prediction):
    value, x_t, noise = frames([0, 0.3, 1])
    same = convert(process, value, x_t, noise, prediction, prediction)
    np.testing.assert_array_equal(same, value)


def test_values_and_gradients_are_finite_at_and_near_both_ends(process):
    tiny = np.finfo(np.float32).tiny
    value, x_t, noise = frames([0, tiny, 1e-9, FLOOR, 1e-3, 1 - 1e-3, 1 - FLOOR, 1 - 6e-8, 1])
    # Every conversion goes by x0 and eps; only velocity is made of other things than v and edm.
    pairs = [*itertools.product(PREDICTIONS, ("x0", "eps")), ("x0", "velocity"), ("v", "velocity")]

    def total(value, x_t, noise):
        converted = [convert(process, value, x_t, noise, *pair) for pair in pairs]
        return jnp.sum(jnp.stack(converted) ** 2)

    results = jax.value_and_grad(total, argnums=(0, 1, 2))(value, x_t, noise)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(results))


def test_what_is_unknown_at_an_end_is_zero_and_the_rest_is_exact(process):
    x0, eps, noise = frames([0, 1])
    x_t = corrupt(process, x0, eps, noise)
    assert jnp.all(convert(process, x0, x_t, noise, "x0", "eps")[:, 0] == 0)
    np.testing.assert_array_equal(convert(process, eps, x_t, noise, "eps", "x0")[:, 0], x0[:, 0])
    if process.alpha(jnp.float32(1)) == 0:
        assert jnp.all(convert(process, eps, x_t, noise, "eps", "x0")[:, 1] == 0)
        there = convert(process, x0, x_t, noise, "x0", "eps")
        np.testing.assert_allclose(there[:, 1], eps[:, 1], rtol=1e-6)


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
