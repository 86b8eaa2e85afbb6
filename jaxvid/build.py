"""Builds the parts of a run from its config, for all commands and benchmarks.

    run = build(config)
    state = run.init()                      # the state of step 0
    run.params                              # abstract parameters, to restore a checkpoint

`python -m jaxvid.build` prints docs/keys.md.
"""

import dataclasses
import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax.sharding import Mesh
from jaxtyping import Float32
from ml_collections import ConfigDict

from jaxvid import config as configs
from jaxvid import metrics  # noqa: F401
from jaxvid.conditions.condition import Condition, encode, prepare
from jaxvid.data import pipeline
from jaxvid.data.buckets import Bucket, make_buckets
from jaxvid.data.clips import frame_shape, kind_at
from jaxvid.data.sources.registry import RENDERS
from jaxvid.denoiser import Denoiser, make_denoiser
from jaxvid.diffusion.process import PROCESSES
from jaxvid.errors import InputError
from jaxvid.models.attention import choose
from jaxvid.models.detail import by_kind
from jaxvid.parallel import compiler, rules
from jaxvid.parallel.hosts import Share, put, share_of
from jaxvid.parallel.mesh import make_mesh
from jaxvid.training.optimizer import make_optimizer
from jaxvid.training.state import TrainState, first_state
from jaxvid.training.step import draw_examples, jit_train_step, unpack
from jaxvid.workdir import checkpoint, log, profile  # noqa: F401


def default_config() -> ConfigDict:
    """A config with the default of every key, from which a config file starts."""
    return configs.defaults()


@dataclasses.dataclass(frozen=True)
class Run:
    """The parts of a run on a mesh. A part is built when it is first used.

    Attributes:
      config: the checked config; do not change it.
      mesh: the mesh of devices.
      denoiser: the network with its process and prediction.
    """

    config: ConfigDict
    mesh: Mesh
    denoiser: Denoiser

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """The conditions of the network."""
        return self.denoiser.conditions

    @functools.cached_property
    def details(self) -> dict[str, tuple[int, ...]]:
        """The level of detail of each frame by the kind of a call; {} for one pattern for all."""
        return by_kind(self.config.model, self.config.data.frames)

    @functools.cached_property
    def buckets(self) -> tuple[Bucket, ...]:
        """The buckets of the training clips; one for clips of one shape."""
        unit = rules.batch_parts(self.mesh) * self.config.optimizer.accumulate
        return make_buckets(self.config, unit)

    def detail_at(self, step: int) -> tuple[int, ...]:
        """The level of detail of each frame of the clips of a step, or () for `model.detail`."""
        c = self.config
        return self.details[kind_at(c.data, c.seed, step)] if self.details else ()

    @functools.cached_property
    def encode(self) -> Callable[..., dict[str, Any]]:
        """`conditions.condition.encode` for the conditions of this run."""
        return functools.partial(encode, self.conditions)

    @functools.cached_property
    def share(self) -> Share:
        """Which clips of a batch are this host's."""
        return share_of(rules.batch_sharding(self.mesh), rules.batch_parts(self.mesh))

    def put(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Puts this host's part of a batch on its devices, which paint it if it has scenes."""
        placed = {name: x for name, x in batch.items() if name != "bad"}
        placed = put(placed, rules.batch_sharding(self.mesh), self.share)
        if "scene" in placed:
            placed["video"] = self._render(placed.pop("scene"))
        return placed

    @functools.cached_property
    def _render(self) -> Callable[[Any], jax.Array]:
        """The jitted function from scenes to video. Each device paints its own clips."""
        render = functools.partial(RENDERS[self.config.data.source], self.config.data)
        return jax.jit(render, out_shardings=rules.batch_sharding(self.mesh))

    def batch(self, clips: int, data: ConfigDict | None = None) -> dict[str, Any]:
        """An abstract batch, as `put` returns it: shapes, dtypes and shardings.

        `data` is that of the clips, by default that of the config.
        """
        sharding = rules.batch_sharding(self.mesh)
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((clips, *x.shape[1:]), x.dtype, sharding=sharding),
            pipeline.blank_batch(data or self.config.data, self.encode, 1),
        )

    def network_call(self, clips: int) -> tuple[Any, ...]:
        """`apply` and the abstract arguments of a call of the network on `clips` clips in training.

        With plain attention: others compute more than they need, which is not to count as FLOPs.
        """
        inputs = jax.eval_shape(functools.partial(self._blank_inputs, clips))
        net = self.denoiser.net.clone(attention="einsum")
        return net.apply, {"params": self.params}, *inputs

    def _blank_inputs(self, clips: int) -> tuple[Any, ...]:
        """Video, noise levels, times and lots that are all 0, and null conditions."""
        T, (H, W) = self.config.data.frames, frame_shape(self.config.data)
        levels, key = jnp.zeros((clips, T)), jax.random.key(self.config.seed)
        blank = pipeline.blank_batch(self.config.data, self.encode, clips)["given"]
        given = prepare(self.conditions, jax.tree.map(jnp.asarray, blank), key, training=False)
        lots = levels if self.config.model.skip else None
        return jnp.zeros((clips, T, H, W, 3)), levels, levels, given, lots

    def _boxed_params(self) -> Any:
        """Initial parameters, in Flax's boxes with logical axis names."""
        key = jax.random.key(self.config.seed)
        return self.denoiser.net.init(key, *self._blank_inputs(1))["params"]

    @functools.cached_property
    def boxed_params(self) -> Any:
        """Shapes of the parameters, in Flax's boxes with logical axis names."""
        return jax.eval_shape(self._boxed_params)

    @functools.cached_property
    def params(self) -> Any:
        """Abstract parameters: shapes, dtypes and shardings."""
        return _abstract(nn.meta.unbox(self.boxed_params), self._of_params)

    @functools.cached_property
    def _of_params(self) -> Any:
        return rules.shardings(self.mesh, self.boxed_params)

    @functools.cached_property
    def optimizer(self) -> optax.GradientTransformation:
        """The optimizer of the config."""
        return make_optimizer(self.config, self.boxed_params)

    def _first(self, params: Any = None) -> TrainState:
        params = nn.meta.unbox(self._boxed_params()) if params is None else params
        return first_state(params, self.optimizer.init(params), len(self.config.ema.widths))

    @functools.cached_property
    def state(self) -> TrainState:
        """Abstract training state: shapes, dtypes and shardings."""
        params, same = nn.meta.unbox(self.boxed_params), rules.replicated(self.mesh)
        shape = jax.eval_shape(self._first, params)
        sharding = TrainState(
            step=same,
            params=self._of_params,
            ema=self._of_params,
            profiles=(self._of_params,) * len(self.config.ema.widths),
            opt_state=rules.like_params(
                shape.opt_state, self.params, self.mesh, on_host=self.config.optimizer.offload
            ),
        )
        return _abstract(shape, sharding)

    def init(self, params: Any = None) -> TrainState:
        """The state of step 0, from `params` if given. Each device computes its own part."""
        sharding = jax.tree.map(lambda x: x.sharding, self.state)
        return jax.jit(self._first, out_shardings=sharding)(params)

    @functools.cached_property
    def train_step(self) -> Callable[..., tuple[TrainState, Any]]:
        """The jitted step `(state, batch, detail) -> (state, metrics)`; the state is donated.

        `detail` is that of `detail_at`. The metrics are one vector, see `metrics_of`.
        """
        options = compiler.options(self.mesh.devices.flat[0].device_kind)
        return jit_train_step(self.config, self.denoiser, self.optimizer, self.state, options)

    def metrics_of(self, vector: Float32[np.ndarray | jax.Array, " M"]) -> dict[str, Any]:
        """The metrics of a step by name: `loss`, `lr`, `grad_norm`, … as in `make_train_step`."""
        return unpack(np.asarray(vector), self.params)


def build(config: ConfigDict, devices: Sequence[jax.Device] | None = None) -> Run:
    """Builds the run of a config, on all devices or on `devices`.

    Raises InputError if the mesh or `model.attention` does not fit the devices.
    """
    mesh = make_mesh(config.mesh, devices)
    platform = mesh.devices.flat[0].platform
    choose(config.model.attention, platform)
    return Run(config, mesh, make_denoiser(config, platform))


def check_training(run: Run) -> None:
    """Raises InputError if the batch or the parameters do not divide over the mesh."""
    config = run.config
    parts, accumulate = rules.batch_parts(run.mesh), config.optimizer.accumulate
    if config.batch_size // accumulate % parts:
        raise InputError(
            f"config.batch_size={config.batch_size} with config.optimizer.accumulate={accumulate} "
            f"does not divide over the {parts} devices of the mesh axes replica, data and fsdp: "
            f"make it a multiple of {parts * accumulate}"
        )
    check_mesh(run)


def check_mesh(run: Run) -> None:
    """Raises InputError if the parameters or the tokens of a clip do not divide over the mesh."""
    config, mesh = run.config, run.mesh
    for axis, name in (("fsdp", "width"), ("tensor", "heads")):
        if config.model[name] % mesh.shape[axis]:
            raise InputError(
                f"config.model.{name}={config.model[name]} does not divide over config.mesh.{axis}="
                f"{mesh.shape[axis]}: make it a multiple"
            )
    rules.check_divides(mesh, run.boxed_params)
    _check_context(run)


def _check_context(run: Run) -> None:
    """Raises InputError if what the mesh axis `context` divides is no multiple of it."""
    data, net, context = run.config.data, run.denoiser.net, run.mesh.shape["context"]
    if context == 1:
        return
    for detail in run.details.values() or [()]:
        net = run.denoiser.at(detail).net
        for what, count in net.divided(data.frames, frame_shape(data), run.mesh.shape["tensor"]):
            if count % context:
                raise InputError(
                    f"config.mesh.context={context}: it must divide the {count} {what}; change it, "
                    "or the clip or the network"
                )


def least_memory(run: Run) -> int:
    """A lower bound of the bytes per device that a training step needs, without compiling it.

    It adds up the state, a gradient, and what the forward pass keeps for the backward pass.
    """
    config = run.config
    blank = pipeline.blank_batch(
        config.data, run.encode, config.batch_size // config.optimizer.accumulate
    )

    def kept(params: Any) -> Any:
        batch = jax.tree.map(jnp.asarray, blank)
        examples = draw_examples(config, run.denoiser, batch, jax.random.key(0))
        part = (examples.x_t, examples.noise, examples.time, examples.given, examples.lots)
        return jax.vjp(lambda p: run.denoiser.predict({"params": p}, *part), params)[1]

    state, grads, between = map(
        rules.bytes_of_part, (run.state, run.params, jax.eval_shape(kept, run.params))
    )
    return state + grads + between // (rules.batch_parts(run.mesh) * run.mesh.shape["context"])


def advice(config: ConfigDict) -> list[str]:
    """Notes about choices that are valid but usually a mistake, one line each."""
    name, flat = config.diffusion.process, configs.flatten(config)
    unsuited = {k: v for k, v in PROCESSES[name].suits.items() if flat[k] != v}
    if not unsuited:
        return []
    better = " ".join(f"--config.{key}={value}" for key, value in unsuited.items())
    return [f"note: diffusion.process={name} trains better with its published settings: {better}"]


def _abstract(shapes: Any, shardings: Any) -> Any:
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings
    )


if __name__ == "__main__":
    sys.stdout.write(configs.document())
