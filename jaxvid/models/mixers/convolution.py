"""Convolution over time: each channel with its own taps, then a mixing of the channels.

Depthwise-separable convolution: Chollet 2016, arXiv 1610.02357.
"""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxvid.config import POSITIVE
from jaxvid.models.grammar import argument
from jaxvid.models.layers import kernel
from jaxvid.models.mixers.base import Context, MixerConfig, mixer
from jaxvid.models.streaming import carried, carry


@mixer("conv")
class Convolution(nn.Module):
    """Mixes each token with those of the same place in the neighbouring frames.

    If it is causal, the taps reach back only, and the last frames are carried on when streaming;
    otherwise they reach as far back as ahead. They count frames, whatever the frame rate; beyond
    the ends of the clip there are zeros.

    Attributes:
      size: how many frames the taps span, the token's own included.
    """

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
        init = kernel("embed", None)
        return nn.Dense(D, use_bias=False, dtype=dtype, kernel_init=init, name="out")(h)
