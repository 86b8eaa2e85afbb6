"""Drawing clips from a network, on all devices at once."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float32, UInt8
from ml_collections import ConfigDict

from jaxvid.config import (
    NATURAL,
    NUMBER,
    POSITIVE,
    UNIT,
    Rule,
    declare,
    is_sequence,
    key,
    one_of,
    requirement,
)
from jaxvid.data.pipeline import blank_batch
from jaxvid.data.pixels import to_condition, to_float
from jaxvid.diffusion import guidance, process, sampler, schedule
from jaxvid.diffusion.noise import resolution_shift, shift
from jaxvid.diffusion.sampler import SAMPLERS
from jaxvid.diffusion.schedule import SPACINGS
from jaxvid.errors import InputError
from jaxvid.models import conditioning
from jaxvid.models.transformer import SpaceTimeTransformer
from jaxvid.parallel import rules

declare(
    "sampler",
    name=key("dpmpp_2m", one_of(SAMPLERS), "the rule of a step", free=True),
    steps=key(32, POSITIVE, "noise levels on the way from noise to clip", free=True),
    spacing=key("uniform", one_of(SPACINGS), "of those levels", free=True),
    lag=key(0, NATURAL, "steps by which a frame is behind the one before it", free=True),
    eta=key(0.0, UNIT, 'noise that "ddim" adds on the way', free=True),
    cfg_scale=key(1.0, NUMBER, "strength of classifier-free guidance; 1 is none", free=True),
    cfg_interval=key(
        (0.0, 1.0),
        Rule(
            "(lowest, highest) noise level, from 0 to 1",
            lambda v: is_sequence(v, UNIT.holds, 2) and v[0] <= v[1],
        ),
        "noise levels at which there is guidance",
        free=True,
    ),
    cfg_rescale=key(0.0, UNIT, "how far guidance keeps the contrast of a frame", free=True),
    observed_noise=key(0.0, UNIT, "noise level of observed frames", free=True),
    low_res_noise=key(0.0, UNIT, "noise level of low-resolution video", free=True),
    num=key(8, POSITIVE, "clips drawn during training", free=True),
)
declare(
    "diffusion",
    max_observed_noise=key(
        0.0, UNIT, "highest noise level of observed frames", was="diffusion.observed_noise"
    ),
    max_low_res_noise=key(
        0.3, UNIT, "highest noise level of low-resolution video", was="diffusion.low_res_noise"
    ),
)


def make_sampler(
    config: ConfigDict,
    net: SpaceTimeTransformer,
    mesh: Mesh,
    observed: Bool[np.ndarray, "T"],
) -> Callable[[Any, Array, dict[str, Array]], UInt8[Array, "B T H W 3"]]:
    """A jitted `(params, key, clips) -> videos`, by the `sampler` part of the config.

    `clips` is like a batch: `time` and the condition say what to draw, and the frames of `video`
    that are `observed` are kept; the others are not looked at. The videos come out on every device.
    """

    def run(params: Any, key: Array, clips: dict[str, Array]) -> UInt8[Array, "B T H W 3"]:
        return draw(config, net, {"params": params}, key, clips, observed)

    return jax.jit(run, out_shardings=rules.replicated(mesh))


def draw(
    config: ConfigDict,
    net: SpaceTimeTransformer,
    variables: Mapping[str, Any],
    key: Array,
    clips: dict[str, Array],
    observed: Bool[np.ndarray, "T"],
) -> UInt8[Array, "B T H W 3"]:
    """What `make_sampler` jits; `variables` may hold the state of a stream beside parameters."""
    c, kind = config.sampler, process.PROCESSES[config.diffusion.process]

    def denoise(x: Array, noise: Array, condition: Any) -> Float32[Array, "B T H W C"]:
        with nn.logical_axis_rules(rules.RULES):
            scaled = x * process.input_scale(kind, noise)
            output = net.apply(variables, scaled, noise, *condition)
        return process.convert(kind, output, x, noise, config.diffusion.prediction, "x0")

    given = jnp.asarray(observed)[:, None, None, None]
    levels = shift(schedule.ladder(kind, c.steps, c.spacing), time_shift(config))
    rows = schedule.staggered(levels, observed, c.lag, c.observed_noise)
    eps_key, step_key = jax.random.split(key)
    eps = jax.random.normal(eps_key, clips["video"].shape)
    first = jnp.broadcast_to(rows[0], clips["time"].shape)
    seen = process.corrupt(kind, to_float(clips["video"]), eps, first)
    x = sampler.sample(
        guidance.guide(
            denoise, *_wanted_and_null(config, key, clips), guidance_scale(config),
            interval=tuple(c.cfg_interval), rescale=c.cfg_rescale,
        ),
        kind,
        jnp.where(given, seen, kind.sigma(jnp.ones(())) * eps),
        rows,
        c.name,
        eta=c.eta,
        key=step_key,
    )  # fmt: skip
    drawn = jnp.clip(jnp.round((x + 1) * 127.5), 0, 255).astype(jnp.uint8)
    return jnp.where(given, clips["video"], drawn)


def remember(
    config: ConfigDict,
    net: SpaceTimeTransformer,
    variables: Mapping[str, Any],
    key: Array,
    clips: dict[str, Array],
) -> Any:
    """The state of a causal network's stream once it has seen the frames of `clips` as observed.

    With the `key` that drew them, their condition is what it was.
    """
    kind = process.PROCESSES[config.diffusion.process]
    noise = jnp.full(clips["time"].shape, config.sampler.observed_noise)
    eps = jax.random.normal(jax.random.fold_in(key, 3), clips["video"].shape)
    seen = process.corrupt(kind, to_float(clips["video"]), eps, noise)
    given, null = ((seen, noise, *c) for c in _wanted_and_null(config, key, clips))
    given = given if guidance_scale(config) == 1 else guidance.pair(given, null)
    video, noise, time, condition = given
    with nn.logical_axis_rules(rules.RULES):
        scaled = video * process.input_scale(kind, noise)
        return net.apply(variables, scaled, noise, time, condition, mutable=["cache"])[1]


def time_shift(config: ConfigDict) -> float:
    """By how much the noise levels of training and sampling are moved up: `noise.shift`."""
    reference, data = config.diffusion.shift_reference, config.data
    if not reference:
        return 1.0
    return resolution_shift((data.frames, data.size, data.size), reference)


def guidance_scale(config: ConfigDict) -> float:
    """`sampler.cfg_scale`, or 1 where the network has no condition to be guided by."""
    data = config.data
    conditional = config.model.labels or data.text_length or data.action_dim or data.low_res
    return float(config.sampler.cfg_scale) if conditional else 1.0


def _wanted_and_null(
    config: ConfigDict, key: Array, clips: dict[str, Array]
) -> tuple[tuple[Array, Any], tuple[Array, Any]]:
    level = jnp.full(len(clips["time"]), config.sampler.low_res_noise)
    # Not one of the keys that `draw` and `remember` make.
    condition = to_condition(config, clips, level, jax.random.fold_in(key, 2))
    return (clips["time"], condition), (clips["time"], conditioning.null(condition))


def blank_clips(config: ConfigDict, num: int, mesh: Mesh) -> dict[str, np.ndarray]:
    """What to draw where nothing is given: classes in turn, frames evenly spaced.

    There are `num` clips, or the next number above that divides over the mesh.
    """
    parts = rules.batch_parts(mesh)
    num = -(-num // parts) * parts
    clips = blank_batch(config.data, num)
    if config.model.labels:
        clips["label"] = np.arange(num, dtype=np.int32) % config.model.labels
    return clips


@requirement
def _check_sampler(config: ConfigDict) -> None:
    c = config.sampler
    if c.lag > c.steps:
        raise InputError(
            f"config.sampler.lag={c.lag}: it must be at most config.sampler.steps={c.steps}, where "
            "frames come one at a time"
        )
    if c.eta and c.name != "ddim":
        raise InputError(
            f"config.sampler.eta={c.eta}: only the sampler 'ddim' takes it, not {c.name!r}"
        )
    for name, highest in (
        ("observed_noise", config.diffusion.max_observed_noise),
        ("low_res_noise", config.diffusion.max_low_res_noise),
    ):
        # A network of `per_frame` levels knows all of them at any frame.
        if c[name] > highest and not (config.diffusion.per_frame and name == "observed_noise"):
            raise InputError(
                f"config.sampler.{name}={c[name]}: it must be at most config.diffusion.max_{name}="
                f"{highest}, the highest level in training"
            )
