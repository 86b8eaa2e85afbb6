"""The Wasserstein distance between the distributions of single features."""

import numpy as np
from jaxtyping import Float


def wasserstein(drawn: Float[np.ndarray, "n d"], real: Float[np.ndarray, "m d"]) -> float:
    """The Wasserstein-1 distance of each feature in standard deviations, averaged over features.

        W_1 = integral of |F(x) - G(x)| dx

    with the distribution functions F and G of a feature. The standard deviation is that of an equal
    mixture of drawn and real clips. The score is therefore from 0 to 2, whatever the units of the
    features: no feature outweighs all others, and one that is constant in real clips counts too.
    A feature that is the same in all clips counts as 0. Computed in float64. The bias is
    upwards, in proportion to n^(-1/2) for equal distributions, so compare only values of equal
    numbers of clips. Raises ValueError for fewer than 2 clips.
    """
    n, m = len(drawn), len(real)
    if min(n, m) < 2:
        raise ValueError(
            f"the Wasserstein distance needs at least 2 drawn and 2 real clips, not {n} and {m}"
        )
    both = np.concatenate([drawn, real]).astype(np.float64)
    order = np.argsort(both, axis=0)
    cdfs_apart = np.cumsum(np.where(order < n, 1 / n, -1 / m), axis=0)[:-1]
    steps = np.diff(np.take_along_axis(both, order, axis=0), axis=0)
    distance = (np.abs(cdfs_apart) * steps).sum(axis=0)
    x, y = both[:n], both[n:]
    gap = x.mean(axis=0) - y.mean(axis=0)
    std = np.sqrt((x.var(axis=0) + y.var(axis=0)) / 2 + gap**2 / 4)
    return float(np.divide(distance, std, out=np.zeros_like(std), where=std > 0).mean())
