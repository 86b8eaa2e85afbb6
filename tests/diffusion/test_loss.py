import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvid.diffusion.loss import by_noise_level, frame_errors
from jaxvid.diffusion.process import PREDICTIONS, PROCESSES, corrupt, regression_target

NOISE = jnp.array([[0.1, 0.4, 0.95], [0.2, 0.5, 0.8]])
SHAPE = (2, 3, 4, 4, 3)


def normals(seed, count, shape=SHAPE):
    return [jax.random.normal(key, shape) for key in jax.random.split(jax.random.key(seed), count)]


@pytest.mark.parametrize("process", PROCESSES.values(), ids=lambda p: p.name)
@pytest.mark.parametrize(("prediction", "space"), list(itertools.product(PREDICTIONS, PREDICTIONS)))
def test_a_perfect_prediction_has_no_error_in_any_space(process, prediction, space):
    x0, eps = normals(0, 2)
    x_t = corrupt(process, x0, eps, NOISE)
    perfect = regression_target(process, x0, eps, NOISE, prediction)
    errors = frame_errors(process, perfect, x_t, x0, eps, NOISE, prediction, space)
    np.testing.assert_allclose(errors, 0, atol=1e-8)
    wrong = frame_errors(process, perfect + 0.1, x_t, x0, eps, NOISE, prediction, space)
    assert (wrong > 1e-5).all()


def test_space_equal_to_the_prediction_is_the_plain_mean_squared_error():
    process = PROCESSES["cosine"]
    x0, eps, output = normals(1, 3)
    x_t = corrupt(process, x0, eps, NOISE)
    errors = frame_errors(process, output, x_t, x0, eps, NOISE, "eps", "eps")
    np.testing.assert_allclose(errors, np.mean(np.square(output - eps), (2, 3, 4)), rtol=1e-5)


# d target / d x0 at fixed x_t, by hand from equations (1)-(4) of `process`.
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


@pytest.mark.parametrize("process", PROCESSES.values(), ids=lambda p: p.name)
def test_observed_frames_give_neither_loss_nor_gradient(process):
    x0, eps, output = normals(3, 3)
    unknown = jnp.array([[False, True, True], [True, False, True]])
    noise = jnp.where(unknown, NOISE, 0)
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
