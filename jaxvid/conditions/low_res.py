"""The video at a lower resolution, for spatial super-resolution.

It is enlarged and concatenated on channels. Training adds noise to it, and the network sees the
noise level, so it learns how far to trust the output of a codec or of another network (noise
conditioning augmentation, Ho et al. 2022, arXiv 2106.15282).
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import ClassVar

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, PyTree
from ml_collections import ConfigDict

from jaxvid.conditions.condition import Condition, condition
from jaxvid.config import FRACTION, NATURAL, UNIT, declare, key, requirement
from jaxvid.data.clips import Clip, frame_shape
from jaxvid.data.pixels import to_float
from jaxvid.data.video import read_video
from jaxvid.diffusion.process import PROCESSES, corrupt, input_scale
from jaxvid.errors import InputError
from jaxvid.models import embeddings
from jaxvid.models.conditioning import NOISE_FREQUENCIES, Entry, Setting
from jaxvid.models.layers import dense

declare(
    "conditions.low_res",
    factor=key(
        0,
        NATURAL,
        "sides of a clip over those of its low-resolution video; 0 is off",
        was="data.low_res",
    ),
    max_noise=key(
        0.3,
        UNIT,
        "highest noise level of the low-resolution video in training",
        was="diffusion.low_res_noise",
    ),
    noise=key(
        0.0,
        UNIT,
        "noise level of the low-resolution video in sampling",
        free=True,
        was="sampler.low_res_noise",
    ),
    dropout=key(
        0.0,
        FRACTION,
        "extra share of clips that train without low-resolution video",
        was="model.low_res_dropout",
    ),
)


@condition("low_res")
@dataclasses.dataclass(frozen=True)
class LowRes(Condition):
    """`video` uint8 [B,T,h,w,3]; the network sees it as floats, with its noise level `noise` [B].

    Null is a video of zeros at level 1.

    Attributes:
      factor: ratio of the sides of the clip to the sides of the low-resolution video.
      size, fps: size in pixels and frames per second of the clips that the network draws.
      process: name of the diffusion process that adds the noise.
      max_noise: highest noise level in training.
      noise: noise level in sampling.
      dropout: share of clips that train without it.
    """

    flag: ClassVar[str] = "low_res"
    flag_help: ClassVar[str] = "A video file to enlarge."

    factor: int
    size: tuple[int, int]
    fps: float
    process: str
    max_noise: float = 0.3
    noise: float = 0.0
    dropout: float = 0.0

    @classmethod
    def from_config(cls, config: ConfigDict) -> "LowRes | None":
        """The condition, or None if `factor` is 0."""
        c, data = config.conditions.low_res, config.data
        if not c.factor:
            return None
        process = config.diffusion.process
        return cls(c.factor, frame_shape(data), data.fps, process, c.max_noise, c.noise, c.dropout)

    def encode(self, sample: Mapping[str, np.ndarray], clip: Clip | None) -> dict[str, np.ndarray]:
        """The means of the clip over squares of `factor` x `factor` pixels."""
        _, H, W, _ = sample["video"].shape
        size = (W // self.factor, H // self.factor)
        shrink = functools.partial(cv2.resize, dsize=size, interpolation=cv2.INTER_AREA)
        return {"video": np.stack([shrink(frame) for frame in sample["video"]])}

    def parse(self, value: str, frames: int) -> dict[str, np.ndarray]:
        """The first frames of a video file; raises InputError as `read_video` does."""
        H, W = (side // self.factor for side in self.size)
        video, _ = read_video(value, frames=frames, size=(H, W), fps=self.fps)
        return {"video": video}

    def window(self, arrays: Mapping[str, np.ndarray], frames: np.ndarray) -> PyTree:
        """The video of a window; its last frame repeats after its end."""
        return {**arrays, "video": arrays["video"].take(frames, axis=1, mode="clip")}

    def prepare(self, arrays: Mapping[str, Array], key: Array, training: bool) -> dict[str, Array]:
        """Pixels as floats with noise: up to level `max_noise` in training, else at `noise`.

        What is prepared stays: then windows of a video have the same noise in the same frames.
        """
        if "noise" in arrays:
            return dict(arrays)
        level_key, eps_key = (jax.random.fold_in(key, i) for i in (5, 6))
        x0, process = to_float(arrays["video"]), PROCESSES[self.process]
        level = jnp.full(len(x0), self.noise, jnp.float32)
        if training:
            level = jax.random.uniform(level_key, (len(x0),), maxval=self.max_noise)
        levels = jnp.broadcast_to(level[:, None], x0.shape[:2])
        noisy = corrupt(process, x0, jax.random.normal(eps_key, x0.shape), levels)
        # The same scale as the noisy clip: with "edm" the noise has a deviation of up to 80.
        return {"video": noisy * input_scale(process, levels), "noise": level}

    def null(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """Zeros at noise level 1."""
        return {
            "video": jnp.zeros_like(arrays["video"]),
            "noise": jnp.ones_like(arrays["noise"]),
        }

    def embed(self, arrays: Mapping[str, Array], setting: Setting) -> Entry:
        """Channels, and an embedding of the noise level for all frames."""
        frame = LevelEmbedding(setting, name=self.name)(arrays["noise"])
        return Entry(frame=frame[:, None], channels=arrays["video"])


@requirement
def _check_low_res(config: ConfigDict) -> None:
    c = config.conditions.low_res
    for name, side in zip(("size", "width"), frame_shape(config.data), strict=True):
        if c.factor and side % c.factor:
            raise InputError(
                f"config.conditions.low_res.factor={c.factor} must divide config.data.{name}="
                f"{side}: the low-resolution video is the mean over squares of that side"
            )
    if c.factor and config.data.render_on_device:
        raise InputError(
            f"config.conditions.low_res.factor={c.factor}: hosts shrink the pixels that they "
            "paint: set config.data.render_on_device=False"
        )
    if c.noise > c.max_noise:
        raise InputError(
            f"config.conditions.low_res.noise={c.noise}: it must be at most "
            f"config.conditions.low_res.max_noise={c.max_noise}, the highest level in training"
        )


class LevelEmbedding(nn.Module):
    """Embeds a noise level [B] as a vector [B,D]: sines and cosines, then two layers."""

    setting: Setting

    @nn.compact
    def __call__(self, noise: Array) -> Array:
        width, dtype = self.setting.width, self.setting.dtype
        h = embeddings.sinusoidal(noise, NOISE_FREQUENCIES)
        h = dense(width, dtype, (None, "embed"), "in")(h)
        return dense(width, dtype, ("embed", None), "out")(nn.silu(h))
