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
    table, n = distances(np.concatenate([x, y]), views), len(x)
    return _of_distances(table[:n, :n], table[n:, n:], table[:n, n:])


def distances(
    x: Float[np.ndarray, " n *shape"], views: Sequence[View] = (_itself,)
) -> Float[np.ndarray, "n n"]:
    """The distances |.| of all pairs of samples."""
    table = sum(_root_mean_squares(view(x)) for view in views)
    # The distance of a sample to itself: the square root would enlarge the rounding error.
    np.fill_diagonal(table, 0)
    return table


def _root_mean_squares(x: Float[np.ndarray, " n *shape"]) -> Float[np.ndarray, "n n"]:
    x = np.asarray(x, np.float64).reshape(len(x), -1)
    squares = (x**2).sum(axis=1)
    return np.sqrt(np.maximum(squares[:, None] + squares - 2 * x @ x.T, 0) / max(x.shape[1], 1))


def _of_distances(
    among_x: Float[np.ndarray, "n n"],
    among_y: Float[np.ndarray, "m m"],
    between: Float[np.ndarray, "n m"],
) -> float:
    pairs_x, pairs_y = (
        among.sum() / (len(among) * (len(among) - 1)) for among in (among_x, among_y)
    )
    return float(2 * between.mean() - pairs_x - pairs_y)


@feature("pixels", version="1")
def pixels(mesh: Mesh, fps: float) -> Extract:
    """The clips themselves."""
    return lambda clips: clips


def distances_of_clips(clips: Clips) -> Float[np.ndarray, "n n"]:
    """The distances of all pairs of clips in all `VIEWS`, in thousandths of the pixel range."""
    return 1000 * distances(clips / 255, VIEWS)


# The energy distance in all `VIEWS`.
metric("energy", of="pixels", better="lower", table=distances_of_clips)(_of_distances)
