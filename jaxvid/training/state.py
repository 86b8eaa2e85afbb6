"""The state of a training run: all that a step reads and changes."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct


@struct.dataclass
class TrainState:
    """The state, or a tree of its form: of shapes, of shardings.

    Attributes:
      step: steps taken, int32 [].
      params: of the network, float32.
      ema: exponential moving average of `params`.
      profiles: their power-function averages, one for each of `ema.widths`.
      opt_state: the optimizer's.
    """

    step: Any
    params: Any
    ema: Any
    profiles: Any
    opt_state: Any


def first_state(params: Any, opt_state: Any, profiles: int) -> TrainState:
    """The state before the first step; the averages start at the parameters.

    Args:
      params: initial parameters.
      opt_state: the optimizer's for them.
      profiles: number of power-function averages.
    """
    copies = tuple(jax.tree.map(jnp.copy, params) for _ in range(profiles))
    ema = jax.tree.map(jnp.copy, params)
    return TrainState(jnp.zeros((), jnp.int32), params, ema, copies, opt_state)


def to_parts(state: TrainState) -> dict[str, Any]:
    """What lies side by side in a checkpoint: `ema`, which sampling reads alone, and the rest."""
    train = ("step", "params", "profiles", "opt_state")
    return {"ema": state.ema, "train": {name: getattr(state, name) for name in train}}


def from_parts(parts: dict[str, Any]) -> TrainState:
    """The inverse of `to_parts`."""
    return TrainState(ema=parts["ema"], **parts["train"])
