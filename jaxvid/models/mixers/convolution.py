"""Convolution over time: a filter per channel, then a layer that mixes the channels.

Depthwise-separable convolution: Chollet 2016, arXiv 1610.02357.
"""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxvid.config import POSITIVE
from jaxvid.models.grammar import argument
from jaxvid.models.layers import Linear, kernel
from jaxvid.models.mixers.base import Context, MixerConfig, mixer
from jaxvid.models.streaming import carried, carry


@mixer("conv")
class Convolution(nn.Module):
    """Mixes each token with those of the same place in the neighbouring frames.

    A causal filter covers past frames only, and carries the last frames when streaming. Otherwise
    the filter is centred. It is independent of the frame rate, and pads the clip with zeros.

    Attributes:
      size: number of frames that the filter covers, including the token's own.
    """

    over = "place"

    config: MixerConfig
    size: int = argument(3, POSITIVE)

    @nn.compact
    def __call__(self, x: Float[Array, "B T N D"], context: Context) -> Float[Array, "B T N D"]:
        (B, T, N, D), causal, dtype = x.shape, self.config.causal, self.config.dtype
        x = x.astype(dtype)
        ahead = 0 if causal else self.size // 2
        zeros = jnp.zeros((B, self.size - 1, N, D), dtype)
        past = carried(self, "past", lambda: zeros) if causal else None
        before = zeros[:, ahead:] if past is None else past.value
        frames = jnp.concatenate([before, x, zeros[:, :ahead]], axis=1)
        carry(past, frames[:, T:])

        taps = self.param("taps", kernel(None, "embed", matrix=False), (self.size, D)).astype(dtype)
        h = sum(tap * frames[:, i : i + T] for i, tap in enumerate(taps))
        return Linear((D,), dtype, kernel("embed", None), name="out")(h)
