"""Samplers, which denoise clips along a schedule with a row per step and a column per frame.

A step takes every frame from its noise level t to the next level s. Let x0 = x0_hat(x_t), let eps
follow from x0 and x_t, let h be the step in log(alpha / sigma), and let z ~ N(0, I):

    (1)  euler     x_s = x_t + (s - t) velocity
    (2)  ddim      x_s = alpha(s) x0 + sigma(s) (sqrt(1 - eta^2 (1 - r^2)) eps
                                                 + eta sqrt(1 - r^2) z),            r = exp(-h)
    (3)  ddpm      (2) with eta = 1
    (4)  heun      (2) with eta = 0 to x', then
                   x_s = x' + (alpha(s) sigma(t) / sigma(s) - alpha(t)) (x0_hat(x') - x0) / 2
    (5)  dpmpp_2m  (2) with eta = 0 and x0 + w/2 (x0 - x0_before) for x0,       w = h / h_before
    (6)  unipc     (5); when x0_hat(x_s) = x0' is known, the same step again with eta = 0 and
                   x0 + rho_1 w (x0 - x0_before) + rho_2 (x0' - x0) for x0

(1) and (4) integrate dx = velocity dt = x0 dalpha + eps dsigma, the probability-flow ODE (Song et
al. 2021, arXiv 2011.13456). (1) takes Euler steps in t. (4) applies the trapezoidal rule in alpha
and sigma: this is Heun's method for rectified flow (Lipman et al. 2023, arXiv 2210.02747) and that
of Karras et al. for alpha = 1 (2022, arXiv 2206.00364). (2) is Song et al. 2021 (arXiv 2010.02502),
(3) Ho et al. 2020 (arXiv 2006.11239), (5) DPM-Solver++ 2M (Lu et al. 2022, arXiv 2211.01095), and
(6) UniPC of order 2 with B(h) = e^h - 1 (Zhao et al. 2023, arXiv 2302.04867), whose order
conditions give rho_1 and rho_2. (1) and (2) have order 1, (4) and (5) order 2, and (6) with its
correction order 3. All but (1) depend on t only through alpha and sigma; where sigma is steep in t,
as in edm, (1) is inaccurate. (4) evaluates the network twice per row, the others once.

Limits. A step to sigma(s) = 0 ends at x0: there (4) omits its correction and (5), (6) set w = 0,
because x0 must not be extrapolated beyond the data. After a step from alpha(t) = 0, h_before is
infinite and w = 0.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Key

from jaxvid.diffusion.keys import each, normal
from jaxvid.diffusion.process import Process, convert, corrupt
from jaxvid.errors import InputError

Video = Float32[Array, "B T H W C"]
Levels = Float32[Array, "B T"]


class Sampler(NamedTuple):
    """`init(x) -> state` and pure `step(process, state, x, t_from, t_to, x0_hat) -> (state, x)`.

    The state is a pytree that a step passes to the next, such as an earlier x0_hat. A row of the
    schedule runs all `steps`. The network sees x at t_from before the first step and at t_to before
    the others.
    """

    init: Callable[[Array], Any]
    steps: tuple[Callable[..., tuple[Any, Array]], ...]


def euler(
    process: Process, state: Any, x: Video, t_from: Levels, t_to: Levels, x0_hat: Video
) -> tuple[Any, Video]:
    """Equation (1)."""
    velocity = convert(process, x0_hat, x, t_from, "x0", "velocity")
    return state, x + _per_pixel(t_to - t_from) * velocity


def ddim(
    process: Process,
    state: Any,
    x: Video,
    t_from: Levels,
    t_to: Levels,
    x0_hat: Video,
    z: Video | None = None,
    eta: float | int = 0,
) -> tuple[Any, Video]:
    """Equation (2), and (3) with `eta` = 1; needs `z` unless `eta` is 0."""
    eps = convert(process, x0_hat, x, t_from, "x0", "eps")
    if eta:
        r = _safe_ratio(
            process.alpha(t_from) * process.sigma(t_to), process.alpha(t_to) * process.sigma(t_from)
        )
        renewed = jnp.clip(1 - r**2, 0, 1)
        eps = _per_pixel(jnp.sqrt(1 - eta**2 * renewed)) * eps
        eps += _per_pixel(eta * jnp.sqrt(renewed)) * z
    return state, corrupt(process, x0_hat, eps, t_to)


def heun_correct(
    process: Process, x0_from: Video, x: Video, t_from: Levels, t_to: Levels, x0_hat: Video
) -> tuple[Any, Video]:
    """The second line of equation (4); `x` is x' and `x0_from` the estimate at t_from."""
    slope = _safe_ratio(process.alpha(t_to) * process.sigma(t_from), process.sigma(t_to))
    weight = jnp.where(process.sigma(t_to) == 0, 0, (slope - process.alpha(t_from)) / 2)
    return x0_from, x + _per_pixel(weight) * (x0_hat - x0_from)


def heun_predict(
    process: Process, state: Any, x: Video, t_from: Levels, t_to: Levels, x0_hat: Video
) -> tuple[Any, Video]:
    """The first line of equation (4)."""
    return ddim(process, x0_hat, x, t_from, t_to, x0_hat)


def dpmpp_2m(
    process: Process, state: Any, x: Video, t_from: Levels, t_to: Levels, x0_hat: Video
) -> tuple[Any, Video]:
    """Equation (5); the state holds each frame's level and x0_hat in the previous row."""
    t_before, x0_before = state
    _, w = _pace(process, t_before, t_from, t_to)
    ahead = x0_hat + _per_pixel(w / 2) * (x0_hat - x0_before)
    return ddim(process, (t_from, x0_hat), x, t_from, t_to, ahead)


def unipc(
    process: Process, state: Any, x: Video, t_from: Levels, t_to: Levels, x0_hat: Video
) -> tuple[Any, Video]:
    """Equation (6): corrects the previous step, then takes the next.

    The state holds the start of the previous step: its state of (5), its x, its level and x0_hat.
    """
    (t_before, x0_before), x_last, (t_last, x0_last) = state
    h, w = _pace(process, t_before, t_last, t_from)
    g = _langevin(h)
    rho_1 = g * w / (1 + w)
    rho_2 = jnp.where(w == 0, 0.5, 0.5 + h * g / 2 - rho_1)
    x0 = x0_last + _per_pixel(rho_1 * w) * (x0_last - x0_before)
    x0 += _per_pixel(rho_2) * (x0_hat - x0_last)
    _, again = ddim(process, (), x_last, t_last, t_from, x0)
    x = jnp.where(_per_pixel(t_last > t_from), again, x)

    last = (t_last, x0_last)
    now, stepped = dpmpp_2m(process, last, x, t_from, t_to, x0_hat)
    return (last, x, now), stepped


def _pace(
    process: Process, t_before: Levels, t_from: Levels, t_to: Levels
) -> tuple[Levels, Levels]:
    """h and w = h / h_before of the step t_from -> t_to, for a frame that came from t_before.

    w is 0 in a frame's first step (t_before is not above t_from) and in the limits above. Then (5)
    and (6) have order 1, and h has no meaning.
    """
    levels = (t_before, t_from, t_to)
    alphas, sigmas = ([f(t) for t in levels] for f in (process.alpha, process.sigma))
    usable = (t_before > t_from) & (alphas[0] > 0) & (sigmas[2] > 0)
    before, now, after = (
        jnp.where(usable, jnp.log(jnp.where(usable, alpha / sigma, 1)), 0)
        for alpha, sigma in zip(alphas, sigmas, strict=True)
    )
    return after - now, (after - now) / jnp.where(usable, now - before, 1)


def _langevin(h: Levels) -> Levels:
    """(coth(h/2) - 2/h) / h, from which the 2 x 2 system of UniPC gives rho_1 and rho_2."""
    large = jnp.maximum(h, 0.6)
    exact = (1 / jnp.tanh(large / 2) - 2 / large) / large
    return jnp.where(h < 0.6, 1 / 6 - h**2 / 360 + h**4 / 15120, exact)


def _per_pixel(levels: Array) -> Array:
    return levels[:, :, None, None, None]


def _safe_ratio(numerator: Array, denominator: Array) -> Array:
    """The quotient, or 0 where the denominator is 0."""
    return jnp.where(denominator == 0, 0, numerator / jnp.where(denominator == 0, 1, denominator))


def _stateless(x: Array) -> tuple[()]:
    return ()


def _no_past(x: Array) -> tuple[Array, Array]:
    # A level of 0 marks a frame without a previous step, because no step starts there.
    return jnp.zeros(x.shape[:2]), jnp.zeros_like(x)


SAMPLERS = {
    "euler": Sampler(_stateless, (euler,)),
    "ddim": Sampler(_stateless, (ddim,)),
    "ddpm": Sampler(_stateless, (ddim,)),
    "heun": Sampler(jnp.zeros_like, (heun_predict, heun_correct)),
    "dpmpp_2m": Sampler(_no_past, (dpmpp_2m,)),
    "unipc": Sampler(lambda x: (_no_past(x), jnp.zeros_like(x), _no_past(x)), (unipc,)),
}


def sample(
    denoise: Callable[[Array, Array], Array],
    process: Process,
    x: Float[Array, "B T H W C"],
    schedule: Float[Array, "rows *B T"],
    sampler: str = "euler",
    *,
    eta: float | int = 0,
    key: Key[Array, "*n"] | None = None,
    report: Callable[[Array, int], None] | None = None,
) -> Video:
    """Takes `x` from the noise levels of the first row of `schedule` to those of the last.

    Args:
      denoise: `(x [B,T,H,W,C], noise [B,T]) -> x0_hat [B,T,H,W,C]`.
      process: of the noise in `x`.
      x: sigma(1) N(0, I) in frames that start at level 1, clean in observed frames.
      schedule: noise levels, which may differ from clip to clip. The level of a frame never rises.
        A frame whose level does not change in a row keeps every bit, and its next step has order 1.
      sampler: one of `SAMPLERS`.
      eta: share of the noise that a step of "ddim" renews, in [0, 1].
      key: needed for "ddpm" and for an `eta` above 0; row k draws from `fold_in(key, k)`. Each of
        n keys is for an equal part of the clips.
      report: traced after each step, with the number of rows that are done and that of all rows.

    Raises InputError for an unknown `sampler`, an invalid `eta` and a missing `key`.
    """
    if sampler not in SAMPLERS:
        raise InputError(f"unknown sampler {sampler!r}: choose one of {', '.join(SAMPLERS)}")
    if not 0 <= eta <= 1 or (eta and sampler != "ddim"):
        raise InputError(f"eta={eta} with sampler {sampler!r}: give 0, or with 'ddim' 0 to 1")
    eta = 1 if sampler == "ddpm" else eta
    if eta and key is None:
        raise InputError(f"sampler {sampler!r} with eta={eta} draws random numbers: give a key")

    init, steps = SAMPLERS[sampler]
    steps = [partial(step, process, **({"eta": eta} if eta else {})) for step in steps]
    x, schedule = x.astype(jnp.float32), schedule.astype(jnp.float32)

    # The network is traced once, even if a row evaluates it twice.
    def advance(carry, row):
        (state, x), (k, stage, *levels) = carry, row
        t_from, t_to = (jnp.broadcast_to(level, x.shape[:2]) for level in levels)
        x0_hat = denoise(x, jnp.where(stage == 0, t_from, t_to)).astype(jnp.float32)
        fresh = [normal(each(lambda key: jax.random.fold_in(key, k), key), x.shape)] if eta else []
        state, stepped = jax.lax.switch(stage, steps, state, x, t_from, t_to, x0_hat, *fresh)
        if report:
            report(k + (stage == len(steps) - 1), rows)
        return (state, jnp.where(_per_pixel(t_from == t_to), x, stepped)), None

    rows = len(schedule) - 1
    k, stage = jnp.divmod(jnp.arange(rows * len(steps)), len(steps))
    (_, x), _ = jax.lax.scan(advance, (init(x), x), (k, stage, schedule[k], schedule[k + 1]))
    return x
