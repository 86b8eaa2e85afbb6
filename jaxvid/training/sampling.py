"""Drawing clips from a network, on all devices at once, and showing them."""

from collections.abc import Callable
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
from jaxvid.training.step import time_shift, to_float


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
    c, kind = config.sampler, process.PROCESSES[config.diffusion.process]
    conditional = config.model.labels or config.data.text_length or config.data.action_dim
    cfg_scale = float(c.cfg_scale) if conditional else 1.0

    def draw(params: Any, key: Array, clips: dict[str, Array]) -> UInt8[Array, "B T H W 3"]:
        def denoise(x: Array, noise: Array, condition: Any) -> Float32[Array, "B T H W C"]:
            with nn.logical_axis_rules(rules.RULES):
                scaled = x * process.input_scale(kind, noise)
                output = net.apply({"params": params}, scaled, noise, *condition)
            return process.convert(kind, output, x, noise, config.diffusion.prediction, "x0")

        condition = conditioning.of_batch(clips)
        wanted, null = (
            (clips["time"], chosen) for chosen in (condition, conditioning.null(condition))
        )
        given = jnp.asarray(observed)[:, None, None, None]
        levels = shift(schedule.ladder(kind, c.steps, c.spacing), time_shift(config))
        eps_key, step_key = jax.random.split(key)
        start = kind.sigma(jnp.ones(())) * jax.random.normal(eps_key, clips["video"].shape)
        x = sampler.sample(
            guidance.guide(
                denoise, wanted, null, cfg_scale,
                interval=tuple(c.cfg_interval), rescale=c.cfg_rescale,
            ),
            kind,
            jnp.where(given, to_float(clips["video"]), start),
            schedule.staggered(levels, observed, c.lag),
            c.name,
            eta=c.eta,
            key=step_key,
        )  # fmt: skip
        drawn = jnp.clip(jnp.round((x + 1) * 127.5), 0, 255).astype(jnp.uint8)
        return jnp.where(given, clips["video"], drawn)

    return jax.jit(draw, out_shardings=rules.replicated(mesh))


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
