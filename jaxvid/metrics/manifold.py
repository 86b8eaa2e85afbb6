"""Fidelity and diversity, from which clips lie near clips of the other set.

The manifold of a set of features is the union of balls around them. The radius of a ball is the
distance to the k-th nearest other clip of the set. All scores are computed in float64. They raise
ValueError if the set that forms the manifold has no more than k clips.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float

BLOCK = 1024  # balls in memory at a time


def precision(drawn: Float[np.ndarray, "n d"], real: Float[np.ndarray, "m d"], k: int = 3) -> float:
    """The share of drawn clips on the manifold of the real ones, from 0 to 1.

    (Kynkäänniemi et al. 2019, arXiv 1904.06991.) A single real outlier can raise it much, because
    its ball is large; `density` is more robust.
    """
    return float(np.any([inside.any(axis=0) for inside in _inside(drawn, real, k)], axis=0).mean())


def recall(drawn: Float[np.ndarray, "n d"], real: Float[np.ndarray, "m d"], k: int = 3) -> float:
    """The share of real clips on the manifold of the drawn ones, from 0 to 1: see `precision`."""
    return precision(real, drawn, k)


def density(drawn: Float[np.ndarray, "n d"], real: Float[np.ndarray, "m d"], k: int = 5) -> float:
    """The mean number of balls of real clips around a drawn clip, divided by k; at least 0.

    (Naeem et al. 2020, arXiv 2002.09797.) Its expectation is 1 for equal distributions. It is above
    1 if drawn clips prefer places where real ones are dense.
    """
    return float(sum(inside.sum() for inside in _inside(drawn, real, k)) / (k * len(drawn)))


def coverage(drawn: Float[np.ndarray, "n d"], real: Float[np.ndarray, "m d"], k: int = 5) -> float:
    """The share of real clips whose ball contains a drawn clip, from 0 to 1.

    (Naeem et al. 2020, arXiv 2002.09797.) Its expectation for equal distributions is

        1 - (m - 1) ... (m - k) / ((n + m - 1) ... (n + m - k))
    """
    return float(np.concatenate([inside.any(axis=1) for inside in _inside(drawn, real, k)]).mean())


def _inside(
    points: Float[np.ndarray, "n d"], centres: Float[np.ndarray, "m d"], k: int
) -> Iterator[Bool[np.ndarray, "_ n"]]:
    """Which points lie in the ball of each centre, for blocks of centres."""
    if len(centres) <= k or not len(points):
        raise ValueError(
            f"balls that reach to {k} neighbours need at least {k + 1} clips, and at least 1 clip "
            f"to lie in them, not {len(centres)} and {len(points)}"
        )
    # Near the origin, the squares of the distances round less.
    origin = centres.mean(axis=0, dtype=np.float64)
    points, centres = points - origin, centres - origin
    for start in range(0, len(centres), BLOCK):
        block = centres[start : start + BLOCK]
        among, rows = _squared_distances(block, centres), np.arange(len(block))
        among[rows, start + rows] = np.inf
        yield _squared_distances(block, points) <= np.partition(among, k - 1)[:, k - 1 : k]


def _squared_distances(
    x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "m d"]
) -> Float[np.ndarray, "n m"]:
    return (x**2).sum(axis=1)[:, None] + (y**2).sum(axis=1) - 2 * x @ y.T
