"""Mixers of the channels of a token."""

from flax import linen as nn
from jaxtyping import Array, Float

from jaxvid.config import POSITIVE, Rule
from jaxvid.models.grammar import argument
from jaxvid.models.layers import Linear, kernel, squared_relu
from jaxvid.models.mixers.base import Context, MixerConfig, mixer

RATIO = Rule(
    "an integer of at least 1, or None for model.mlp_ratio",
    lambda v: v is None or POSITIVE.holds(v),
)


@mixer("mlp")
class Mlp(nn.Module):
    """Two layers with squared ReLU between (So et al. 2021, arXiv 2109.08668).

    It is as good as GELU and needs no transcendental function, which on a CPU takes longer than the
    matrix product before it.

    Attributes:
      ratio: hidden width divided by the width.
    """

    over = "token"

    config: MixerConfig
    ratio: int | None = argument(None, RATIO)

    @nn.compact
    def __call__(self, x: Float[Array, "B T N D"], context: Context) -> Float[Array, "B T N D"]:
        D, dtype = x.shape[-1], self.config.dtype
        hidden = (self.ratio or self.config.mlp_ratio) * D
        h = Linear((hidden,), dtype, kernel("embed", "mlp"), name="up")(x)
        return Linear((D,), dtype, kernel("mlp", "embed"), name="down")(squared_relu(h))


@mixer("swiglu")
class SwiGlu(nn.Module):
    """A gated MLP (Shazeer 2020, arXiv 2002.05202), with as many parameters as `mlp`.

    Attributes:
      ratio: ratio of the `mlp` with as many parameters. The hidden width is two thirds of that of
        `mlp`, rounded up to a multiple of 8.
    """

    over = "token"

    config: MixerConfig
    ratio: int | None = argument(None, RATIO)

    @nn.compact
    def __call__(self, x: Float[Array, "B T N D"], context: Context) -> Float[Array, "B T N D"]:
        D, dtype = x.shape[-1], self.config.dtype
        hidden = -(-2 * (self.ratio or self.config.mlp_ratio) * D // 24) * 8
        gate = Linear((hidden,), dtype, kernel("embed", "mlp"), name="gate")(x)
        h = Linear((hidden,), dtype, kernel("embed", "mlp"), name="up")(x)
        return Linear((D,), dtype, kernel("mlp", "embed"), name="down")(nn.silu(gate) * h)
