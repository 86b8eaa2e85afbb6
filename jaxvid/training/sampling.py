"""Drawing clips from a network, on all devices at once, and showing them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float32, UInt8
from ml_collections import ConfigDict

from jaxvid.data.pipeline import blank_batch
from jaxvid.data.video import write_video
from jaxvid.diffusion import guidance, process, sampler, schedule
from jaxvid.diffusion.noise import shift
from jaxvid.models import conditioning
from jaxvid.models.transformer import SpaceTimeTransformer
from jaxvid.parallel import rules
from jaxvid.training import pictures
from jaxvid.training.inputs import to_condition, to_float
from jaxvid.training.step import time_shift


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


def write_samples(
    folder: Path,
    videos: UInt8[np.ndarray, "B T H W 3"],
    fps: float,
    observed: Bool[np.ndarray, "T"],
) -> Path:
    """Writes `000.mp4` … and `sheet.png`, a row per clip, into a folder; returns the sheet's path.

    Frames are magnified by a whole number until they can be looked at.
    """
    folder.mkdir(parents=True, exist_ok=True)
    scale = max(1, 256 // videos.shape[2])
    for i, video in enumerate(videos):
        write_video(folder / f"{i:03d}.mp4", video, fps, scale)
    sheet = folder / "sheet.png"
    pictures.write_png(sheet, pictures.contact_sheet(videos, observed=observed))
    return sheet
