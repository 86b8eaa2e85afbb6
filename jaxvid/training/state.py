"""The state of a training run: all that a step reads and changes."""

import functools
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


def make_network(config: ConfigDict) -> SpaceTimeTransformer:
    """The network of the `model` part of a config."""
    model = config.model.to_dict()
    fields = {name: value for name, value in model.items() if not name.endswith("_dropout")}
    fields |= {"patch": tuple(model["patch"]), "dtype": jnp.dtype(model["dtype"])}
    return SpaceTimeTransformer(**fields)


def blank_inputs(config: ConfigDict, clips: int) -> tuple[Any, ...]:
    """Video, noise, time and condition of so many clips: all that the network is applied to."""
    T, S = config.data.frames, config.data.size
    levels = jnp.zeros((clips, T))
    blank = jax.tree.map(jnp.asarray, blank_batch(config.data, clips))
    condition = to_condition(config, blank, jnp.zeros(clips), jax.random.key(config.seed))
    return jnp.zeros((clips, T, S, S, 3)), levels, levels, condition


def init_params(config: ConfigDict, net: SpaceTimeTransformer) -> Any:
    """The parameters of step 0, in boxes with what is declared about each; see `Weight`."""
    return net.init(jax.random.key(config.seed), *blank_inputs(config, 1))["params"]


def boxed_params(config: ConfigDict, net: SpaceTimeTransformer) -> Any:
    """The shapes of `init_params`, in their boxes."""
    return jax.eval_shape(functools.partial(init_params, config, net))


def make_init(
    config: ConfigDict, net: SpaceTimeTransformer, tx: optax.GradientTransformation, mesh: Mesh
) -> tuple[Callable[[], TrainState], TrainState]:
    """How to make the state of step 0, each device making its own part.

    Returns:
      A function without arguments, and the abstract state: shapes, dtypes and shardings.
    """

    def init() -> TrainState:
        params = nn.meta.unbox(init_params(config, net))
        ema = jax.tree.map(jnp.copy, params)
        profiles = tuple(jax.tree.map(jnp.copy, params) for _ in config.ema.widths)
        return TrainState(jnp.zeros((), jnp.int32), params, ema, profiles, tx.init(params))

    of_params = rules.shardings(mesh, boxed_params(config, net))
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
