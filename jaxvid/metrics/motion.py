"""How clips move: numbers per clip, whose distributions over drawn and real clips are compared.

The flow u_t(p) is how far the point at p in frame t moves until frame t + 1. All lengths are in
sides, and a side is the shorter one of the picture, with x to the right and y down. Velocities are
in sides per frame: times the frames per second, they are in sides per second.

Frames are scaled to a shorter side of 64 pixels, for which the flow is the dense inverse search of
Kroeger et al. 2016 (arXiv 1603.03590). In clips of the synthetic world, of 24 to 256 pixels, its
error inside a lone shape is about 5% of the speed, and 20% inside two or three shapes that meet.
Farnebäck's method is more exact for slow shapes, but loses fast ones in pictures of 64 pixels.
"""

import itertools
from collections.abc import Sequence

import cv2
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Float32, UInt8

from jaxvid.errors import InputError
from jaxvid.metrics.metric import Clips, Extract, Features, feature, metric
from jaxvid.metrics.wasserstein import wasserstein

# Pixels of the shorter side for the flow. With fewer, OpenCV changes the scales of the search.
SIDE = 64
STATISTICS = (
    "speed_median",  # of all pixels and frames
    "speed_90",  # the 90th percentile
    "speed_99",
    "velocity_x",  # the mean flow
    "velocity_y",
    "expansion",  # share by which the picture grows about its middle in a frame
    "speed_change",  # the mean speed in the later half minus that in the earlier half
    "acceleration",  # the mean change of velocity of a point from a frame to the next
)

Clip = UInt8[np.ndarray, "T H W 3"]
Picture = UInt8[np.ndarray, "h w 3"]
Flow = Float32[np.ndarray, "h w 2"]


def flow_statistics(clips: Clips) -> Float[np.ndarray, "N 8"]:
    """What `STATISTICS` names, of each clip, in sides per frame; `expansion` has no unit.

    The velocities, `expansion` and `speed_change` change their signs in a reversed clip.
    `expansion` is the least-squares slope of the flow on the position: 0.02 if the camera zooms in
    by 2% per frame. `acceleration` follows the points,

        mean |u_t+1(p + u_t(p)) - u_t(p)|,

    so it is small for a steady motion, and large if frames are out of order or stand still for a
    while.

    Raises:
      InputError: the clips have fewer than three frames.
    """
    _check(clips, 3)
    return np.array([_statistics(clip) for clip in clips]).reshape(-1, len(STATISTICS))


def flicker(clips: Clips) -> Float[np.ndarray, " N"]:
    """How much the colour of the whole picture jumps, in units of the pixel range.

        mean |m_t-1 - 2 m_t + m_t+1| / 2

    over frames and channels, with m_t the mean colour of frame t. It is the height of the jumps if
    the brightness alternates, and 0 for a fade. Motion inside the picture hardly changes m.

    Raises:
      InputError: the clips have fewer than three frames.
    """
    _check(clips, 3)
    means = clips.mean(axis=(2, 3)) / 255
    return np.abs(np.diff(means, 2, axis=1)).mean(axis=(1, 2)) / 2


def warping_error(clips: Clips) -> Float[np.ndarray, " N"]:
    """Mean squared difference of each frame to the next one, warped back by the flow.

    The flow warping error of Lai et al. 2018 (arXiv 1808.00449), for pixels in [0,1], over the
    pixels that are not occluded. A pixel is occluded if the flow leads out of the picture, or if
    the backward flow v does not lead back (Sundaram et al. 2010), with lengths in pixels:

        |u(p) + v(p + u(p))|^2 > 0.01 (|u(p)|^2 + |v(p + u(p))|^2) + 0.5.

    Noise, flicker and frames out of order raise it, and blur and standing still lower it. It is 1,
    the largest difference, if all pixels are occluded.

    Raises:
      InputError: the clips have fewer than two frames.
    """
    _check(clips, 2)
    return np.array([_warping_error(clip) for clip in clips], np.float64)


def optical_flow(clip: Clip) -> Float32[np.ndarray, "T-1 h w 2"]:
    """The flow (x, y) from each frame to the next, in sides per frame.

    Its size is that of the clip, scaled to a shorter side of `SIDE` pixels.
    """
    return np.stack(_flows(_scaled(clip))) / SIDE


def _check(clips: Clips, fewest: int) -> None:
    if clips.shape[1] < fewest:
        raise InputError(
            f"clips of {clips.shape[1]} frames are too short for this metric, which needs {fewest}:"
            " raise data.frames"
        )


def _scaled(clip: Clip) -> list[Picture]:
    """The frames with a shorter side of `SIDE` pixels."""
    shape = clip.shape[1:3]
    height, width = (round(SIDE * side / min(shape)) for side in shape)
    way = cv2.INTER_AREA if min(shape) > SIDE else cv2.INTER_CUBIC
    return [cv2.resize(frame, (width, height), interpolation=way) for frame in clip]


def _flows(frames: Sequence[Picture]) -> list[Flow]:
    """The flow from each frame to the next, in pixels."""
    search = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    return [search.calc(here, there, None) for here, there in itertools.pairwise(grey)]


def _targets(flow: Flow) -> Flow:
    """p + u(p), in pixels."""
    y, x = np.indices(flow.shape[:2], np.float32)
    return np.stack([x, y], axis=-1) + flow


def _at(picture: np.ndarray, targets: Flow) -> np.ndarray:
    """`picture` at `targets`, linearly interpolated, and continued beyond its edge."""
    return cv2.remap(picture, targets, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _statistics(clip: Clip) -> Float[np.ndarray, " 8"]:
    flow = optical_flow(clip)
    middle = (np.array(flow.shape[2:0:-1]) - 1) / 2
    radius = (_targets(np.zeros_like(flow[0])) - middle) / SIDE
    speed = np.linalg.norm(flow, axis=-1)
    means, half = speed.mean(axis=(1, 2)), len(speed) // 2
    later = [_at(after, _targets(SIDE * before)) for before, after in itertools.pairwise(flow)]
    values = [
        *np.percentile(speed, (50, 90, 99)),
        *flow.mean(axis=(0, 1, 2)),
        (flow * radius).mean() / (radius**2).mean(),
        means[-half:].mean() - means[:half].mean(),
        np.linalg.norm(np.stack(later) - flow[:-1], axis=-1).mean(),
    ]
    return np.array(values, np.float64)


def _warping_error(clip: Clip) -> float:
    frames = _scaled(clip)
    total, count = 0.0, 0
    backward = reversed(_flows(frames[::-1]))
    pairs = itertools.pairwise(frames)
    for (here, there), u, v in zip(pairs, _flows(frames), backward, strict=True):
        targets = _targets(u)
        v = _at(v, targets)
        gap, size = ((u + v) ** 2).sum(axis=-1), (u**2 + v**2).sum(axis=-1)
        edge = np.array(u.shape[1::-1]) - 1
        seen = ((targets >= 0) & (targets <= edge)).all(axis=-1) & (gap <= 0.01 * size + 0.5)
        change = _at(there, targets).astype(np.float32) - here
        total += (change[seen] ** 2).sum(dtype=np.float64)
        count += 3 * seen.sum()
    return float(total / count / 255**2) if count else 1.0


@feature("motion", version="1", frames=3)
def motion(mesh: Mesh, fps: float) -> Extract:
    """A column for each of `STATISTICS`, then the flicker and the warping error."""
    return lambda clips: np.column_stack(
        [flow_statistics(clips), flicker(clips), warping_error(clips)]
    )


@metric("motion", of="motion", better="lower")
def motion_distance(drawn: Features, real: Features) -> float:
    """The Wasserstein distance of the distributions of `STATISTICS`."""
    columns = slice(len(STATISTICS))
    return wasserstein(drawn[:, columns], real[:, columns])


@metric("flicker", of="motion", better="real")
def mean_flicker(drawn: Features, real: Features) -> float:
    """The mean flicker of the drawn clips."""
    return float(drawn[:, -2].mean())


@metric("warping", of="motion", better="real")
def mean_warping_error(drawn: Features, real: Features) -> float:
    """The mean warping error of the drawn clips."""
    return float(drawn[:, -1].mean())
