"""The energy distance: how far apart two distributions are, from samples alone."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from jaxvid.metrics.metric import Clips, metric

View = Callable[[Float[np.ndarray, "n *shape"]], Float[np.ndarray, "n *other"]]


def _itself(x: Float[np.ndarray, "n *shape"]) -> Float[np.ndarray, "n *shape"]:
    return x


def in_time(clips: Float[np.ndarray, "n T H W C"]) -> Float[np.ndarray, "n T-1 H W C"]:
    """Each frame minus the one before it."""
    return np.diff(clips, axis=1)


def in_space(clips: Float[np.ndarray, "n T H W C"]) -> Float[np.ndarray, "n d"]:
    """Each pixel minus its neighbours above and to the left."""
    down, right = (np.diff(clips, axis=axis).reshape(len(clips), -1) for axis in (2, 3))
    return np.concatenate([down, right], axis=1)


# Of pixels alone, noise hides among the variety of the clips and even makes up for colours that
# are too pale. Their differences show it, and show what flickers, is blurred or stands still.
VIEWS: tuple[View, ...] = (_itself, in_time, in_space)


def energy_distance(
    x: Float[np.ndarray, "n *shape"],
    y: Float[np.ndarray, "m *shape"],
    views: Sequence[View] = (_itself,),
) -> tuple[float, float]:
    """The energy distance of the distributions of `x` and `y`, and its standard error.

        2 E|X - Y| - E|X - X'| - E|Y - Y'|

    (Székely & Rizzo 2013), which is 0 for equal distributions and above 0 for all others. |.| is
    the root mean square over all numbers of a sample, in their unit. With several `views`, linear
    maps, it is the sum of that over all of them, and so is the distance. The estimate is unbiased
    and so may be below 0: X and X' are never the same sample. The error is the jackknife's over the
    samples of both, of which there must be at least three.
    """
    between, among_x, among_y = (
        sum(_distances(view(a), view(b)) for view in views) for a, b in ((x, y), (x, x), (y, y))
    )
    # Of a sample to itself: what rounding leaves would not be small, as its root is taken.
    for among in (among_x, among_y):
        np.fill_diagonal(among, 0)
    pairs_x, pairs_y = (_mean_of_pairs(among.sum(), len(among)) for among in (among_x, among_y))
    without_x = _jackknife(between, among_x) - pairs_y
    without_y = _jackknife(between.T, among_y) - pairs_x
    variance = sum((len(v) - 1) * v.var() for v in (without_x, without_y))
    return float(2 * between.mean() - pairs_x - pairs_y), float(np.sqrt(variance))


def _jackknife(
    between: Float[np.ndarray, "n m"], among: Float[np.ndarray, "n n"]
) -> Float[np.ndarray, "n"]:
    """2 E|X - Y| - E|X - X'| without each X in turn."""
    n, m = between.shape
    means = (between.sum() - between.sum(axis=1)) / ((n - 1) * m)
    return 2 * means - _mean_of_pairs(among.sum() - 2 * among.sum(axis=1), n - 1)


def _mean_of_pairs(total, n: int):
    """Of a sum over the n (n - 1) ordered pairs of different samples."""
    return total / (n * (n - 1))


def _distances(
    x: Float[np.ndarray, "n *shape"], y: Float[np.ndarray, "m *shape"]
) -> Float[np.ndarray, "n m"]:
    x, y = (np.asarray(a, np.float64).reshape(len(a), -1) for a in (x, y))
    square = (x**2).sum(axis=1)[:, None] + (y**2).sum(axis=1) - 2 * x @ y.T
    return np.sqrt(np.maximum(square, 0) / max(x.shape[1], 1))


@metric("energy")
def energy(drawn: Clips, real: Clips) -> tuple[float, float]:
    """The energy distance of the clips in all `VIEWS`, in thousandths of a pixel's range."""
    value, error = energy_distance(drawn / 255, real / 255, VIEWS)
    return 1000 * value, 1000 * error
