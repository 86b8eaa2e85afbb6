"""Classifier-free guidance (Ho & Salimans 2022, arXiv 2207.12598).

    (1)  x0_hat = x0_null + scale (x0_condition - x0_null)
    (2)  x0_hat <- (1 - rescale + rescale std(x0_condition) / std(x0_hat)) x0_hat

At a fixed x_t all predictions are affine in one another, so guiding x0 also guides eps, v and
velocity. A scale of 1 gives no guidance and 0 gives the unconditional estimate. (2) corrects the
overexposure of large scales (Lin et al. 2024, arXiv 2305.08891, section 3.4). Here it acts on
x0_hat for every kind of prediction, and std runs over the pixels and channels of one frame, because
each frame has its own noise level. Both act only in an interval of noise levels (Kynkäänniemi et
al. 2024, arXiv 2404.07724): guidance at the highest levels costs diversity, at the lowest it has no
effect.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from jaxvid.errors import InputError


def pair(wanted: PyTree, null: PyTree) -> PyTree:
    """Joins two trees of [B, ...] into one of [2B, ...].

    The clips alternate, so that no data moves between devices.
    """

    def interleave(a: Array, b: Array) -> Array:
        return jnp.stack([a, b], axis=1).reshape(-1, *a.shape[1:])

    return jax.tree.map(interleave, wanted, null)


def guide(
    denoise: Callable[[Array, Array, PyTree], Array],
    condition: PyTree,
    null: PyTree,
    scale: float | int,
    *,
    interval: tuple[float | int, float | int] = (0, 1),
    rescale: float | int = 0,
    frames: Bool[Array | np.ndarray, "#B T"] | Bool[Array | np.ndarray, " T"] | None = None,
) -> Callable[[Array, Array], Array]:
    """Turns `denoise(x, noise, condition)` into a guided `denoise(x, noise)`: equations (1), (2).

    `condition` and `null` are pytrees of the same structure with leaves [B, ...]. One call of the
    network computes both, on a batch of 2B; a `scale` of exactly 1 skips the null. Frames are
    guided if their noise level is in `interval`, bounds included. Calls in which none of `frames`
    (by default all) is guided skip the null too. Raises InputError unless 0 <= low <= high <= 1 and
    `rescale` is in [0, 1].
    """
    low, high = interval
    if not 0 <= low <= high <= 1:
        raise InputError(
            f"guidance interval [{low}, {high}]: give noise levels 0 <= low <= high <= 1"
        )
    if not 0 <= rescale <= 1:
        raise InputError(f"guidance rescale={rescale}: it must be from 0 (none) to 1")
    if scale == 1:
        return lambda x, noise: denoise(x, noise, condition)

    both = pair(condition, null)

    def guided(x: Float[Array, "B T H W C"], noise: Float[Array, "B T"]) -> Array:
        x0 = denoise(pair(x, x), pair(noise, noise), both).astype(jnp.float32)
        conditional, unconditional = jnp.moveaxis(x0.reshape(-1, 2, *x.shape[1:]), 1, 0)
        x0 = unconditional + scale * (conditional - unconditional)
        if rescale:
            wanted, got = (jnp.std(v, axis=(2, 3, 4), keepdims=True) for v in (conditional, x0))
            # A frame without contrast is left as it is.
            ratio = jnp.where(got > 0, wanted / jnp.where(got > 0, got, 1), 1)
            x0 *= 1 - rescale + rescale * ratio
        return jnp.where(inside(noise)[:, :, None, None, None], x0, conditional)

    def plain(x: Float[Array, "B T H W C"], noise: Float[Array, "B T"]) -> Array:
        return denoise(x, noise, condition).astype(jnp.float32)

    def inside(noise: Float[Array, "B T"]) -> Bool[Array, "B T"]:
        return (low <= noise) & (noise <= high)

    if (low, high) == (0, 1):
        return guided
    which = True if frames is None else frames
    return lambda x, noise: jax.lax.cond(jnp.any(inside(noise) & which), guided, plain, x, noise)
