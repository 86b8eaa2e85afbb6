"""The Fréchet distance between Gaussians that are fitted to features."""

import dataclasses

import numpy as np
from jaxtyping import Float, Float64


@dataclasses.dataclass(frozen=True)
class Moments:
    """Mean and covariance of features, which add up over shards: `Moments.of(a) + Moments.of(b)`.

    The sum is by the formula of Chan, Golub & LeVeque (1983), for a root of the scatter matrix: the
    matrix itself would lose half of the digits of small variances.

    Attributes:
      count: number of rows, n.
      mean: mean of the rows.
      root: R with R^T R = sum of (x - mean) (x - mean)^T over the rows; at most d rows.
    """

    count: int
    mean: Float64[np.ndarray, " d"]
    root: Float64[np.ndarray, "r d"]

    @classmethod
    def of(cls, features: Float[np.ndarray, "n d"]) -> "Moments":
        """The moments of features, computed in float64."""
        x = features.astype(np.float64)
        mean = x.mean(axis=0)
        return cls(len(x), mean, np.linalg.qr(x - mean, mode="r"))

    def __add__(self, other: "Moments") -> "Moments":
        count, gap = self.count + other.count, other.mean - self.mean
        between = np.sqrt(self.count * other.count / count) * gap
        root = np.linalg.qr(np.vstack([self.root, other.root, between]), mode="r")
        return Moments(count, self.mean + gap * (other.count / count), root)


def frechet_of_moments(drawn: Moments, real: Moments) -> float:
    """The Fréchet distance of two Gaussians; see `frechet_distance`."""
    if min(drawn.count, real.count) < 2:
        raise ValueError(
            f"the Fréchet distance needs at least 2 drawn and 2 real clips for their covariances, "
            f"not {drawn.count} and {real.count}"
        )
    a, b = (m.root / np.sqrt(m.count - 1) for m in (drawn, real))
    overlap = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    distance = ((drawn.mean - real.mean) ** 2).sum() + (a**2).sum() + (b**2).sum() - 2 * overlap
    return max(float(distance), 0.0)  # it is never below 0 but by rounding


def frechet_distance(drawn: Float[np.ndarray, "n d"], real: Float[np.ndarray, "m d"]) -> float:
    """The squared Fréchet distance of the Gaussians fitted to two sets of features.

        |mu_1 - mu_2|^2 + tr(S_1 + S_2 - 2 (S_1 S_2)^(1/2))

    (Heusel et al. 2017, arXiv 1706.08500) with unbiased covariances S. For roots S_1 = A^T A and
    S_2 = B^T B, the eigenvalues of S_1 S_2 are the squared singular values of A B^T, so the trace
    of the matrix root is their sum, which holds for fewer clips than features too. Computed in
    float64, in squared units of the features. The bias is upwards, about in proportion to 1 / n, so
    compare only values of equal numbers of clips. Raises ValueError for fewer than 2 clips.
    """
    return frechet_of_moments(Moments.of(drawn), Moments.of(real))
