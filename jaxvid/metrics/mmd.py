"""The maximum mean discrepancy between two distributions, estimated from samples."""

import numpy as np
from jaxtyping import Float

BLOCK = 1024  # rows of the kernel in memory at a time


def mmd(drawn: Float[np.ndarray, "n d"], real: Float[np.ndarray, "m d"]) -> float:
    """The squared maximum mean discrepancy of two sets of features.

        E k(X, X') + E k(Y, Y') - 2 E k(X, Y),    k(x, y) = (x . y / d + 1)^3

    (Gretton et al. 2012) with the kernel of the Kernel Inception Distance (Bińkowski et al. 2018,
    arXiv 1801.01401). It is 0 if the distributions agree in all moments up to the third. The
    estimate is unbiased, because X and X' are never the same clip, so it can be below 0. It uses
    all pairs of clips, in float64. Raises ValueError for fewer than 2 clips.
    """
    n, m = len(drawn), len(real)
    if min(n, m) < 2:
        raise ValueError(
            f"the MMD needs at least 2 drawn and 2 real clips to form pairs, not {n} and {m}"
        )
    x, y = (features.astype(np.float64) for features in (drawn, real))
    return float(_mean_of_pairs(x) + _mean_of_pairs(y) - 2 * _sum(x, y) / (n * m))


def _mean_of_pairs(x: Float[np.ndarray, "n d"]):
    """The mean kernel over the ordered pairs of different rows."""
    n, d = x.shape
    itself = (((x**2).sum(axis=1) / d + 1) ** 3).sum()
    return (_sum(x, x) - itself) / (n * (n - 1))


def _sum(x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "m d"]):
    """The sum of the kernel over all pairs."""
    blocks = (x[i : i + BLOCK] @ y.T / x.shape[1] + 1 for i in range(0, len(x), BLOCK))
    return sum((block * block * block).sum() for block in blocks)
