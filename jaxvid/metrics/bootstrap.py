"""The sampling error of a score of drawn and real clips."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Shaped

Score = Callable[[Shaped[np.ndarray, " n *shape"], Shaped[np.ndarray, " m *shape"]], float]


def bootstrap(
    score: Score,
    drawn: Shaped[np.ndarray, " n *shape"],
    real: Shaped[np.ndarray, " m *shape"],
    seed: int,
    draws: int = 100,
) -> tuple[float, float, float]:
    """The standard error of a score, and the ends (low, high) of its 95 % interval.

    The error is the standard deviation of the score over random halves of both sets, drawn without
    replacement: the delete-d jackknife with d = n / 2 (Shao & Wu 1989), which is also the bootstrap
    of n / 2 out of n without replacement (Bickel, Götze & van Zwet 1997). The variance of the mean
    of k of n rows is (n - k) / k times that of the mean of all n, so halves need no factor.

    Rows that are drawn with replacement would repeat. A repeated row is its own nearest neighbour,
    and has the largest kernel with itself, so the bootstrap fails for nearest neighbours (Abadie &
    Imbens 2008) and is biased for U-statistics and for distances of distributions. Halves have no
    repeated rows. Their scores may be biased, as those of fewer clips are, but their spread is not
    affected, so the interval is value ± 1.96 errors. It is for the expectation of the score at this
    number of clips. If the distributions are equal, the part of the score that is linear in the
    clips vanishes, and the error is too large by a factor of up to about √3.

    Args:
      score: a function of drawn and real rows; it must accept half of them.
      drawn: a row per drawn clip, such as its features.
      real: a row per real clip.
      seed: seed of the random halves; equal seeds give equal results.
      draws: number of halves. The error has a relative error of about (2 draws)^(-1/2) from it.

    Raises ValueError for fewer than 2 rows, and what `score` raises.
    """
    if min(len(drawn), len(real)) < 2:
        raise ValueError(
            f"a sampling error needs halves of at least 2 drawn and 2 real clips, not of "
            f"{len(drawn)} and {len(real)}"
        )
    rng = np.random.default_rng(seed)
    halves = [score(_half(drawn, rng), _half(real, rng)) for _ in range(draws)]
    value, error = score(drawn, real), float(np.std(halves, ddof=1))
    return error, value - 1.96 * error, value + 1.96 * error


def _half(x: Shaped[np.ndarray, " n *shape"], rng: np.random.Generator):
    return x[rng.permutation(len(x))[: len(x) // 2]]
