"""The training step: one pure function for a single device and for a pod."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from einops import rearrange
from flax import struct
from jaxtyping import Array, Float32
from ml_collections import ConfigDict

from jaxvid.conditions.condition import drop, prepare
from jaxvid.data.pixels import to_float
from jaxvid.denoiser import Denoiser
from jaxvid.diffusion import loss, noise, process
from jaxvid.parallel.rules import on_device
from jaxvid.sampling import tasks
from jaxvid.sampling.draw import time_shift
from jaxvid.training.ema import update as update_profile
from jaxvid.training.optimizer import make_schedule
from jaxvid.training.state import TrainState

NOISE_BINS = 4


@struct.dataclass
class Draws:
    """A batch with its random draws but for its noise, which takes most memory.

    Attributes:
      video: clean frames, uint8 [B,T,H,W,C].
      noise: noise levels [B,T].
      time: times in seconds [B,T].
      unknown: which frames are not observed, bool [B,T].
      given: the arrays of each condition that the network sees.
      lots: random numbers by which frames skip layers, [B,T]; None if none do.
    """

    video: Any
    noise: Any
    time: Any
    unknown: Any
    given: Any
    lots: Any = None


@struct.dataclass
class Examples(Draws):
    """A batch with all of its random draws.

    Attributes:
      x_t, x0, eps: noisy frames, clean frames and Gaussian noise, float32 [B,T,H,W,C].
    """

    x_t: Any = None
    x0: Any = None
    eps: Any = None


def draw_examples(
    config: ConfigDict, denoiser: Denoiser, batch: dict[str, Any], key: Array
) -> Examples:
    """`draw`, then `add_noise`, of a whole batch."""
    return add_noise(denoiser, *draw(config, denoiser, batch, key))


def add_noise(denoiser: Denoiser, draws: Draws, key: Array) -> Examples:
    """Draws eps, and makes frames as noisy as their levels say."""
    x0 = to_float(draws.video)
    eps = jax.random.normal(key, x0.shape)
    x_t = process.corrupt(denoiser.process, x0, eps, draws.noise)
    return Examples(**vars(draws), x_t=x_t, x0=x0, eps=eps)


def draw(
    config: ConfigDict, denoiser: Denoiser, batch: dict[str, Any], key: Array
) -> tuple[Draws, Array]:
    """Draws the task, noise levels and dropped conditions of every clip.

    Each clip draws the level of its observed frames uniformly from [0, `max_observed_noise`]. The
    network sees this level, and so learns how far to trust frames that it drew itself.

    Args:
      config: the config; `tasks`, `diffusion` and `conditions.dropout` are used.
      denoiser: the denoiser, whose process adds the noise.
      batch: `video` uint8 [B,T,H,W,3], `time` [B,T] in seconds, and `given`; `observed` bool [B,T]
        if the clips are those of plans, whose frames need not be in order.
      key: random key of this step.

    Returns:
      The draws, and the key for `add_noise`.
    """
    d = config.diffusion
    B, T, *size = batch["video"].shape
    task_key, noise_key, eps_key, drop_key = jax.random.split(key, 4)
    observed = tasks.sample_observed(
        task_key, config.tasks.to_dict(), B, T, batch.get("observed"),
        order=jnp.argsort(jnp.argsort(batch["time"])) if "observed" in batch else None,
    )  # fmt: skip
    level = noise.sample_noise(
        noise_key,
        (B, T if d.per_frame else 1),
        d.noise_distribution,
        mean=d.noise_mean,
        std=d.noise_std,
        low=d.noise_low,
        stratified=d.stratified,
    )
    # Not a part of the split above, so that this level does not change the other draws.
    given_level = jax.random.uniform(
        jax.random.fold_in(key, 4), (B, 1), maxval=d.max_observed_noise
    )
    levels = jnp.where(
        observed, given_level, noise.shift(level, time_shift(config, (T, *size[:2])))
    )
    given = prepare(denoiser.conditions, batch["given"], key, training=True)
    draws = Draws(
        video=batch["video"],
        noise=levels,
        time=batch["time"],
        unknown=~observed,
        given=drop(denoiser.conditions, given, drop_key, config.conditions.dropout),
        lots=jax.random.uniform(jax.random.fold_in(key, 7), (B, T)) if config.model.skip else None,
    )
    return draws, eps_key


def loss_by_noise(
    config: ConfigDict, denoiser: Denoiser, params: Any, examples: Examples
) -> tuple[Array, Array]:
    """Sums and counts of the losses of unknown frames, [4] each, by their noise levels.

    `loss.by_noise_level` has the levels.
    """
    d, e = config.diffusion, examples
    output = denoiser.predict({"params": params}, e.x_t, e.noise, e.time, e.given, e.lots)
    errors = loss.frame_errors(
        denoiser.process, output, e.x_t, e.x0, e.eps, e.noise,
        denoiser.prediction, d.loss_space, d.weighting, gamma=d.gamma, bias=d.bias,
    )  # fmt: skip
    return loss.by_noise_level(errors, e.noise, e.unknown, NOISE_BINS)


def make_train_step(
    config: ConfigDict,
    denoiser: Denoiser,
    tx: optax.GradientTransformation,
    of_params: Any = None,
) -> Callable[[TrainState, dict[str, Any]], tuple[TrainState, dict[str, Any]]]:
    """Makes the step, a pure function `(state, batch) -> (state, metrics)` to be jitted.

    With `optimizer.accumulate` = n the network processes the batch in n parts, one after another,
    each with noise of its own. The loss is always the mean over the unknown frames of the whole
    batch. The sums of the gradients keep the shardings `of_params`, if given.
    """
    parts, lr = config.optimizer.accumulate, make_schedule(config)

    def part_loss(params: Any, part: Examples, unknown: Array) -> tuple[Array, tuple]:
        bins = loss_by_noise(config, denoiser, params, part)
        return jnp.sum(bins[0]) / unknown, bins

    def train_step(state: TrainState, batch: dict[str, Any]):
        key = jax.random.fold_in(jax.random.key(config.seed), state.step)
        draws, eps_key = draw(config, denoiser, batch, key)
        unknown = jnp.maximum(jnp.sum(draws.unknown), 1)

        def gradient(part: Draws, eps_key: Array) -> tuple[tuple[Array, tuple], Any]:
            examples = add_noise(denoiser, part, eps_key)
            of_loss = jax.value_and_grad(part_loss, has_aux=True)
            result, grads = of_loss(state.params, examples, unknown)
            if of_params is not None:
                grads = jax.lax.with_sharding_constraint(grads, of_params)
            return result, grads

        if parts == 1:
            (value, bins), grads = gradient(draws, eps_key)
        else:
            # Every part takes clips from each device, so that no clip moves between devices.
            split = jax.tree.map(lambda x: rearrange(x, "(b n) ... -> n b ...", n=parts), draws)
            split = split, jax.random.split(eps_key, parts)

            def add(total: Any, part: tuple[Draws, Array]) -> tuple[Any, None]:
                return jax.tree.map(jnp.add, total, gradient(*part)), None

            shape = jax.eval_shape(gradient, *jax.tree.map(lambda x: x[0], split))
            zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shape)
            ((value, bins), grads), _ = jax.lax.scan(add, zeros, split)

        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        # Early steps average over fewer steps, like the bias correction of Adam.
        decay = jnp.minimum(config.ema.decay, (1 + state.step) / (10 + state.step))
        ema = optax.incremental_update(params, state.ema, 1 - decay)
        profiles = tuple(
            update_profile(average, params, state.step + 1, width)
            for average, width in zip(state.profiles, config.ema.widths, strict=True)
        )
        grad_norms = jax.tree.map(jnp.linalg.norm, grads)
        metrics = {
            "loss": value,
            "bins": bins,
            "lr": lr(state.step),
            "param_norm": optax.tree.norm(params),
            "grad_norm": optax.tree.norm(grad_norms),
            "grad_norms": grad_norms,
        }
        return TrainState(state.step + 1, params, ema, profiles, opt_state), metrics

    return train_step


def pack(metrics: dict[str, Any]) -> Float32[Array, " M"]:
    """The metrics of a step as one vector, so that a step hands the host one array."""
    leaves = jax.tree.leaves(metrics)
    return jnp.concatenate([jnp.ravel(x).astype(jnp.float32) for x in leaves])


def unpack(vector: Float32[np.ndarray, " M"], params: Any) -> dict[str, Any]:
    """The inverse of `pack`, for a network with `params`, which may be abstract."""
    bins = np.zeros(NOISE_BINS)
    like = dict.fromkeys(("loss", "lr", "param_norm", "grad_norm"), np.zeros(()))
    like |= {"bins": (bins, bins), "grad_norms": jax.tree.map(lambda _: np.zeros(()), params)}
    leaves, tree = jax.tree.flatten(like)
    parts = np.split(np.asarray(vector), np.cumsum([x.size for x in leaves])[:-1])
    return tree.unflatten(p.reshape(x.shape) for p, x in zip(parts, leaves, strict=True))


def jit_train_step(
    config: ConfigDict,
    denoiser: Denoiser,
    tx: optax.GradientTransformation,
    state: TrainState,
    compiler_options: dict[str, str],
) -> Any:
    """Jits `make_train_step` with packed metrics.

    The state is donated and keeps the shardings of `state`, some of which may be in the memory of
    the hosts. The third argument is the level of
    detail of each frame, by default `model.detail`; the step is compiled for each that it meets.
    """

    of_params, abstract = jax.tree.map(lambda x: x.sharding, state.params), state.opt_state

    def train_step(
        state: TrainState, batch: dict[str, Any], detail: tuple[int, ...] = ()
    ) -> tuple[TrainState, Array]:
        step = make_train_step(config, denoiser.at(detail), tx, of_params)
        state = state.replace(opt_state=on_device(state.opt_state, abstract))
        state, metrics = step(state, batch)
        return state, pack(metrics)

    return jax.jit(
        train_step,
        donate_argnums=0,
        static_argnums=2,
        out_shardings=(jax.tree.map(lambda x: x.sharding, state), state.step.sharding),
        compiler_options=compiler_options,
    )
