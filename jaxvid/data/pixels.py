"""Conversion of pixels between bytes and the range of the network, [-1, 1]."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, UInt8


def to_float(video: UInt8[Array, "*S 3"]) -> Float32[Array, "*S 3"]:
    """Maps 0 to 255 to [-1, 1]."""
    return video.astype(jnp.float32) / 127.5 - 1


def to_uint8(video: Float[Array, "*S 3"]) -> UInt8[Array, "*S 3"]:
    """Maps [-1, 1] to 0 to 255, rounded; values outside are clipped."""
    return jnp.clip(jnp.round((video + 1) * 127.5), 0, 255).astype(jnp.uint8)
