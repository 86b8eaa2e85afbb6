"""Embeddings of patches, positions and noise levels.

Rotary positions: Su et al. 2021, arXiv 2104.09864. Here a token has several coordinates (seconds,
row, column) and the frequencies of a head are divided among them, as in 2D vision transformers.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import linen as nn
from jaxtyping import Array, Float, Float32

from jaxvid.errors import InputError

# Radians per unit, highest to lowest. Time resolves neighbouring frames at up to about 30 frames a
# second, and times up to a minute apart. The grid resolves neighbouring patches, up to 60 in a row.
TIME_FREQUENCIES = (2 * np.pi * 2.0, 2 * np.pi / 64.0)
GRID_FREQUENCIES = (np.pi, 0.1)


def patchify(
    video: Float[Array, "B T H W C"], patch: tuple[int, int, int]
) -> Float[Array, "B t N P"]:
    """Cuts a video into patches of (frames, rows, columns); N counts the patches of a frame."""
    p, q, r = patch
    return rearrange(video, "b (t p) (h q) (w r) c -> b t (h w) (p q r c)", p=p, q=q, r=r)


def unpatchify(
    patches: Float[Array, "B t N P"], patch: tuple[int, int, int], size: tuple[int, int]
) -> Float[Array, "B T H W C"]:
    """The inverse of `patchify`, for frames of `size` (height, width)."""
    p, q, r = patch
    return rearrange(
        patches,
        "b t (h w) (p q r c) -> b (t p) (h q) (w r) c",
        p=p, q=q, r=r, h=size[0] // q, w=size[1] // r,
    )  # fmt: skip


def frequencies(highest: float, lowest: float, count: int) -> Float32[np.ndarray, " count"]:
    """`count` frequencies in geometric steps from `highest` to `lowest`."""
    return np.geomspace(highest, lowest, count, dtype=np.float32)


def sinusoidal(x: Float[Array, "*S"], freqs: Float32[np.ndarray, " F"]) -> Float32[Array, "*S 2*F"]:
    """Cosines and sines of `x` times each frequency, in float32 (Vaswani et al. 2017)."""
    angles = x.astype(jnp.float32)[..., None] * freqs
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


def grid(rows: int, columns: int) -> Float32[Array, "N 2"]:
    """(row, column) of each patch, counted from the middle of the frame, row by row."""
    axes = [jnp.arange(n, dtype=jnp.float32) - (n - 1) / 2 for n in (rows, columns)]
    return jnp.stack(jnp.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)


def rotary(
    head_dim: int,
    seconds: Float[Array, "B T"] | None = None,
    place: Float[Array, "*T N 2"] | None = None,
) -> Float32[Array, "2 #B #T #N F"]:
    """Cosine and sine of the angles that rotate the F = head_dim / 2 pairs of a head.

    The pairs are divided evenly among seconds, row and column; the first take the remainder. q·k
    depends on differences only: those of seconds vanish within a frame, and those of row and column
    within a place. So a mixer within frames needs no `seconds`, and one within places no `place`;
    the pairs of what is None are not rotated.
    """
    pairs = head_dim // 2
    counts = [pairs // 3 + (i < pairs % 3) for i in range(3)]
    limits = (TIME_FREQUENCIES, GRID_FREQUENCIES, GRID_FREQUENCIES)
    none = jnp.zeros((1, 1, 1))
    of_time = none if seconds is None else seconds[:, :, None]
    of_place = (
        (none, none)
        if place is None
        else (place[..., i].reshape(1, -1, place.shape[-2]) for i in range(2))
    )
    angles = [
        x.astype(jnp.float32)[..., None] * frequencies(*limit, count)
        for x, limit, count in zip((of_time, *of_place), limits, counts, strict=True)
    ]
    shape = jnp.broadcast_shapes(*(a.shape[:-1] for a in angles))
    angle = jnp.concatenate([jnp.broadcast_to(a, (*shape, a.shape[-1])) for a in angles], axis=-1)
    # Without the barrier XLA would compute the cosines again in every layer that uses them.
    return jax.lax.optimization_barrier(jnp.stack([jnp.cos(angle), jnp.sin(angle)]))


def sincos(
    width: int, place: Float[Array, "N 2"], seconds: Float[Array, "B T"] | None = None
) -> Float32[Array, "... N {width}"]:
    """Positions to add to tokens: sines and cosines of row and column, [N,D].

    With `seconds`, a third of the features encode time, [B,T,N,D]. `width` must be a multiple of 4;
    left-over features are 0.
    """
    parts = 2 if seconds is None else 3
    count = width // (2 * parts)
    axes = sinusoidal(place, frequencies(*GRID_FREQUENCIES, count)).reshape(len(place), -1)
    if seconds is not None:
        of_time = sinusoidal(seconds, frequencies(*TIME_FREQUENCIES, count))[:, :, None]
        shape = (*seconds.shape, len(place))
        axes = jnp.broadcast_to(axes, (*shape, axes.shape[-1]))
        axes = jnp.concatenate([jnp.broadcast_to(of_time, (*shape, 2 * count)), axes], axis=-1)
    return jnp.pad(axes, [(0, 0)] * (axes.ndim - 1) + [(0, width - axes.shape[-1])])


class Learned(nn.Module):
    """Learned tables of frames and places, for a fixed number of frames T and of patches N."""

    width: int

    @nn.compact
    def __call__(self, shape: tuple[int, int]) -> Float32[Array, "{shape[0]} {shape[1]} D"]:
        """The positions; raises InputError if `shape` (T, N) is not that of the tables."""
        tables = []
        for name, length in zip(("frames", "places"), shape, strict=True):
            if self.has_variable("params", name):
                known = len(self.get_variable("params", name))
                if known != length:
                    raise InputError(
                        f"learned positions have {known} {name}, the video has {length}: resize "
                        "them with embeddings.interpolate, or use model.positions=rotary"
                    )
            init = nn.with_logical_partitioning(nn.initializers.normal(0.02), (None, "embed"))
            tables.append(self.param(name, init, (length, self.width)))
        frames, places = tables
        return frames[:, None] + places


def interpolate(
    tables: Mapping[str, Any],
    frames: int,
    grid: tuple[int, int],
    new_grid: tuple[int, int],
) -> dict[str, Float[Array, "length D"]]:
    """Resizes the parameters of `Learned` linearly to another number of frames and patch grid."""
    places = tables["places"]
    D = places.shape[-1]
    places = jax.image.resize(places.reshape(*grid, D), (*new_grid, D), "linear")
    return {
        "frames": jax.image.resize(tables["frames"], (frames, D), "linear"),
        "places": places.reshape(-1, D),
    }


def rotate(
    x: Float[Array, "B T N K d"], turn: Float32[Array, "2 #B #T #N F"]
) -> Float[Array, "B T N K d"]:
    """Rotates pair (i, i + F) of every head, so that q·k depends on differences only."""
    cos, sin = turn[..., None, :]
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x.dtype)
