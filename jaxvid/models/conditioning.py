"""How a condition enters the network.

A network knows a condition only by its `name` and by `embed(arrays, setting) -> Entry`, which is
called inside the network and so may use Flax modules; `jaxvid.conditions` has the conditions.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct
from jaxtyping import Array, Float

from jaxvid.models import embeddings

NOISE_FREQUENCIES = embeddings.frequencies(1000.0, 0.1, 64)


class Setting(NamedTuple):
    """What an embedding needs to know of the network around it.

    Attributes:
      width: D.
      heads: of its attention.
      per_patch: frames that are joined in one patch, and so in one vector.
      dtype: what the network computes in.
    """

    width: int
    heads: int
    per_patch: int
    dtype: jnp.dtype


@struct.dataclass
class Entry:
    """What a condition gives to the network. None, or 0.0 for `frame`, is nothing.

    Attributes:
      frame: a vector per frame, float [B,t,D] or [B,1,D], added to that of its noise level.
      tokens: to be attended to by a word of the block grammar, float [B,L,D].
      mask: which of the tokens are there, at least one in each clip, bool [B,L].
      channels: a video that is concatenated on channels, float [B,T,h,w,c]; enlarged if smaller.
    """

    frame: Any = 0.0
    tokens: Any = None
    mask: Any = None
    channels: Any = None


def concat_channels(
    video: Float[Array, "B T H W C"], channels: Float[Array, "B T h w c"]
) -> Float[Array, "B T H W Cc"]:
    """The video with `channels`, enlarged to its size (bilinear), behind it on channels."""
    shape = (*video.shape[:-1], channels.shape[-1])
    enlarged = jax.image.resize(channels.astype(video.dtype), shape, "bilinear")
    return jnp.concatenate([video, enlarged], axis=-1)


def table(rows: int, std: float, setting: Setting, name: str) -> nn.Embed:
    """A learned vector of the network's width for each of `rows` indices."""
    init = nn.with_logical_partitioning(nn.initializers.normal(std), (None, "embed"))
    return nn.Embed(rows, setting.width, dtype=setting.dtype, embedding_init=init, name=name)


def vector(module: nn.Module, name: str, setting: Setting) -> Float[Array, "D"]:
    """One learned vector of the network's width, a parameter of `module`."""
    init = nn.with_logical_partitioning(nn.initializers.normal(1.0), ("embed",))
    return module.param(name, init, (setting.width,)).astype(setting.dtype)
