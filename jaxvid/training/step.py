"""One training step: the same pure function on one device and on a pod."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from einops import rearrange
from flax import linen as nn
from flax import struct
from jaxtyping import Array, Float32, UInt8
from ml_collections import ConfigDict

from jaxvid.diffusion import loss, noise, process, tasks
from jaxvid.models.transformer import Condition, SpaceTimeTransformer
from jaxvid.parallel.rules import RULES
from jaxvid.training.optimizer import make_schedule
from jaxvid.training.state import TrainState

NOISE_BINS = 4


@struct.dataclass
class Examples:
    """A batch after everything random has been drawn: what the network sees and should say.

    Attributes:
      x_t, x0, eps: noisy frames, clean frames and noise, float32 [B,T,H,W,C].
      noise: levels [B,T].
      time: seconds [B,T].
      unknown: frames that are not observed, bool [B,T].
      condition: a `Condition`.
    """

    x_t: Any
    x0: Any
    eps: Any
    noise: Any
    time: Any
    unknown: Any
    condition: Any


def to_float(video: UInt8[Array, "B T H W 3"]) -> Float32[Array, "B T H W 3"]:
    """Pixels as [-1, 1]."""
    return video.astype(jnp.float32) / 127.5 - 1


def draw_examples(config: ConfigDict, batch: dict[str, Array], key: Array) -> Examples:
    """Draws the task, noise levels and noise of every clip, and which labels are dropped.

    Args:
      config: its `tasks`, `diffusion` and `model.label_dropout` are used.
      batch: `video` uint8 [B,T,H,W,3], `time` [B,T] in seconds, `label` [B].
      key: of this step.
    """
    d = config.diffusion
    x0 = to_float(batch["video"])
    B, T = x0.shape[:2]
    task_key, noise_key, eps_key, label_key = jax.random.split(key, 4)
    observed = tasks.sample_observed(task_key, config.tasks.to_dict(), B, T)
    level = noise.sample_noise(
        noise_key, (B, 1), d.noise, mean=d.noise_mean, std=d.noise_std, low=d.noise_low
    )
    levels = jnp.where(observed, 0.0, level)
    eps = jax.random.normal(eps_key, x0.shape)
    dropped = jax.random.bernoulli(label_key, config.model.label_dropout, (B,))
    return Examples(
        x_t=process.corrupt(process.PROCESSES[d.process], x0, eps, levels),
        x0=x0,
        eps=eps,
        noise=levels,
        time=batch["time"],
        unknown=~observed,
        condition=Condition(label=jnp.where(dropped, -1, batch["label"])),
    )


def make_train_step(
    config: ConfigDict,
    net: SpaceTimeTransformer,
    tx: optax.GradientTransformation,
    lr: Callable[[Array], Array],
) -> Callable[[TrainState, dict[str, Array]], tuple[TrainState, dict[str, Any]]]:
    """The step as a pure function `(state, batch) -> (state, metrics)`, to be jitted.

    With `optimizer.accumulate` = n the batch goes through the network in n parts, one after the
    other; the loss is the mean over the whole batch's unknown frames either way.
    """
    d, parts = config.diffusion, config.optimizer.accumulate

    def part_loss(params: Any, part: Examples, unknown: Array) -> tuple[Array, tuple]:
        with nn.logical_axis_rules(RULES):
            output = net.apply({"params": params}, part.x_t, part.noise, part.time, part.condition)
        errors = loss.frame_errors(
            process.PROCESSES[d.process], output, part.x_t, part.x0, part.eps, part.noise,
            d.prediction, d.loss,
        )  # fmt: skip
        bins = loss.by_noise_level(errors, part.noise, part.unknown, NOISE_BINS)
        return jnp.sum(bins[0]) / unknown, bins

    def train_step(state: TrainState, batch: dict[str, Array]):
        key = jax.random.fold_in(jax.random.key(config.seed), state.step)
        examples = draw_examples(config, batch, key)
        unknown = jnp.maximum(jnp.sum(examples.unknown), 1)
        gradient = jax.value_and_grad(part_loss, has_aux=True)
        if parts == 1:
            (value, bins), grads = gradient(state.params, examples, unknown)
        else:
            # Every part takes some of each device's clips, so no clip moves between devices.
            split = jax.tree.map(lambda x: rearrange(x, "(b n) ... -> n b ...", n=parts), examples)

            def add(total: Any, part: Examples) -> tuple[Any, None]:
                return jax.tree.map(jnp.add, total, gradient(state.params, part, unknown)), None

            shape = jax.eval_shape(
                gradient, state.params, jax.tree.map(lambda x: x[0], split), unknown
            )
            zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shape)
            ((value, bins), grads), _ = jax.lax.scan(add, zeros, split)

        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        # Early on, average over the steps there were: Adam's bias correction, for weights.
        decay = jnp.minimum(config.ema.decay, (1 + state.step) / (10 + state.step))
        ema = optax.incremental_update(params, state.ema, 1 - decay)
        metrics = {
            "loss": value,
            "bins": bins,
            "lr": lr(state.step),
            "param_norm": optax.tree.norm(params),
            "grad_norm": optax.tree.norm(grads),
            "grad_norms": jax.tree.map(jnp.linalg.norm, grads),
        }
        return TrainState(state.step + 1, params, ema, opt_state), metrics

    return train_step


def jit_train_step(
    config: ConfigDict, net: SpaceTimeTransformer, tx: optax.GradientTransformation, state: Any
) -> Any:
    """`make_train_step`, jitted: the state, sharded as the abstract `state`, is donated."""
    return jax.jit(
        make_train_step(config, net, tx, make_schedule(config)),
        donate_argnums=0,
        out_shardings=(jax.tree.map(lambda x: x.sharding, state), state.step.sharding),
    )
