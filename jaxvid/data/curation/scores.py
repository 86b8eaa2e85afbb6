"""Scores of a clip, by which it is kept or dropped.

@score("brightness")
def brightness(clip: Greys) -> float: ...

A filter is a text with a score and its bounds, such as "motion(least=0.01)" or
"brightness(least=0.05, most=0.95)".
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from jaxvid.config import is_number, parse_call
from jaxvid.errors import InputError, nearest

_SIDE = 64  # pixels of the shorter side of what is scored
_PAIRS = 8  # of frames in which motion is measured


class Greys(NamedTuple):
    """A clip in grey, with a shorter side of at most 64 pixels, and its times in seconds."""

    frames: UInt8[np.ndarray, "T h w"]
    time: Float32[np.ndarray, " T"]


Score = Callable[[Greys], float]
SCORES: dict[str, Score] = {}
Filters = Mapping[str, tuple[float, float]]


def score(name: str) -> Callable[[Score], Score]:
    """Registers a function of a clip."""

    def register(function: Score) -> Score:
        SCORES[name] = function
        return function

    return register


@score("motion")
def motion(clip: Greys) -> float:
    """Mean optical flow (Farnebäck 2003), in shorter sides of the picture per second."""
    speeds, last = [], len(clip.time) - 1
    for i in sorted({last * k // _PAIRS for k in range(_PAIRS * (last > 0))}):
        flow = cv2.calcOpticalFlowFarneback(
            clip.frames[i], clip.frames[i + 1], None, 0.5, 3, 9, 2, 5, 1.1, 0
        )
        length = np.linalg.norm(flow, axis=-1).mean() / min(clip.frames.shape[1:])
        speeds.append(length / (clip.time[i + 1] - clip.time[i]))
    return float(np.mean(speeds)) if speeds else 0.0


@score("sharpness")
def sharpness(clip: Greys) -> float:
    """Mean standard deviation of the Laplacian, in levels of 255."""
    return float(np.mean([cv2.Laplacian(frame, cv2.CV_32F).std() for frame in clip.frames]))


@score("brightness")
def brightness(clip: Greys) -> float:
    """Mean luma, 0 to 1."""
    return float(clip.frames.mean()) / 255


@score("contrast")
def contrast(clip: Greys) -> float:
    """Mean standard deviation of the luma of a frame, 0 to 1."""
    return float(clip.frames.std(axis=(1, 2)).mean()) / 255


def measure(
    frames: UInt8[np.ndarray, "T H W 3"], time: Float32[np.ndarray, " T"]
) -> dict[str, float]:
    """All scores of a clip, RGB in [0, 255], whose times are in seconds, to four digits."""
    shrink = min(1, _SIDE / min(frames.shape[1:3]))
    size = [max(1, round(shrink * n)) for n in (frames.shape[2], frames.shape[1])]
    greys = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    small = [cv2.resize(grey, size, interpolation=cv2.INTER_AREA) for grey in greys]
    clip = Greys(np.stack(small), time)
    return {name: float(f"{function(clip):.4g}") for name, function in SCORES.items()}


def parse_filters(texts: Sequence[str]) -> Filters:
    """The bounds (least, most) of each score that filters name.

    Raises InputError for a text that is not a filter.
    """
    filters = {}
    for text in texts:
        try:
            name, options = parse_call(text)
        except ValueError:
            name, options = "", {"": 0}
        if name and name not in SCORES:
            raise InputError(f"filter {text}: {nearest(name, SCORES)}choose of {', '.join(SCORES)}")
        bounds = {"least": -math.inf, "most": math.inf} | options
        if not options or len(bounds) > 2 or not all(map(is_number, options.values())):
            raise InputError(f"filter {text}: write it as motion(least=0.01), with least or most")
        filters[name] = (float(bounds["least"]), float(bounds["most"]))
    return filters


def failed(scores: Mapping[str, float], filters: Filters) -> str:
    """The first score that is out of its bounds; "" if the clip passes all filters."""
    passes = {name: least <= scores[name] <= most for name, (least, most) in filters.items()}
    return next((name for name, ok in passes.items() if not ok), "")
