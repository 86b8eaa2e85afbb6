import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvid.diffusion.loss import WEIGHTINGS, by_noise_level, frame_errors
from jaxvid.diffusion.process import PREDICTIONS, PROCESSES, corrupt, regression_target
from jaxvid.errors import InputError

NOISE = jnp.array([[0.1, 0.4, 0.95], [0.2, 0.5, 0.8]])
SHAPE = (2, 3, 4, 4, 3)


def normals(seed, count, shape=SHAPE):
    return [jax.random.normal(key, shape) for key in jax.random.split(jax.random.key(seed), count)]


@pytest.mark.parametrize("name", ["rectified_flow", "vp_cosine", "edm"])
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_perfect_prediction_has_no_error_in_any_space(name, prediction):
    process, noise = PROCESSES[name], jnp.maximum(NOISE, 0.4)
    x0, eps = normals(0, 2)
    x_t = corrupt(process, x0, eps, noise)
    perfect = regression_target(process, x0, eps, noise, prediction)
    for space in PREDICTIONS:
        perfectly, wrongly = (
            frame_errors(process, output, x_t, x0, eps, noise, prediction, space)
            for output in (perfect, perfect + 0.1)
        )
        assert (wrongly > 0).all()
        assert (perfectly < 1e-5 * wrongly).all()


def test_space_equal_to_the_prediction_is_the_plain_mean_squared_error():
    process = PROCESSES["cosine"]
    x0, eps, output = normals(1, 3)
    x_t = corrupt(process, x0, eps, NOISE)
    errors = frame_errors(process, output, x_t, x0, eps, NOISE, "eps", "eps")
    np.testing.assert_allclose(errors, np.mean(np.square(output - eps), (2, 3, 4)), rtol=1e-5)


# d target / d x0 at fixed x_t, by hand from equations (1)-(3) of `process`.
SLOPES = {
    ("rectified_flow", "velocity"): lambda t: -1 / t,
    ("rectified_flow", "eps"): lambda t: -(1 - t) / t,
    ("cosine", "velocity"): lambda t: -np.pi / 2 / np.sin(np.pi / 2 * t),
    ("cosine", "eps"): lambda t: -1 / np.tan(np.pi / 2 * t),
    ("cosine", "v"): lambda t: -1 / np.sin(np.pi / 2 * t),
}


@pytest.mark.parametrize(("name", "space"), SLOPES)
def test_another_space_weighs_x0_errors_by_the_squared_slope(name, space):
    process = PROCESSES[name]
    x0, eps, output = normals(2, 3)
    x_t = corrupt(process, x0, eps, NOISE)
    in_x0, in_space = (
        frame_errors(process, output, x_t, x0, eps, NOISE, "x0", s) for s in ("x0", space)
    )
    slope = SLOPES[name, space](np.asarray(NOISE))
    np.testing.assert_allclose(in_space, in_x0 * slope**2, rtol=1e-4)


# The papers' weights of |x0_hat - x0|^2, in float64.
PUBLISHED = {
    "min_snr": lambda alpha, sigma: np.minimum(alpha**2 / sigma**2, 5),
    "sigmoid": lambda alpha, sigma: (
        (alpha / sigma) ** 2 / (1 + np.exp(np.log(alpha**2 / sigma**2) + 3))
    ),
    "edm": lambda alpha, sigma: (sigma**2 + (alpha * 0.5) ** 2) / (sigma * 0.5) ** 2,
}


@pytest.mark.parametrize("process", PROCESSES.values(), ids=lambda p: p.name)
@pytest.mark.parametrize("weighting", PUBLISHED)
def test_weightings_are_the_published_ones_whatever_is_predicted(process, weighting):
    noise = jnp.array([[0.35, 0.5, 0.6], [0.7, 0.8, 0.95]])
    x0, eps, output = normals(4, 3)
    x_t = corrupt(process, x0, eps, noise)
    alpha, sigma = (np.float64(f(noise)) for f in (process.alpha, process.sigma))
    for prediction in ("x0", "eps", "v"):
        plain = frame_errors(process, output, x_t, x0, eps, noise, prediction, "x0")
        errors = frame_errors(
            process, output, x_t, x0, eps, noise, prediction, "v", weighting, gamma=5, bias=-3
        )
        np.testing.assert_allclose(errors, plain * PUBLISHED[weighting](alpha, sigma), rtol=1e-3)


def test_edm_is_karras_lambda_and_no_weight_in_its_own_space():
    process, sigma = PROCESSES["edm"], np.array([0.01, 0.5, 20.0])
    noise = jnp.float32((sigma / 80) ** (1 / 7))[None].repeat(2, 0)
    x0, eps, output = normals(5, 3)
    x_t = corrupt(process, x0, eps, noise)
    weighted, plain, in_x0 = (
        frame_errors(process, output, x_t, x0, eps, noise, "edm", *space)
        for space in (("x0", "edm"), ("edm",), ("x0",))
    )
    np.testing.assert_array_equal(weighted, plain)
    published = (sigma**2 + 0.5**2) / (sigma * 0.5) ** 2
    np.testing.assert_allclose(weighted, published * in_x0, rtol=1e-3)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("name", ["rectified_flow", "vp_linear_zero_snr", "edm"])
def test_weighted_errors_and_gradients_are_finite_at_both_ends(name, weighting):
    process, noise = PROCESSES[name], jnp.array([[0, 1e-9, 1e-3], [1 - 1e-3, 1 - 6e-8, 1]])
    x0, eps, output = normals(6, 3)
    x_t = corrupt(process, x0, eps, noise)

    def total(output):
        errors = [
            frame_errors(process, output, x_t, x0, eps, noise, p, p, weighting) for p in PREDICTIONS
        ]
        return jnp.sum(jnp.stack(errors))

    value, gradient = jax.value_and_grad(total)(output)
    assert jnp.isfinite(value)
    assert jnp.isfinite(gradient).all()
    assert (gradient != 0).any()


def test_limits_of_the_weights():
    """gamma and exp(bias) for clean frames, 0 for pure noise."""
    process, noise = PROCESSES["cosine"], jnp.array([[0.0, 1e-4, 1.0]] * 2)
    x0, eps, output = normals(7, 3)
    x_t = corrupt(process, x0, eps, noise)
    plain = frame_errors(process, output, x_t, x0, eps, noise, "x0", "x0")
    for weighting, limit in (("min_snr", 2.5), ("sigmoid", np.exp(1.5))):
        errors = frame_errors(
            process, output, x_t, x0, eps, noise, "x0", "x0", weighting, gamma=2.5, bias=1.5
        )
        np.testing.assert_allclose(errors, plain * np.array([limit, limit, 0]), rtol=1e-5)


@pytest.mark.parametrize(
    ("weighting", "gamma", "message"),
    [("minsnr", 5.0, "'minsnr'.*min_snr"), ("min_snr", 0.0, r"gamma.*0\.0.*above 0")],
)
def test_bad_weightings(weighting, gamma, message):
    x = jnp.zeros(SHAPE)
    with pytest.raises(InputError, match=message):
        frame_errors(PROCESSES["cosine"], x, x, x, x, NOISE, "x0", "x0", weighting, gamma=gamma)


@pytest.mark.parametrize("process", PROCESSES.values(), ids=lambda p: p.name)
def test_observed_frames_give_neither_loss_nor_gradient(process):
    x0, eps, output = normals(3, 3)
    unknown = jnp.array([[False, True, True], [True, False, True]])
    noise = jnp.where(unknown, jnp.maximum(NOISE, 0.2), 0)
    x_t = corrupt(process, x0, eps, noise)

    def loss(output):
        errors = frame_errors(process, output, x_t, x0, eps, noise, "x0", "velocity")
        return by_noise_level(errors, noise, unknown, bins=2)[0].sum()

    value, gradient = jax.value_and_grad(loss)(output)
    assert jnp.isfinite(value)
    moved = (jnp.abs(gradient) > 0).any((2, 3, 4))
    np.testing.assert_array_equal(moved, unknown)


def test_bins_partition_the_unknown_frames():
    noise = jnp.array([[0.0, 0.24, 0.25], [0.6, 0.99, 1.0]])
    errors = jnp.array([[1.0, 2.0, 4.0], [jnp.nan, 16.0, 32.0]])
    unknown = jnp.array([[True, True, True], [False, True, True]])
    sums, counts = by_noise_level(errors, noise, unknown, bins=4)
    np.testing.assert_array_equal(sums, [3, 4, 0, 48])
    np.testing.assert_array_equal(counts, [2, 1, 0, 2])
