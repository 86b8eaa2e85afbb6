"""Schedules: the noise levels that a sampler visits, for each frame.

A ladder is the list of levels of one frame, from exactly 1 to exactly 0. With kappa = sigma /
alpha, all levels but the last are equally spaced in

    (1)  uniform  t
    (2)  logsnr   log kappa         from kappa(1), at most 80, to kappa = 0.002
    (3)  karras   kappa^(1 / 7)     in the same range: Karras et al. 2022 (arXiv 2206.00364), eq. 5

The bounds are those of Karras et al. They exclude the ends, where kappa is infinite or 0. The first
level is then set to exactly 1. In (1) the last step has the same length as the others.

In a schedule [rows, T] every unknown frame descends the ladder `lag` rows after the one before it:

    full sequence      lag = 0        all frames together
    pyramid            between        diffusion forcing (Chen et al. 2024, arXiv 2407.01392)
    autoregressive     lag = steps    one frame at a time
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32

from jaxvid.diffusion.process import Process, inverse_logsnr
from jaxvid.errors import InputError

SPACINGS = ("uniform", "logsnr", "karras")


def ladder(process: Process, steps: int, spacing: str = "uniform") -> Float32[Array, " {steps}+1"]:
    """Strictly decreasing noise levels from 1 to 0 by equation (1), (2) or (3).

    Raises InputError for fewer than one step and for an unknown `spacing`.
    """
    if steps < 1:
        raise InputError(f"sampling with {steps} steps: give at least 1")
    top = jnp.minimum(_kappa(process, jnp.ones(())), 80)
    match spacing:
        case "uniform":
            return jnp.linspace(1, 0, steps + 1, dtype=jnp.float32)
        case "logsnr":
            kappa = jnp.geomspace(top, 0.002, steps)
        case "karras":
            kappa = jnp.linspace(top ** (1 / 7), 0.002 ** (1 / 7), steps) ** 7
        case _:
            known = ", ".join(SPACINGS)
            raise InputError(f"unknown spacing {spacing!r}: choose one of {known}")
    return jnp.append(inverse_logsnr(process, -2 * jnp.log(kappa)).at[0].set(1), 0)


def staggered(
    levels: Float[Array, " levels"],
    observed: Bool[np.ndarray | Array, "*B T"],
    lag: int = 0,
    observed_level: float | int = 0,
) -> Float32[Array, "rows *B T"]:
    """The noise level of each frame in each row: unknown frames descend `levels` one after another.

    Each starts `lag` rows after the unknown frame before it, so U unknown frames take
    steps + lag (U - 1) + 1 rows. Observed frames stay at `observed_level`. Raises InputError for a
    `lag` outside [0, steps]; a larger one would give rows in which no frame moves. Without a lag,
    `observed` may be traced, and may differ from clip to clip.
    """
    steps = len(levels) - 1
    if not 0 <= lag <= steps:
        raise InputError(f"lag={lag} with {steps} steps: it must be from 0 to {steps}")
    T = observed.shape[-1]
    start = lag * np.maximum(np.cumsum(~observed) - 1, 0) if lag else np.zeros(T, int)
    rows = np.arange(steps + start.max() + 1)
    rung = np.clip(rows[:, None] - start, 0, steps)
    rung = rung.reshape(-1, *[1] * (observed.ndim - 1), T)
    return jnp.where(observed, observed_level, levels[rung]).astype(jnp.float32)


def _kappa(process: Process, t: Array) -> Array:
    return process.sigma(t) / jnp.maximum(process.alpha(t), jnp.finfo(jnp.float32).tiny)
