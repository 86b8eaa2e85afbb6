"""The energy distance between two distributions, estimated from samples."""

from collections.abc import Callable, Sequence

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float

from jaxvid.metrics.metric import Clips, Extract, feature, metric

View = Callable[[Float[np.ndarray, " n *shape"]], Float[np.ndarray, " n *other"]]


def _itself(x: Float[np.ndarray, " n *shape"]) -> Float[np.ndarray, " n *shape"]:
    return x


def in_time(clips: Float[np.ndarray, "n T H W C"]) -> Float[np.ndarray, "n T-1 H W C"]:
    """Differences between each frame and the one before it."""
    return np.diff(clips, axis=1)


def in_space(clips: Float[np.ndarray, "n T H W C"]) -> Float[np.ndarray, "n d"]:
    """Differences between each pixel and its neighbours above and to the left."""
    down, right = (np.diff(clips, axis=axis).reshape(len(clips), -1) for axis in (2, 3))
    return np.concatenate([down, right], axis=1)


# A distance of pixels alone hides noise in the diversity of the clips: noise can even compensate
# for pale colours. Differences reveal noise, flicker, blur and clips that stand still.
VIEWS: tuple[View, ...] = (_itself, in_time, in_space)


def energy_distance(
    x: Float[np.ndarray, " n *shape"],
    y: Float[np.ndarray, " m *shape"],
    views: Sequence[View] = (_itself,),
) -> float:
    """The energy distance of the distributions of `x` and `y`.

        2 E|X - Y| - E|X - X'| - E|Y - Y'|

    (Székely & Rizzo 2013), which is 0 for equal distributions and above 0 for all others. |.| is
    the root mean square over the elements of a sample. With several `views`, which are linear maps,
    the norm is the sum over the views, and so is the distance. The estimate is unbiased, because X
    and X' are never the same sample, so it can be below 0.
    """
    between, among_x, among_y = (
        sum(_distances(view(a), view(b)) for view in views) for a, b in ((x, y), (x, x), (y, y))
    )
    # The distance of a sample to itself: the square root would enlarge the rounding error.
    for among in (among_x, among_y):
        np.fill_diagonal(among, 0)
    pairs_x, pairs_y = (
        among.sum() / (len(among) * (len(among) - 1)) for among in (among_x, among_y)
    )
    return float(2 * between.mean() - pairs_x - pairs_y)


def _distances(
    x: Float[np.ndarray, " n *shape"], y: Float[np.ndarray, " m *shape"]
) -> Float[np.ndarray, "n m"]:
    x, y = (np.asarray(a, np.float64).reshape(len(a), -1) for a in (x, y))
    square = (x**2).sum(axis=1)[:, None] + (y**2).sum(axis=1) - 2 * x @ y.T
    return np.sqrt(np.maximum(square, 0) / max(x.shape[1], 1))


@feature("pixels", version="1")
def pixels(mesh: Mesh, fps: float) -> Extract:
    """The clips themselves."""
    return lambda clips: clips


@metric("energy", of="pixels", better="lower")
def energy(drawn: Clips, real: Clips) -> float:
    """The energy distance in all `VIEWS`, in thousandths of the pixel range."""
    return 1000 * energy_distance(drawn / 255, real / 255, VIEWS)
