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

from jaxvid.data.video import write_video
from jaxvid.diffusion import guidance, process, sampler
from jaxvid.models.transformer import Condition, SpaceTimeTransformer
from jaxvid.parallel import rules
from jaxvid.training import pictures
from jaxvid.training.step import to_float


def make_sampler(
    config: ConfigDict,
    net: SpaceTimeTransformer,
    mesh: Mesh,
    observed: Bool[np.ndarray, "T"],
) -> Callable[[Any, Array, dict[str, Array]], UInt8[Array, "B T H W 3"]]:
    """A jitted `(params, key, clips) -> videos`, by the `sampler` part of the config.

    `clips` is like a batch: `time` and `label` say what to draw, and the frames of `video` that
    are `observed` are kept; the others are not looked at. The videos come out on every device.
    """
    c, kind = config.sampler, process.PROCESSES[config.diffusion.process]
    cfg_scale = float(c.cfg_scale) if config.model.labels else 1.0

    def draw(params: Any, key: Array, clips: dict[str, Array]) -> UInt8[Array, "B T H W 3"]:
        def denoise(x: Array, noise: Array, condition: Any) -> Float32[Array, "B T H W C"]:
            with nn.logical_axis_rules(rules.RULES):
                output = net.apply({"params": params}, x, noise, *condition)
            return process.convert(kind, output, x, noise, config.diffusion.prediction, "x0")

        label = clips["label"]
        wanted, null = (
            (clips["time"], Condition(label=chosen)) for chosen in (label, jnp.full_like(label, -1))
        )
        given = jnp.asarray(observed)[:, None, None, None]
        eps = jax.random.normal(key, clips["video"].shape)
        x = sampler.sample(
            guidance.guide(denoise, wanted, null, cfg_scale),
            kind,
            jnp.where(given, to_float(clips["video"]), eps),
            sampler.schedule(c.steps, observed),
            c.name,
        )
        drawn = jnp.clip(jnp.round((x + 1) * 127.5), 0, 255).astype(jnp.uint8)
        return jnp.where(given, clips["video"], drawn)

    return jax.jit(draw, out_shardings=rules.replicated(mesh))


def blank_clips(config: ConfigDict, num: int, mesh: Mesh) -> dict[str, np.ndarray]:
    """What to draw where nothing is given: classes in turn, frames evenly spaced.

    There are `num` clips, or the next number above that divides over the mesh.
    """
    T, S = config.data.frames, config.data.size
    parts = rules.batch_parts(mesh)
    num = -(-num // parts) * parts
    labels = config.model.labels
    return {
        "video": np.zeros((num, T, S, S, 3), np.uint8),
        "time": np.tile(np.arange(T, dtype=np.float32) / config.data.fps, (num, 1)),
        "label": (np.arange(num) % labels if labels else np.full(num, -1)).astype(np.int32),
    }


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
