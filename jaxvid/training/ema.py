"""Averages of the parameters whose length is chosen after training (Karras et al. 2024).

A power-function average weights the parameters of step s by s^gamma up to step t, so its length
grows with training: its standard deviation is a fixed share of t, the relative width (sigma_rel).
A run keeps snapshots of averages of a few widths; a weighted sum of these comes as close as can be,
in least squares, to the average of any other width and step (arXiv 2312.02696, section 3).
"""

from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Float64, Int
from ml_collections import ConfigDict

from jaxvid.config import FRACTION, POSITIVE, Rule, declare, key
from jaxvid.errors import InputError

WIDEST = 0.28  # gamma = 0, all steps alike, is 0.289


def is_width(value: Any) -> bool:
    """Whether `value` can be a relative width: a number above 0, at most `WIDEST`."""
    return isinstance(value, int | float) and 0 < value <= WIDEST


declare(
    "ema",
    decay=key(0.9999, FRACTION, "share of the old average that stays at a step"),
    widths=key(
        (),
        Rule(
            f"() or different numbers above 0, at most {WIDEST}",
            lambda v: (
                isinstance(v, tuple | list) and all(map(is_width, v)) and len(set(v)) == len(v)
            ),
        ),
        "relative widths of the averages that are kept, for `sample --ema_width`",
    ),
    snapshot_every=key(2000, POSITIVE, "steps between snapshots of those", free=True),
)


def gamma_of(width: float) -> float:
    """The exponent of a relative width: the root of

        width^2 = (gamma + 1) / ((gamma + 2)^2 (gamma + 3)).

    Raises InputError if `width` is not above 0 and at most `WIDEST`.
    """
    if not is_width(width):
        raise InputError(f"an EMA width of {width}: it must be above 0 and at most {WIDEST}")
    inverse = width**-2.0
    return float(np.roots([1, 7, 16 - inverse, 12 - inverse]).real.max())


def is_due(config: ConfigDict, step: int) -> bool:
    """Whether a snapshot of `step` is kept: every `ema.snapshot_every` steps, and of the last."""
    due = step > 0 and (step == config.steps or step % config.ema.snapshot_every == 0)
    return due and bool(config.ema.widths)


def update_rate(step: Int[Array, ""], width: float) -> Float[Array, ""]:
    """The share of the newest parameters in the average, 1 - (1 - 1/t)^(gamma + 1).

    Written so that it keeps its digits when t is large; at the first step, t = 1, it is 1.
    """
    return -jnp.expm1((gamma_of(width) + 1) * jnp.log1p(-1 / step.astype(jnp.float32)))


def update(average: Any, params: Any, step: Int[Array, ""], width: float) -> Any:
    """The average that has taken in `params`, those after `step` steps (from 1):

    average(t) = (1 - 1/t)^(gamma + 1) average(t - 1) + (1 - (1 - 1/t)^(gamma + 1)) params(t).
    """
    return optax.incremental_update(params, average, update_rate(step, width))


def solve_weights(
    widths: Sequence[float], steps: Sequence[int], width: float, step: int
) -> tuple[Float64[np.ndarray, "S"], float]:
    """Weights of kept averages, whose sum is nearest to the average of `width` at `step`.

    Args:
      widths: of the averages kept at a step, all different.
      steps: at which they were kept, all different.
      width, step: of the average wanted.

    Returns:
      The weights (Algorithm 3), step by step and in a step as `widths` are; and what is missed: the
      norm of the difference between the profile wanted and the sum's, over the norm of the former.
    """
    t = np.repeat(np.array(steps, np.float64), len(widths))
    gamma = np.tile([gamma_of(w) for w in widths], len(steps))
    t_r, gamma_r = np.float64(step), np.float64(gamma_of(width))
    overlap = _inner_product(t, gamma, t_r, gamma_r)
    weights = np.linalg.solve(_inner_product(t[:, None], gamma[:, None], t, gamma), overlap)
    share = weights @ overlap / _inner_product(t_r, gamma_r, t_r, gamma_r)
    return weights, float(np.sqrt(max(0.0, 1 - share)))


def _inner_product(t_a: Any, gamma_a: Any, t_b: Any, gamma_b: Any) -> Any:
    """Of the profiles (gamma + 1) s^gamma / t^(gamma + 1) on [0, t], as an integral over s."""
    exponent = np.where(t_a < t_b, gamma_b, -gamma_a)
    top = (gamma_a + 1) * (gamma_b + 1) * (t_a / t_b) ** exponent
    return top / ((gamma_a + gamma_b + 1) * np.maximum(t_a, t_b))


def reconstruct(
    snapshots: Iterable[Any], widths: Sequence[float], steps: Sequence[int], width: float, step: int
) -> tuple[Any, float]:
    """The average of `width` at `step` from those kept, and what is missed: see `solve_weights`.

    `snapshots` gives trees of arrays, step by step and in a step as `widths` are. They are taken
    one at a time, so that only one is in memory beside the sum.
    """
    weights, missed = solve_weights(widths, steps, width, step)
    add, trees = jax.jit(optax.tree.add_scale, donate_argnums=0), iter(snapshots)
    total = jax.jit(optax.tree.scale)(np.float32(weights[0]), next(trees))
    for weight in weights[1:].astype(np.float32):
        total = add(total, weight, next(trees))
    return total, missed
