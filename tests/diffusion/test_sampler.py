"""On Gaussian data the best denoiser and the solution of its ODE are known in closed form.

For x0 ~ N(m, diag(s^2)),  x_t ~ N(alpha m, d^2) with d^2 = alpha^2 s^2 + sigma^2, and

    E[x0 | x_t] = m + alpha s^2 / d^2 (x_t - alpha m)
    x_t = alpha m + d n      solves the ODE for any n, so it ends at  m + s n
"""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp

from jaxvid.diffusion.process import PREDICTIONS, PROCESSES, Process, convert
from jaxvid.diffusion.sampler import SAMPLERS, ddim, euler, sample
from jaxvid.diffusion.schedule import ladder, staggered
from jaxvid.errors import InputError

SHAPE = (4, 3, 4, 4, 2)
MEAN = jnp.linspace(-0.7, 0.9, 2)
STD = jnp.linspace(0.2, 1.6, 4 * 4 * 2).reshape(4, 4, 2)
COSINE, EDM, FLOW = (PROCESSES[name] for name in ("cosine", "edm", "rectified_flow"))
# UniPC's predictor is of order 2, its corrector adds one.
ORDERS = {"euler": 1, "ddim": 1, "heun": 2, "dpmpp_2m": 2, "unipc": 3}
GOLDEN = np.load(Path(__file__).with_name("golden") / "samplers.npz")


def pixels(noise):
    return noise[:, :, None, None, None]


def gaussian(process, prediction="x0"):
    """The best network that predicts `prediction`, seen as a denoiser."""

    def denoise(x, noise):
        alpha, sigma = process.alpha(pixels(noise)), process.sigma(pixels(noise))
        variance = alpha**2 * STD**2 + sigma**2
        x0_hat = MEAN + alpha * STD**2 / variance * (x - alpha * MEAN)
        output = convert(process, x0_hat, x, noise, "x0", prediction)
        return convert(process, output, x, noise, prediction, "x0")

    return denoise


def solution(process, n, t):
    alpha, sigma = process.alpha(jnp.float32(t)), process.sigma(jnp.float32(t))
    return alpha * MEAN + jnp.sqrt(alpha**2 * STD**2 + sigma**2) * n


def run(denoise, process, x, schedules, sampler, **noise):
    """Samples by several schedules in one program: rows that repeat change nothing."""
    rows = max(map(len, schedules))
    padded = [np.pad(s, ((0, rows - len(s)), (0, 0)), mode="edge") for s in schedules]
    return np.asarray(
        jax.jit(jax.vmap(lambda s: sample(denoise, process, x, s, sampler, **noise)))(
            jnp.asarray(padded, jnp.float32)
        )
    )


def even(steps, top=1.0, bottom=0.0, frames=3):
    return np.tile(np.linspace(top, bottom, steps + 1)[:, None], frames)


def rms(error):
    return np.sqrt(np.mean(np.square(error), (1, 2, 3, 4, 5)))


def fitted_order(denoise, process, x, exact, sampler, top, bottom):
    steps = [32, 64, 128]
    x0 = run(denoise, process, x, [even(n, top, bottom) for n in steps], sampler)
    return -np.polyfit(np.log(steps), np.log(rms(x0 - exact)), 1)[0]


@pytest.fixture(scope="module")
def n():
    return jax.random.normal(jax.random.key(0), SHAPE)


@pytest.mark.parametrize("sampler", ORDERS)
def test_order_of_convergence_on_a_gaussian(sampler, n):
    """Over a bounded range of log-SNR; towards infinite ends multistep methods lose a logarithm."""
    start, exact = (solution(FLOW, n, t) for t in (0.95, 0.05))
    order = fitted_order(gaussian(FLOW), FLOW, start, exact, sampler, 0.95, 0.05)
    assert abs(order - ORDERS[sampler]) < 0.25


def mixture(x, alpha, sigma, xp):
    """E[x0 | x_t] for numbers from a mixture of three Gaussians."""
    weight, mean, std = xp.array([[0.3, 0.5, 0.2], [-0.8, 0.1, 0.9], [0.15, 0.3, 0.1]])
    variance = alpha**2 * std**2 + sigma**2
    off = x[..., None] - alpha * mean
    share = weight * xp.exp(-(off**2) / (2 * variance)) / xp.sqrt(variance)
    x0 = mean + alpha * std**2 / variance * off
    return (share * x0).sum(-1) / share.sum(-1)


@pytest.mark.parametrize("sampler", ORDERS)
def test_order_of_convergence_on_a_mixture_of_gaussians(sampler, n):
    def denoise(x, noise):
        t = pixels(noise)[..., None]
        return mixture(x, COSINE.alpha(t), COSINE.sigma(t), jnp)

    def velocity(t, x):
        alpha, sigma = np.cos(np.pi / 2 * t), np.sin(np.pi / 2 * t)
        x0 = mixture(x, alpha, sigma, np)
        return np.pi / 2 * (alpha * (x - alpha * x0) / sigma - sigma * x0)

    path = solve_ivp(velocity, (0.95, 0.05), np.ravel(n), "DOP853", rtol=1e-10, atol=1e-10)
    exact = path.y[:, -1].reshape(SHAPE)
    order = fitted_order(denoise, COSINE, n, exact, sampler, 0.95, 0.05)
    assert abs(order - ORDERS[sampler]) < 0.25


def test_second_order_is_worth_it_all_the_way_from_one_to_zero(n):
    start, exact = (solution(EDM, n, t) for t in (1, 0))
    errors = {
        sampler: rms(run(gaussian(EDM), EDM, start, [even(64)], sampler) - exact)[0]
        for sampler in ("ddim", "heun", "dpmpp_2m", "unipc")
    }
    assert errors["ddim"] < 0.06
    assert all(errors[s] < errors["ddim"] / 4 for s in ("heun", "dpmpp_2m", "unipc"))


@pytest.mark.parametrize("process", PROCESSES.values(), ids=lambda p: p.name)
def test_what_the_network_predicts_does_not_matter(process, n):
    """Below t = 1, where eps says nothing of x0."""
    networks = [gaussian(process, prediction) for prediction in PREDICTIONS]

    def denoise(x, noise):
        clips = zip(networks, jnp.split(x, len(x)), jnp.split(noise, len(x)), strict=True)
        return jnp.concatenate([network(clip, t) for network, clip, t in clips])

    start = jnp.repeat(solution(process, n[:1], 0.98), len(networks), axis=0)
    x0, *others = run(denoise, process, start, [even(16, 0.98)], "ddim")[0]
    for other in others:
        np.testing.assert_allclose(other, x0, atol=2e-3)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_each_step_is_that_of_diffusers(sampler):
    alpha, sigma, expected = (GOLDEN[f"{sampler}.{name}"] for name in ("alpha", "sigma", "x"))
    levels = np.linspace(1, 0, len(alpha), dtype=np.float32)
    process = Process(
        "golden",
        lambda t: jnp.interp(t, levels[::-1], alpha[::-1]),
        lambda t: jnp.interp(t, levels[::-1], sigma[::-1]),
    )
    if sampler == "euler":  # goes by the slope of the process, which interpolation does not have
        process, levels = FLOW, sigma

    def denoise(x, noise):
        return jnp.tanh(1.5 * x - process.alpha(pixels(noise)))

    x = jnp.asarray(expected[0])
    if sampler == "ddpm":
        found, step = [x], jax.jit(partial(ddim, process, eta=1))
        for t_from, t_to, z in zip(levels, levels[1:], GOLDEN["ddpm.z"], strict=False):
            t_from, t_to = (jnp.full((1, 2), t) for t in (t_from, t_to))
            _, x = step((), x, t_from, t_to, denoise(x, t_from), jnp.asarray(z))
            found.append(x)
    else:
        column = np.tile(levels[:, None], 2)
        found = run(denoise, process, x, [column[: k + 1] for k in range(len(column))], sampler)
    np.testing.assert_allclose(np.stack(found), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("sampler", "eta"), [("ddpm", 0), ("ddim", 0.5)])
def test_fresh_noise_keeps_mean_and_covariance(sampler, eta):
    n = jax.random.normal(jax.random.key(1), (1000, *SHAPE[1:]))
    key = jax.random.key(2)
    x0 = run(gaussian(COSINE), COSINE, n, [even(200)], sampler, eta=eta, key=key)[0]
    fresh = (x0 - MEAN) / STD
    # It forgets where it came from, a frame and a pixel have nothing to do with the next.
    assert np.corrcoef(fresh.ravel(), np.ravel(n))[0, 1] < (0.05 if sampler == "ddpm" else 0.9)
    assert abs(np.mean(fresh[:, 1:] * fresh[:, :-1])) < 0.02
    assert abs(np.mean(fresh[:, :, 1:] * fresh[:, :, :-1])) < 0.02
    np.testing.assert_allclose(fresh.mean((0, 1)), 0, atol=0.08)
    np.testing.assert_allclose(fresh.std((0, 1)), 1, atol=0.1)
    assert abs(fresh.std() - 1) < 0.03


def test_the_key_decides_the_fresh_noise(n):
    rows, keys = jnp.asarray(even(4), jnp.float32), jax.random.split(jax.random.key(0))
    draw = jax.jit(lambda key: sample(gaussian(FLOW), FLOW, n, rows, "ddpm", key=key))
    first, second, again = (np.asarray(draw(key)) for key in (*keys, keys[0]))
    assert np.abs(first - second).max() > 0.1
    np.testing.assert_array_equal(first, again)


def test_euler_is_ddim_for_rectified_flow_and_only_there(n):
    t_from, t_to = jnp.full((2, 4, 3), 0.8).at[1].set(0.3)
    for process, same in ((FLOW, True), (COSINE, False)):
        steps = (jax.jit(partial(step, process)) for step in (euler, ddim))
        (_, one), (_, other) = (step((), n, t_from, t_to, n / 3) for step in steps)
        assert (np.abs(one - other).max() < 1e-5) == same


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_observed_frames_keep_every_bit(sampler, n):
    x = n.at[:, 1].set(-0.0)
    observed = np.array([True, True, False])
    rows = staggered(ladder(COSINE, 7), observed)
    x0 = run(gaussian(COSINE), COSINE, x, [rows], sampler, key=jax.random.key(0))[0]
    assert x0[:, :2].tobytes() == np.asarray(x[:, :2]).tobytes()
    assert np.isfinite(x0).all()
    assert np.abs(x0[:, 2] - x[:, 2]).max() > 0.1


@pytest.mark.parametrize("sampler", ["ddim", "heun", "dpmpp_2m", "unipc"])
def test_frames_that_do_not_see_one_another_come_out_alike_in_any_order(sampler, n):
    levels, none = ladder(COSINE, 6), np.zeros(3, bool)
    rows = [staggered(levels, none, lag) for lag in (0, 2, 6)]
    together, *others = run(gaussian(COSINE), COSINE, n, rows, sampler)
    for other in others:
        np.testing.assert_allclose(other, together, atol=2e-6)


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "unipc"])
def test_a_frame_that_stood_still_starts_afresh(sampler, n):
    rows = np.array([[1, 1], [0.8, 0.8], [0.7, 0.6], [0.5, 0.6], [0.3, 0.4], [0.1, 0.2], [0, 0]])
    denoise = gaussian(COSINE)
    whole, half = run(denoise, COSINE, n[:, :2], [rows, rows[:4]], sampler)
    resumed = run(denoise, COSINE, jnp.asarray(half), [rows[3:]], sampler)[0]
    np.testing.assert_allclose(whole[:, 1], resumed[:, 1], atol=2e-6)
    assert np.abs(whole[:, 0] - resumed[:, 0]).max() > 1e-4


@pytest.mark.parametrize("sampler", ORDERS)
def test_frames_that_depend_on_one_another_get_their_covariance_in_any_order(sampler):
    """Given a clean frame, and one after the other, pyramid or together.

    The sampler is then an affine map of the noise: the images of 0 and of the axes tell all of it.
    """
    mean = jnp.array([0.3, -0.2, 0.5])
    cov = jnp.array([[1.0, 0.8, 0.5], [0.8, 1.2, 0.7], [0.5, 0.7, 0.6]])

    def denoise(x, noise):
        A, S = (jax.vmap(jnp.diag)(f(noise)) for f in (COSINE.alpha, COSINE.sigma))
        gain = cov @ A @ jnp.linalg.inv(A @ cov @ A + S @ S)
        off = x[..., 0, 0, 0] - COSINE.alpha(noise) * mean
        return pixels(mean + jnp.einsum("bij,bj->bi", gain, off))

    observed = np.array([True, False, False])
    x = jnp.array([[1.5, 0, 0], [1.5, 1, 0], [1.5, 0, 1]])
    schedules = [staggered(ladder(COSINE, 64), observed, lag) for lag in (0, 20, 64)]
    x0 = run(denoise, COSINE, pixels(x), schedules, sampler)[..., 1:, 0, 0, 0]

    gain = np.array(cov[1:, 0] / cov[0, 0])
    expected = np.array(cov[1:, 1:]) - np.outer(gain, cov[0, 1:])
    atol = 0.03 if ORDERS[sampler] == 1 else 3e-3
    for origin, *axes in x0:
        axes = np.stack(axes) - origin
        np.testing.assert_allclose(origin, mean[1:] + gain * (1.5 - mean[0]), atol=atol)
        np.testing.assert_allclose(axes.T @ axes, expected, atol=atol)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_one_step_from_noise_lands_on_the_estimate(sampler, n):
    rows = [even(1)]
    x = run(lambda x, noise: x / 3, FLOW, n, rows, sampler, key=jax.random.key(0))[0]
    np.testing.assert_allclose(x, n / 3, atol=1e-6)


@pytest.mark.parametrize("sampler", ["euler", "heun", "unipc"])
def test_an_imperfect_eps_network_survives_the_start_from_pure_noise(sampler, n):
    """At t = 1 an error in eps says nothing of x0, and must not be divided by alpha = 0."""

    def imperfect(x, noise):
        eps = convert(COSINE, gaussian(COSINE)(x, noise), x, noise, "x0", "eps")
        return convert(COSINE, eps + 0.01, x, noise, "eps", "x0")

    x = run(imperfect, COSINE, n, [even(50)], sampler)
    assert np.abs(x - (MEAN + STD * n)).max() < 1


@pytest.mark.parametrize(
    ("sampler", "settings", "message"),
    [
        ("eular", {}, "'eular'.*euler, ddim"),
        ("ddim", {"eta": 1.5}, r"eta=1\.5"),
        ("heun", {"eta": 0.5}, "eta=0.5 with sampler 'heun'"),
        ("ddpm", {}, "'ddpm'.*key"),
        ("ddim", {"eta": 0.5}, "'ddim'.*key"),
    ],
)
def test_bad_settings(sampler, settings, message, n):
    with pytest.raises(InputError, match=message):
        sample(gaussian(FLOW), FLOW, n, jnp.asarray(even(2), jnp.float32), sampler, **settings)
