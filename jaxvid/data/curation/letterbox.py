"""Dark borders, as those of a film in a picture of another shape."""

from collections.abc import Iterable

import numpy as np
from jaxtyping import Float, UInt8

from jaxvid.data.video import NO_BORDERS, Borders

DARK = 20.0  # of 255; the black of video is 16
_LEAST = 0.25  # share of the rows or columns that must be left
_BLUR = 2  # rows or columns at the edge of the picture that are half dark


def find_borders(pictures: Iterable[UInt8[np.ndarray, "H W"]]) -> Borders:
    """The rows and columns at the edges that are dark in all pictures, which are grey.

    Pictures that are dark all over say nothing. If less than a quarter of the rows or columns would
    be left, or without a picture, there are no borders.
    """
    # A few bright pixels, such as noise, do not make a border part of the picture.
    lit = [p for p in pictures if p.mean() > DARK]
    if not lit:
        return NO_BORDERS
    above, below = _dark_ends(np.max([np.percentile(p, 98, axis=1) for p in lit], axis=0))
    left, right = _dark_ends(np.max([np.percentile(p, 98, axis=0) for p in lit], axis=0))
    return Borders(above, below, left, right)


def _dark_ends(brightness: Float[np.ndarray, " n"]) -> tuple[int, int]:
    light = np.flatnonzero(brightness > DARK)
    n = len(brightness)
    if not len(light) or light[-1] + 1 - light[0] < _LEAST * n:
        return 0, 0
    return tuple(int(k and k + _BLUR) for k in (light[0], n - 1 - light[-1]))
