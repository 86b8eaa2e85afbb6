"""Classifier-free guidance (Ho & Salimans 2022, arXiv 2207.12598).

    (1)  x0_hat = x0_null + scale (x0_condition - x0_null)

At a fixed x_t all predictions are affine in one another, so guiding x0 guides eps, v and velocity
alike. With this scale, 1 is no guidance at all and 0 is unconditional.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree


def guide(
    denoise: Callable[[Array, Array, PyTree], Array],
    condition: PyTree,
    null: PyTree,
    scale: float | int,
) -> Callable[[Array, Array], Array]:
    """Equation (1): `denoise(x, noise, condition)` as a guided `denoise(x, noise)`.

    `condition` and `null` are pytrees of the same structure with leaves [B, ...]. One call of the
    network serves both, on a batch of 2B; at a `scale` of exactly 1 the null is not computed.
    """
    if scale == 1:
        return lambda x, noise: denoise(x, noise, condition)

    # Each clip beside its twin, not one batch after the other: no data moves between devices.
    def pair(a: Array, b: Array) -> Array:
        return jnp.stack([a, b], axis=1).reshape(-1, *a.shape[1:])

    both = jax.tree.map(pair, condition, null)

    def guided(x: Float[Array, "B T H W C"], noise: Float[Array, "B T"]) -> Array:
        x0 = denoise(pair(x, x), pair(noise, noise), both).astype(jnp.float32)
        conditional, unconditional = jnp.moveaxis(x0.reshape(-1, 2, *x.shape[1:]), 1, 0)
        return unconditional + scale * (conditional - unconditional)

    return guided
