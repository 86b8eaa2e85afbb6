"""The interface between a condition and the network.

A network uses only the `name` of a condition and its `embed(arrays, setting) -> Entry`. `embed` is
called inside the network, so it may use Flax modules. The conditions are in `jaxvid.conditions`.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct
from jaxtyping import Array, Float, Integer

from jaxvid.models import embeddings

NOISE_FREQUENCIES = embeddings.frequencies(1000.0, 0.1, 64)


class Setting(NamedTuple):
    """The properties of the network that an embedding needs.

    Attributes:
      width: D, the features of a token.
      heads: attention heads.
      per_patch: frames in one patch, which share one vector.
      dtype: type of the activations.
    """

    width: int
    heads: int
    per_patch: int
    dtype: jnp.dtype


@struct.dataclass
class Entry:
    """What a condition adds to the network. None, or 0.0 for `frame`, adds nothing.

    Attributes:
      frame: a vector per frame, float [B,t,D] or [B,1,D], added to the embedding of the noise
        level.
      tokens: tokens for the word `text` of the block grammar, float [B,L,D].
      lengths: number of valid tokens of each clip, which come first, at least one, int [B].
      channels: a video to concatenate on channels, float [B,T,h,w,c]; a smaller one is enlarged.
    """

    frame: Any = 0.0
    tokens: Any = None
    lengths: Any = None
    channels: Any = None


def concat_channels(
    video: Float[Array, "B T H W C"], channels: Float[Array, "B T h w c"]
) -> Float[Array, "B T H W Cc"]:
    """Appends `channels`, enlarged bilinearly to the size of the video, to its channels."""
    shape = (*video.shape[:-1], channels.shape[-1])
    enlarged = jax.image.resize(channels.astype(video.dtype), shape, "bilinear")
    return jnp.concatenate([video, enlarged], axis=-1)


class Table(nn.Module):
    """A table of `rows` learned vectors of the network's width.

    Devices that divide the vectors gather all of them; otherwise those that are looked up would
    move.
    """

    rows: int
    std: float
    setting: Setting

    @nn.compact
    def __call__(self, index: Integer[Array, "*S"]) -> Float[Array, "*S D"]:
        init = nn.with_logical_partitioning(nn.initializers.normal(self.std), (None, "embed"))
        vectors = self.param("embedding", init, (self.rows, self.setting.width))
        vectors = nn.with_logical_constraint(vectors, (None, None))
        return jnp.take(vectors.astype(self.setting.dtype), index, axis=0)


def vector(module: nn.Module, name: str, setting: Setting) -> Float[Array, " D"]:
    """A learned vector of the network's width, as a parameter of `module`."""
    init = nn.with_logical_partitioning(nn.initializers.normal(1.0), ("embed",))
    return module.param(name, init, (setting.width,)).astype(setting.dtype)
