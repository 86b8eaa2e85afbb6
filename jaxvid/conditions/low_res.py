"""The video at a lower resolution, for spatial super-resolution.

It is enlarged and concatenated on channels. Noise is added to it, and the network is told the
level, so it learns how far to trust what a codec or another network made (noise conditioning
augmentation, Ho et al. 2022, arXiv 2106.15282).
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
from jaxvid.data.clips import Clip
from jaxvid.data.pixels import to_float
from jaxvid.data.video import read_video
from jaxvid.diffusion.process import PROCESSES, corrupt, input_scale
from jaxvid.errors import InputError
from jaxvid.models import embeddings
from jaxvid.models.conditioning import NOISE_FREQUENCIES, Entry, Setting
from jaxvid.models.layers import dense

declare(
    "conditions.low_res",
    factor=key(0, NATURAL, "how many times smaller its sides are; 0 is off", was="data.low_res"),
    max_noise=key(0.3, UNIT, "highest noise level in training", was="diffusion.low_res_noise"),
    noise=key(0.0, UNIT, "noise level in sampling", free=True, was="sampler.low_res_noise"),
    dropout=key(0.0, FRACTION, "share that trains without it alone", was="model.low_res_dropout"),
)


@condition("low_res")
@dataclasses.dataclass(frozen=True)
class LowRes(Condition):
    """`video` uint8 [B,T,h,w,3]; the network sees it as floats, with `noise` [B], its level.

    Null is a video of zeros at level 1.

    Attributes:
      factor: how many times smaller the sides are.
      size, fps: of the clips that the network draws, in pixels and frames per second.
      process: the diffusion process that adds the noise.
      max_noise: highest level in training.
      noise: level in sampling.
      dropout: share of clips that train without it.
    """

    flag: ClassVar[str] = "low_res"
    flag_help: ClassVar[str] = "A video file to be enlarged."

    factor: int
    size: int
    fps: float
    process: str
    max_noise: float = 0.3
    noise: float = 0.0
    dropout: float = 0.0

    @classmethod
    def from_config(cls, config: ConfigDict) -> "LowRes | None":
        """The condition, or None with a factor of 0."""
        c, data = config.conditions.low_res, config.data
        if not c.factor:
            return None
        process = config.diffusion.process
        return cls(c.factor, data.size, data.fps, process, c.max_noise, c.noise, c.dropout)

    def encode(self, sample: Mapping[str, np.ndarray], clip: Clip | None) -> dict[str, np.ndarray]:
        """The clip's means over squares of `factor` x `factor` pixels."""
        _, H, W, _ = sample["video"].shape
        size = (W // self.factor, H // self.factor)
        shrink = functools.partial(cv2.resize, dsize=size, interpolation=cv2.INTER_AREA)
        return {"video": np.stack([shrink(frame) for frame in sample["video"]])}

    def parse(self, value: str, frames: int) -> dict[str, np.ndarray]:
        """The first frames of a video file; raises InputError as `read_video` does."""
        size = self.size // self.factor
        video, _ = read_video(value, frames=frames, size=size, fps=self.fps)
        return {"video": video}

    def window(self, arrays: Mapping[str, np.ndarray], start: int, length: int) -> PyTree:
        """Past its end the video stands still."""
        index = np.arange(start, start + length)
        return {"video": arrays["video"].take(index, axis=1, mode="clip")}

    def prepare(self, arrays: Mapping[str, Array], key: Array, training: bool) -> dict[str, Array]:
        """Pixels as numbers, with noise: of a level up to `max_noise` in training, else `noise`."""
        level_key, eps_key = (jax.random.fold_in(key, i) for i in (5, 6))
        x0, process = to_float(arrays["video"]), PROCESSES[self.process]
        level = jnp.full(len(x0), self.noise, jnp.float32)
        if training:
            level = jax.random.uniform(level_key, (len(x0),), maxval=self.max_noise)
        levels = jnp.broadcast_to(level[:, None], x0.shape[:2])
        noisy = corrupt(process, x0, jax.random.normal(eps_key, x0.shape), levels)
        # Scaled as the video beside it is: the noise of "edm" has a deviation of up to 80.
        return {"video": noisy * input_scale(process, levels), "noise": level}

    def null(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """Zeros, as if they were all noise."""
        return {
            "video": jnp.zeros_like(arrays["video"]),
            "noise": jnp.ones_like(arrays["noise"]),
        }

    def embed(self, arrays: Mapping[str, Array], setting: Setting) -> Entry:
        """Channels, and a vector of its noise level for all frames."""
        frame = LevelEmbedding(setting, name=self.name)(arrays["noise"])
        return Entry(frame=frame[:, None], channels=arrays["video"])


@requirement
def _check_low_res(config: ConfigDict) -> None:
    c, size = config.conditions.low_res, config.data.size
    if c.factor and size % c.factor:
        raise InputError(
            f"config.conditions.low_res.factor={c.factor} must divide config.data.size={size}: the "
            "low-resolution video is the mean over squares of so many pixels a side"
        )
    if c.noise > c.max_noise:
        raise InputError(
            f"config.conditions.low_res.noise={c.noise}: it must be at most "
            f"config.conditions.low_res.max_noise={c.max_noise}, the highest level in training"
        )


class LevelEmbedding(nn.Module):
    """A noise level [B] as a vector [B,D]: sines and cosines through two layers."""

    setting: Setting

    @nn.compact
    def __call__(self, noise: Array) -> Array:
        width, dtype = self.setting.width, self.setting.dtype
        h = embeddings.sinusoidal(noise, NOISE_FREQUENCIES)
        h = dense(width, dtype, (None, "embed"), "in")(h)
        return dense(width, dtype, ("embed", None), "out")(nn.silu(h))
