"""The training state: everything that a step reads and changes."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct


@struct.dataclass
class TrainState:
    """The training state, or a tree of the same structure with shapes or shardings.

    Attributes:
      step: number of steps taken, int32 [].
      params: parameters of the network, float32.
      ema: exponential moving average of `params`.
      profiles: power-function averages of `params`, one for each of `ema.widths`.
      opt_state: state of the optimizer.
    """

    step: Any
    params: Any
    ema: Any
    profiles: Any
    opt_state: Any


def first_state(params: Any, opt_state: Any, profiles: int) -> TrainState:
    """The state before the first step; the averages start at the initial parameters.

    Args:
      params: initial parameters.
      opt_state: initial state of the optimizer.
      profiles: number of power-function averages.
    """
    copies = tuple(jax.tree.map(jnp.copy, params) for _ in range(profiles))
    ema = jax.tree.map(jnp.copy, params)
    return TrainState(jnp.zeros((), jnp.int32), params, ema, copies, opt_state)


def to_parts(state: TrainState) -> dict[str, Any]:
    """The two parts of a checkpoint: `ema`, which sampling can read alone, and `train`."""
    train = ("step", "params", "profiles", "opt_state")
    return {"ema": state.ema, "train": {name: getattr(state, name) for name in train}}


def from_parts(parts: dict[str, Any]) -> TrainState:
    """The inverse of `to_parts`."""
    return TrainState(ema=parts["ema"], **parts["train"])
