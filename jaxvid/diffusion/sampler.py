"""Samplers: from noise to clips, along a schedule with a row per step and a column per frame.

A step takes every frame from its noise level t to its next one, s, given the network's x0_hat(x_t):

    (1)  euler  x_s = x_t + (s - t) velocity_hat              of the ODE dx/dt = velocity_hat(x, t)
    (2)  ddim   x_s = alpha(s) x0_hat + sigma(s) eps_hat

(1) integrates the probability-flow ODE (Song et al. 2021, arXiv 2011.13456; Lipman et al. 2023,
arXiv 2210.02747), (2) is its first-order integral with x0_hat and eps_hat held fixed (Song et al.
2021, arXiv 2010.02502, eta = 0). For rectified flow they are the same.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32

from jaxvid.diffusion.process import Process, convert, corrupt
from jaxvid.errors import InputError

Video = Float32[Array, "B T H W C"]
Levels = Float32[Array, "B T"]


class Sampler(NamedTuple):
    """`init(x) -> state` and a pure `step(process, state, x, t_from, t_to, x0_hat) -> (state, x)`.

    The state is any pytree: what a step hands to the next, such as an earlier x0_hat.
    """

    init: Callable[[Array], Any]
    step: Callable[[Process, Any, Array, Array, Array, Array], tuple[Any, Array]]


def euler(
    process: Process, state: Any, x: Video, t_from: Levels, t_to: Levels, x0_hat: Video
) -> tuple[Any, Video]:
    """Equation (1)."""
    velocity = convert(process, x0_hat, x, t_from, "x0", "velocity")
    return state, x + (t_to - t_from)[:, :, None, None, None] * velocity


def ddim(
    process: Process, state: Any, x: Video, t_from: Levels, t_to: Levels, x0_hat: Video
) -> tuple[Any, Video]:
    """Equation (2)."""
    eps_hat = convert(process, x0_hat, x, t_from, "x0", "eps")
    return state, corrupt(process, x0_hat, eps_hat, t_to)


def _stateless(x: Array) -> tuple[()]:
    return ()


SAMPLERS = {"euler": Sampler(_stateless, euler), "ddim": Sampler(_stateless, ddim)}


def schedule(
    steps: int, observed: Bool[Array, "T"] | Bool[np.ndarray, "T"]
) -> Float32[Array, "{steps}+1 T"]:
    """Noise levels of each frame before, between and after `steps` even steps from 1 to 0.

    Observed frames are at 0 in every row. Raises InputError for fewer than one step.
    """
    if steps < 1:
        raise InputError(f"sampling with {steps} steps: take at least 1")
    levels = jnp.linspace(1, 0, steps + 1, dtype=jnp.float32)
    return jnp.where(observed, 0, levels[:, None])


def sample(
    denoise: Callable[[Array, Array], Array],
    process: Process,
    x: Float[Array, "B T H W C"],
    schedule: Float[Array, "rows T"],
    sampler: str = "euler",
) -> Video:
    """Take `x` from the noise levels of the first row of `schedule` to those of the last.

    `denoise(x [B,T,H,W,C], noise [B,T]) -> x0_hat [B,T,H,W,C]`. Frames that start at level 1 are
    N(0, I) in `x`, observed ones are clean. A frame whose level does not change in a step keeps
    every bit. Raises InputError for a `sampler` that is not of `SAMPLERS`.
    """
    if sampler not in SAMPLERS:
        raise InputError(f"unknown sampler {sampler!r}: choose one of {', '.join(SAMPLERS)}")
    init, step = SAMPLERS[sampler]
    x, schedule = x.astype(jnp.float32), schedule.astype(jnp.float32)

    def advance(carry, rows):
        state, x = carry
        t_from, t_to = (jnp.broadcast_to(row, x.shape[:2]) for row in rows)
        x0_hat = denoise(x, t_from).astype(jnp.float32)
        state, stepped = step(process, state, x, t_from, t_to, x0_hat)
        x = jnp.where((t_from == t_to)[:, :, None, None, None], x, stepped)
        return (state, x), None

    (_, x), _ = jax.lax.scan(advance, (init(x), x), (schedule[:-1], schedule[1:]))
    return x
