"""Schedules: which noise levels a sampler visits, and when each frame does.

A ladder is the levels of one frame, from exactly 1 down to exactly 0. With kappa = sigma / alpha,
all its levels but the last are even in

    (1)  uniform  t
    (2)  logsnr   log kappa         from kappa(1), at most 80, to kappa = 0.002
    (3)  karras   kappa^(1 / 7)     likewise: Karras et al. 2022 (arXiv 2206.00364), equation 5

The bounds are theirs, and cut off the ends, where kappa is infinite or 0; the first level is then
put to exactly 1. (1) ends one even step above 0.

A schedule [rows, T] lets every unknown frame descend the ladder `lag` rows after the one before it:

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


def ladder(process: Process, steps: int, spacing: str = "uniform") -> Float32[Array, "{steps}+1"]:
    """Strictly falling noise levels from 1 to 0 by equation (1), (2) or (3).

    Raises InputError for fewer than one step and for a `spacing` that is not of `SPACINGS`.
    """
    if steps < 1:
        raise InputError(f"sampling with {steps} steps: take at least 1")
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
            raise InputError(f"unknown spacing {spacing!r} of noise levels: choose one of {known}")
    return jnp.append(inverse_logsnr(process, -2 * jnp.log(kappa)).at[0].set(1), 0)


def staggered(
    levels: Float[Array, "levels"],
    observed: Bool[np.ndarray, "T"],
    lag: int = 0,
    observed_level: float | int = 0,
) -> Float32[Array, "rows T"]:
    """Noise levels of each frame in each row: unknown frames descend `levels`, one after another.

    Each starts `lag` rows after the unknown frame before it, so U of them take
    steps + lag (U - 1) + 1 rows; observed frames are at `observed_level` in every row. Raises
    InputError for a `lag` outside [0, steps]: beyond, all frames would stand still between two.
    """
    steps = len(levels) - 1
    if not 0 <= lag <= steps:
        raise InputError(f"lag is {lag} for {steps} steps: it must be from 0 to {steps}")
    start = lag * np.maximum(np.cumsum(~observed) - 1, 0)
    rows = np.arange(steps + start.max() + 1)
    rung = np.clip(rows[:, None] - start, 0, steps)
    return jnp.where(observed, observed_level, levels[rung]).astype(jnp.float32)


def _kappa(process: Process, t: Array) -> Array:
    return process.sigma(t) / jnp.maximum(process.alpha(t), jnp.finfo(jnp.float32).tiny)
