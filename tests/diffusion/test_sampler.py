"""On Gaussian data the best denoiser and the solution of its ODE are known in closed form.

For x0 ~ N(m, diag(s^2)),  x_t ~ N(alpha m, d^2) with d^2 = alpha^2 s^2 + sigma^2, and

    E[x0 | x_t] = m + alpha s^2 / d^2 (x_t - alpha m)
    x_t = alpha m + d x_1      solves the ODE from x_1, so it ends at  m + s x_1
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvid.diffusion.process import PREDICTIONS, PROCESSES, convert
from jaxvid.diffusion.sampler import SAMPLERS, sample, schedule
from jaxvid.errors import InputError

SHAPE = (4, 3, 4, 4, 2)
MEAN = jnp.linspace(-0.7, 0.9, 2)
STD = jnp.linspace(0.2, 1.6, 4 * 4 * 2).reshape(4, 4, 2)
NONE = np.zeros(3, bool)


def gaussian_denoiser(process, prediction):
    """The best network that predicts `prediction`, seen as a denoiser."""

    def denoise(x, noise):
        t = noise[:, :, None, None, None]
        alpha, sigma = process.alpha(t), process.sigma(t)
        variance = alpha**2 * STD**2 + sigma**2
        x0_hat = MEAN + alpha * STD**2 / variance * (x - alpha * MEAN)
        output = convert(process, x0_hat, x, noise, "x0", prediction)
        return convert(process, output, x, noise, prediction, "x0")

    return denoise


def run(process, prediction, sampler, x, steps, observed=NONE):
    denoise = gaussian_denoiser(process, prediction)
    return jax.jit(
        lambda x: sample(denoise, process, x, schedule(steps, observed), sampler=sampler)
    )(x)


@pytest.fixture(scope="module")
def x1():
    return jax.random.normal(jax.random.key(0), SHAPE)


@pytest.mark.parametrize("process", PROCESSES.values(), ids=lambda p: p.name)
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_first_order_convergence_to_the_solution_of_the_ode(process, prediction, sampler, x1):
    steps = [32, 64, 128, 256]
    # Rows that repeat level 0 change nothing: all lengths run as one program.
    schedules = jnp.stack([jnp.pad(schedule(n, NONE), ((0, 256 - n), (0, 0))) for n in steps])
    denoise = gaussian_denoiser(process, prediction)
    run_all = jax.jit(jax.vmap(lambda rows: sample(denoise, process, x1, rows, sampler=sampler)))
    errors = jnp.sqrt(jnp.mean((run_all(schedules) - (MEAN + STD * x1)) ** 2, (1, 2, 3, 4, 5)))
    order = -np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert 0.95 < order < 1.05
    assert errors[-1] < 0.02


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samples_have_the_moments_of_the_data(sampler):
    x1 = jax.random.normal(jax.random.key(1), (1000, *SHAPE[1:]))
    x0 = np.asarray(run(PROCESSES["cosine"], "v", sampler, x1, 64))
    np.testing.assert_allclose(x0.mean((0, 1)), jnp.broadcast_to(MEAN, STD.shape), atol=0.1)
    np.testing.assert_allclose(x0.std((0, 1)), STD, rtol=0.05)


def test_euler_is_ddim_for_rectified_flow_and_only_there(x1):
    flow, cosine = (
        [run(process, "x0", sampler, x1, 10) for sampler in ("euler", "ddim")]
        for process in (PROCESSES["rectified_flow"], PROCESSES["cosine"])
    )
    np.testing.assert_allclose(*flow, atol=1e-5)
    assert jnp.abs(cosine[0] - cosine[1]).max() > 1e-2


@pytest.mark.parametrize("process", PROCESSES.values(), ids=lambda p: p.name)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_observed_frames_keep_every_bit(process, sampler, x1):
    x1 = x1.at[:, 1].set(-0.0)
    observed = np.array([True, True, False])
    x0 = run(process, "v", sampler, x1, 7, observed)
    assert np.asarray(x0[:, :2]).tobytes() == np.asarray(x1[:, :2]).tobytes()
    unobserved = run(process, "v", sampler, x1, 7)
    np.testing.assert_allclose(x0[:, 2], unobserved[:, 2], atol=1e-6)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_frames_on_their_own_schedules_do_not_disturb_one_another(sampler, x1):
    process = PROCESSES["cosine"]
    wait = jnp.ones((5, 3)).at[:, 1].set(schedule(4, NONE)[:, 1]).at[:, 2].set(0.5)
    x = sample(gaussian_denoiser(process, "v"), process, x1, wait, sampler=sampler)
    np.testing.assert_array_equal(x[:, 0], x1[:, 0])
    np.testing.assert_array_equal(x[:, 2], x1[:, 2])
    np.testing.assert_allclose(x[:, 1], run(process, "v", sampler, x1, 4)[:, 1], atol=1e-6)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_one_step_from_noise_lands_on_the_estimate(sampler, x1):
    x = sample(lambda x, noise: x / 3, PROCESSES["rectified_flow"], x1, schedule(1, NONE), sampler)
    np.testing.assert_allclose(x, x1 / 3, atol=1e-6)


@pytest.mark.parametrize("process", PROCESSES.values(), ids=lambda p: p.name)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_an_imperfect_eps_network_survives_the_start_from_pure_noise(process, sampler, x1):
    """At t = 1 an error in eps says nothing of x0, and must not be divided by alpha = 0."""
    denoise = gaussian_denoiser(process, "v")

    def imperfect(x, noise):
        eps = convert(process, denoise(x, noise), x, noise, "x0", "eps")
        return convert(process, eps + 0.01, x, noise, "eps", "x0")

    x = sample(imperfect, process, x1, schedule(50, NONE), sampler)
    assert jnp.abs(x - (MEAN + STD * x1)).max() < 1


def test_schedule_falls_from_one_to_zero_and_is_zero_where_observed():
    levels = schedule(4, np.array([True, False]))
    np.testing.assert_array_equal(levels, [[0, 1], [0, 0.75], [0, 0.5], [0, 0.25], [0, 0]])
    for steps in (1, 3, 7, 50, 1000):
        first, last = schedule(steps, NONE)[jnp.array([0, -1])]
        assert (first == 1).all()
        assert (last == 0).all()


def test_bad_settings(x1):
    with pytest.raises(InputError, match="0 steps"):
        schedule(0, NONE)
    with pytest.raises(InputError, match=r"'heun'.*euler, ddim"):
        run(PROCESSES["cosine"], "v", "heun", x1, 2)
