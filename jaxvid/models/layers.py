"""The layers that everything is built from, with logical names on every parameter."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float


def kernel(*names: str | None, inputs: int = 1, scale: float = 1.0) -> nn.initializers.Initializer:
    """A kernel's initializer with its logical axis names: variance `scale` / fan-in.

    The first `inputs` axes are contracted with the layer's input; scale 0 means all zeros.
    """
    in_axis, out_axis = tuple(range(inputs)), tuple(range(inputs, len(names)))
    init = nn.initializers.variance_scaling(
        scale or 1.0, "fan_in", "truncated_normal", in_axis=in_axis, out_axis=out_axis
    )
    return nn.with_logical_partitioning(init if scale else nn.initializers.zeros, names)


def dense(
    features: int,
    dtype: jnp.dtype,
    names: tuple[str | None, str | None],
    name: str,
    scale: float = 1.0,
) -> nn.Dense:
    """A layer with a bias and logical axis names."""
    return nn.Dense(
        features,
        dtype=dtype,
        kernel_init=kernel(*names, scale=scale),
        bias_init=nn.with_logical_partitioning(nn.initializers.zeros, names[-1:]),
        name=name,
    )


def layer_norm(x: Float[Array, "B T N D"], dtype: jnp.dtype) -> Float[Array, "B T N D"]:
    """Layer normalisation without parameters: the modulation has them."""
    return nn.LayerNorm(use_bias=False, use_scale=False, dtype=dtype)(x)


def modulation(parts: int, dtype: jnp.dtype, name: str):
    """`parts` zero-initialised vectors [B, T, 1, D] per frame (adaLN-zero)."""

    def apply(frame: Float[Array, "B T D"]) -> list[Float[Array, "B T 1 D"]]:
        D = frame.shape[-1]
        layer = nn.Einsum(
            (D, parts, D),
            "btd,dpe->pbte",
            dtype=dtype,
            kernel_init=kernel("embed", None, "width", scale=0.0),
            bias_init=nn.with_logical_partitioning(nn.initializers.zeros, (None, "width")),
            name=name,
        )
        return [m[:, :, None] for m in layer(frame)]

    return apply
