"""The state of a training run: all that a step reads and changes."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import struct
from jax.sharding import Mesh
from ml_collections import ConfigDict

from jaxvid.data.pipeline import blank_batch
from jaxvid.data.pixels import to_condition
from jaxvid.models.transformer import SpaceTimeTransformer
from jaxvid.parallel import rules


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


def to_parts(state: TrainState) -> dict[str, Any]:
    """The parts of a checkpoint: `ema`, which sampling reads alone, and the rest as `train`."""
    train = ("step", "params", "profiles", "opt_state")
    return {"ema": state.ema, "train": {name: getattr(state, name) for name in train}}


def from_parts(parts: dict[str, Any]) -> TrainState:
    """The inverse of `to_parts`."""
    return TrainState(ema=parts["ema"], **parts["train"])


def make_network(config: ConfigDict) -> SpaceTimeTransformer:
    """The network of the `model` part of a config."""
    model = config.model.to_dict()
    fields = {name: value for name, value in model.items() if not name.endswith("_dropout")}
    fields |= {name: tuple(model[name]) for name in ("patch", "window")}
    if not isinstance(model["blocks"], str):
        fields["blocks"] = tuple((line, depth) for line, depth in model["blocks"])
    return SpaceTimeTransformer(**fields | {"dtype": jnp.dtype(model["dtype"])})


def make_init(
    config: ConfigDict, net: SpaceTimeTransformer, tx: optax.GradientTransformation, mesh: Mesh
) -> tuple[Callable[[], TrainState], TrainState]:
    """How to make the state of step 0, each device making its own part.

    Returns:
      A function without arguments, and the abstract state: shapes, dtypes and shardings.
    """
    T, S = config.data.frames, config.data.size

    def boxed_params() -> Any:
        levels = jnp.zeros((1, T))
        key = jax.random.key(config.seed)
        blank = jax.tree.map(jnp.asarray, blank_batch(config.data, 1))
        condition = to_condition(config, blank, jnp.zeros(1), key)
        return net.init(key, jnp.zeros((1, T, S, S, 3)), levels, levels, condition)["params"]

    def init() -> TrainState:
        params = nn.meta.unbox(boxed_params())
        ema = jax.tree.map(jnp.copy, params)
        profiles = tuple(jax.tree.map(jnp.copy, params) for _ in config.ema.widths)
        return TrainState(jnp.zeros((), jnp.int32), params, ema, profiles, tx.init(params))

    of_params = rules.shardings(mesh, jax.eval_shape(boxed_params))
    shape = jax.eval_shape(init)
    same = rules.replicated(mesh)
    sharding = TrainState(
        step=same,
        params=of_params,
        ema=of_params,
        profiles=(of_params,) * len(config.ema.widths),
        opt_state=rules.like_params(shape.opt_state, of_params, same),
    )
    abstract = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shape, sharding
    )
    return jax.jit(init, out_shardings=sharding), abstract
