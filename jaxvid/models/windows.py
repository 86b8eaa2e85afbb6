"""Local windows of a video's tokens, shifted so that neighbours meet (Liu et al. 2021, 2022).

Shifted windows (arXiv 2103.14030, in 3D 2106.13230): tokens are rolled by `shift` and cut into
windows. Tokens that the roll wraps around, and padding, form separate regions. Attention stays
within a region.
"""

import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Int, Shaped

Size = tuple[int, int, int]


def partition(
    x: Shaped[Array, "B T h w *E"], window: Size, shift: tuple[Array | int, ...]
) -> Shaped[Array, "B M W *E"]:
    """Cuts tokens, rolled back by `shift` frames, rows and columns, into M windows of W tokens."""
    p, q, r = window
    pads = [(0, -n % size) for n, size in zip(x.shape[1:4], window, strict=True)]
    x = jnp.pad(x, [(0, 0), *pads, *[(0, 0)] * (x.ndim - 4)])
    x = jnp.roll(x, tuple(-s for s in shift), (1, 2, 3))
    return rearrange(x, "b (i p) (j q) (k r) ... -> b (i j k) (p q r) ...", p=p, q=q, r=r)


def merge(
    y: Shaped[Array, "B M W *E"], size: Size, window: Size, shift: tuple[Array | int, ...]
) -> Shaped[Array, "B T h w *E"]:
    """The inverse of `partition`, for a video of `size` (frames, rows, columns)."""
    (p, q, r), (i, j, _) = window, (-(-n // w) for n, w in zip(size, window, strict=True))
    y = rearrange(y, "b (i j k) (p q r) ... -> b (i p) (j q) (k r) ...", i=i, j=j, p=p, q=q, r=r)
    y = jnp.roll(y, shift, (1, 2, 3))
    return y[:, : size[0], : size[1], : size[2]]


def regions(size: Size, window: Size, shift: tuple[Array | int, ...]) -> Int[Array, "M W"]:
    """The region number of each token of each window; attention stays within a region."""
    number = jnp.zeros((1, 1, 1), jnp.int32)
    for axis, (n, w, s) in enumerate(zip(size, window, shift, strict=True)):
        padded = -(-n // w) * w
        index = jnp.arange(padded) + s
        wrapped, padding = index >= padded, index % padded >= n
        along = (wrapped + 2 * padding).reshape([-1 if a == axis else 1 for a in range(3)])
        number = 4 * number + along
    p, q, r = window
    return rearrange(number, "(i p) (j q) (k r) -> (i j k) (p q r)", p=p, q=q, r=r)
