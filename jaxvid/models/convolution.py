"""Convolution over time: each channel with its own taps, then a mixing of the channels.

Depthwise-separable convolution: Chollet 2016, arXiv 1610.02357.
"""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxvid.models.layers import kernel
from jaxvid.models.streaming import carried, carry


class Convolution(nn.Module):
    """Mixes each token with those of the same place in the neighbouring frames.

    Taps count frames, so `seconds` has no influence; beyond the ends of the clip there are zeros.

    Attributes:
      causal: whether the taps reach back only, instead of as far back as ahead. Only then are the
        last frames carried on.
      dtype: what it computes in.
      size: how many frames the taps span, the token's own included.
    """

    causal: bool
    dtype: jnp.dtype
    size: int = 3

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T N D"], seconds: Float[Array, "B T"]
    ) -> Float[Array, "B T N D"]:
        B, T, N, D = x.shape
        x = x.astype(self.dtype)
        ahead = 0 if self.causal else self.size // 2
        zeros = jnp.zeros((B, self.size - 1, N, D), self.dtype)
        past = carried(self, "past", lambda: zeros) if self.causal else None
        before = zeros[:, ahead:] if past is None else past.value
        frames = jnp.concatenate([before, x, zeros[:, :ahead]], axis=1)
        carry(past, frames[:, T:])

        taps = self.param("taps", kernel(None, "embed"), (self.size, D)).astype(self.dtype)
        h = sum(tap * frames[:, i : i + T] for i, tap in enumerate(taps))
        init = kernel("embed", None)
        return nn.Dense(D, use_bias=False, dtype=self.dtype, kernel_init=init, name="out")(h)
