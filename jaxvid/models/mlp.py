"""What mixes the channels of a token."""

import functools

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxvid.models.layers import kernel


class Mlp(nn.Module):
    """Two layers with squared ReLU between (So et al. 2021, arXiv 2109.08668).

    It is as good as GELU and costs no transcendental function, which on a CPU takes longer than
    the matrix product before it.
    """

    ratio: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Float[Array, "B T N D"]) -> Float[Array, "B T N D"]:
        D = x.shape[-1]
        dense = functools.partial(nn.Dense, use_bias=False, dtype=self.dtype)
        hidden = self.ratio * D
        h = dense(hidden, kernel_init=kernel("embed", "mlp"), name="up")(x)
        return dense(D, kernel_init=kernel("mlp", "embed"), name="down")(jnp.square(nn.relu(h)))


class SwiGlu(nn.Module):
    """A gated MLP (Shazeer 2020, arXiv 2002.05202), two thirds as wide: the same parameters."""

    ratio: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Float[Array, "B T N D"]) -> Float[Array, "B T N D"]:
        D = x.shape[-1]
        dense = functools.partial(nn.Dense, use_bias=False, dtype=self.dtype)
        hidden = swiglu_width(D, self.ratio)
        gate = dense(hidden, kernel_init=kernel("embed", "mlp"), name="gate")(x)
        h = dense(hidden, kernel_init=kernel("embed", "mlp"), name="up")(x)
        return dense(D, kernel_init=kernel("mlp", "embed"), name="down")(nn.silu(gate) * h)


def swiglu_width(width: int, ratio: int) -> int:
    """Two thirds of the MLP's hidden width, rounded up to a multiple of 8."""
    return -(-2 * ratio * width // 24) * 8
