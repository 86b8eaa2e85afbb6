"""Post-hoc EMA: averages of the parameters whose width is chosen after training.

At step t a power-function average weights the parameters of step s <= t by s^gamma. Its standard
deviation is a fixed share of t, the relative width (sigma_rel). A run keeps snapshots of averages
of a few widths. The least-squares combination of these approximates the average of any other width
and step (Karras et al. 2024, arXiv 2312.02696, section 3).
"""

from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Float64, Int
from ml_collections import ConfigDict

from jaxvid.config import FRACTION, POSITIVE, Rule, declare, key, one_of
from jaxvid.errors import InputError

WIDEST = 0.28  # gamma = 0, equal weights for all steps, is 0.289


def is_width(value: Any) -> bool:
    """Whether `value` is a valid relative width: a number above 0 and at most `WIDEST`."""
    return isinstance(value, int | float) and 0 < value <= WIDEST


declare(
    "ema",
    decay=key(0.9999, FRACTION, "decay of the EMA per step"),
    widths=key(
        (),
        Rule(
            f"() or different numbers above 0 and at most {WIDEST}",
            lambda v: (
                isinstance(v, tuple | list) and all(map(is_width, v)) and len(set(v)) == len(v)
            ),
        ),
        "relative widths of the averages in the snapshots, for `sample --ema_width`",
    ),
    snapshot_every=key(2000, POSITIVE, "steps between snapshots", free=True),
    snapshot_dtype=key(
        "float16",
        one_of(("float16", "bfloat16", "float32")),
        "type of the averages in the snapshots; those of a run may differ",
        free=True,
    ),
)


def gamma_of(width: float) -> float:
    """The exponent gamma of a relative width, the root of

        width^2 = (gamma + 1) / ((gamma + 2)^2 (gamma + 3)).

    Raises InputError if `width` is not above 0 and at most `WIDEST`.
    """
    if not is_width(width):
        raise InputError(f"EMA width {width}: it must be above 0 and at most {WIDEST}")
    inverse = width**-2.0
    return float(np.roots([1, 7, 16 - inverse, 12 - inverse]).real.max())


def is_due(config: ConfigDict, step: int) -> bool:
    """Whether a snapshot is due: every `ema.snapshot_every` steps and at the last step."""
    due = step > 0 and (step == config.steps or step % config.ema.snapshot_every == 0)
    return due and bool(config.ema.widths)


def update_rate(step: Int[Array, ""], width: float) -> Float[Array, ""]:
    """The weight of the newest parameters in the average, 1 - (1 - 1/t)^(gamma + 1).

    The formula stays accurate for large t, and gives 1 at the first step, t = 1.
    """
    return -jnp.expm1((gamma_of(width) + 1) * jnp.log1p(-1 / step.astype(jnp.float32)))


def update(average: Any, params: Any, step: Int[Array, ""], width: float) -> Any:
    """The average updated with `params`, the parameters after t = `step` steps, t >= 1:

    average(t) = (1 - 1/t)^(gamma + 1) average(t - 1) + (1 - (1 - 1/t)^(gamma + 1)) params(t).
    """
    return optax.incremental_update(params, average, update_rate(step, width))


def solve_weights(
    widths: Sequence[float], steps: Sequence[int], width: float, step: int
) -> tuple[Float64[np.ndarray, " S"], float]:
    """Weights of the snapshots whose sum is closest to the average of `width` at `step`.

    Args:
      widths: relative widths in each snapshot, all different.
      steps: steps of the snapshots, all different.
      width, step: relative width and step of the target average.

    Returns:
      The weights (Algorithm 3), ordered by step and then by width; and the relative error: the norm
      of the difference between the target profile and the sum's, divided by the target's norm.
    """
    t = np.repeat(np.array(steps, np.float64), len(widths))
    gamma = np.tile([gamma_of(w) for w in widths], len(steps))
    t_r, gamma_r = np.float64(step), np.float64(gamma_of(width))
    overlap = _inner_product(t, gamma, t_r, gamma_r)
    weights = np.linalg.solve(_inner_product(t[:, None], gamma[:, None], t, gamma), overlap)
    share = weights @ overlap / _inner_product(t_r, gamma_r, t_r, gamma_r)
    return weights, float(np.sqrt(max(0.0, 1 - share)))


def _inner_product(t_a: Any, gamma_a: Any, t_b: Any, gamma_b: Any) -> Any:
    """The integral of the product of two profiles (gamma + 1) s^gamma / t^(gamma + 1), s <= t."""
    exponent = np.where(t_a < t_b, gamma_b, -gamma_a)
    top = (gamma_a + 1) * (gamma_b + 1) * (t_a / t_b) ** exponent
    return top / ((gamma_a + gamma_b + 1) * np.maximum(t_a, t_b))


def reconstruct(
    snapshots: Iterable[Any], widths: Sequence[float], steps: Sequence[int], width: float, step: int
) -> tuple[Any, float]:
    """The average of `width` at `step`, and its relative error: see `solve_weights`.

    `snapshots` yields trees of arrays, ordered by step and then by width. Only one tree and the sum
    are in memory at a time.
    """
    weights, missed = solve_weights(widths, steps, width, step)
    add, trees = jax.jit(optax.tree.add_scale, donate_argnums=0), iter(snapshots)
    total = jax.jit(optax.tree.scale)(np.float32(weights[0]), next(trees))
    for weight in weights[1:].astype(np.float32):
        total = add(total, weight, next(trees))
    return total, missed
