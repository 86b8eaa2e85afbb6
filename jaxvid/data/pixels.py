"""What a network is given of a batch: pixels as numbers around 0, and the condition."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, UInt8
from ml_collections import ConfigDict

from jaxvid.diffusion import process
from jaxvid.models import conditioning


def to_float(video: UInt8[Array, "B T H W 3"]) -> Float32[Array, "B T H W 3"]:
    """Pixels as [-1, 1]."""
    return video.astype(jnp.float32) / 127.5 - 1


def to_condition(
    config: ConfigDict, batch: Mapping[str, Array], level: Float[Array, "B"], key: Array
) -> conditioning.Condition:
    """The condition among the arrays of a batch; its low-resolution video is brought to `level`.

    Noise conditioning augmentation (Ho et al. 2022, arXiv 2106.15282): as the network is told the
    level, it learns how far to trust what a codec or another network made.

    Args:
      config: its `diffusion.process` adds the noise.
      batch: beside other conditions perhaps `low_res` uint8 [B,T,h,w,3]; only this is changed.
      level: of the noise, in [0, 1].
      key: of the noise.
    """
    condition = conditioning.of_batch(batch)
    if condition.low_res is None:
        return condition
    kind, x0 = process.PROCESSES[config.diffusion.process], to_float(condition.low_res)
    levels = jnp.broadcast_to(level[:, None], x0.shape[:2])
    noisy = process.corrupt(kind, x0, jax.random.normal(key, x0.shape), levels)
    # Scaled as the video beside it is: the noise of "edm" has a deviation of up to 80.
    scaled = noisy * process.input_scale(kind, levels)
    return condition.replace(low_res=scaled, low_res_noise=level)
