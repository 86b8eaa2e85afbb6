"""How well clips of the synthetic world obey its laws, read off the pixels by tracking.

A shape of `jaxvid/data/sources/synthetic.py` keeps its colour and its area, and each coordinate of
its centre is a triangle wave of time between walls at the distance of its circumradius m:

    x(t) = m + fold(u + v t),    fold(u) = |u - 2L round(u / 2L)|,    L = 1 - 2m.

The shapes of a clip have different colours, so each colour is a track. Lengths are in sides of the
picture, with x to the right and y down.
"""

import dataclasses
import math

import cv2
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Bool, Float, Int, UInt8

from jaxvid.data.sources.synthetic import COLOURS, CORNERS
from jaxvid.errors import InputError
from jaxvid.metrics.metric import Clips, Compare, Extract, feature, metric

LAWS = (
    "count",  # share of frames with another number of shapes than most frames have
    "identity",  # share of frames in which a shape is missing, or extra, or has another area
    "path",  # root mean square distance of the centres from the triangle waves, in sides
    "speed",  # mean distance of the speeds from the range of the world, in sides per second
)
SLOWEST, FASTEST = 0.25, 0.75  # sides per second
# The smallest shape has an area of 0.1. What is smaller than this can be the border of two shapes,
# where the mixture of their colours looks like a third one.
SMALLEST = 0.03
CHANGE = 0.2  # relative change of an area that blur and pixels do not explain
WHOLE = 0.05  # relative change of an area up to which a shape is not regarded as covered
# The index in COLOURS of the nearest one, for each set of channels above the middle of a pixel's
# range: 1 for red, plus 2 for green, plus 4 for blue.
NEAREST = np.array([-1, 0, 2, 1, 4, 5, 3, -1])
# The circumradius of each kind of shape at an area of 1.
CIRCUMRADII = np.array(
    [math.sqrt(2 / (n * math.sin(2 * math.pi / n)) if n else 1 / math.pi) for n in CORNERS.values()]
)


def physics(clips: Clips, fps: float) -> Float[np.ndarray, "N 4"]:
    """How far each clip is from the `LAWS`, in their order; 0 is perfect.

    Shapes may cover each other. The area of a shape that others touch may fall, and its centre
    counts only where no area is missing. A shape may be missing where it has met others, as long as
    others are seen where it should be. So breaches behind other shapes go unnoticed.

    `path` judges steady motion and bounces together, since the triangle wave describes both. Its
    velocity in each direction is at most 1.5 `FASTEST`: any points lie on a wave that is fast
    enough. A clip that stands still is on its path, but its `speed` is `SLOWEST` too low.

    In a clip without any shape the laws are broken as far as can be: 1 for each but `speed`, which
    is that of a clip that stands still.

    Args:
      clips: of the same width and height.
      fps: frames per second.

    Raises:
      InputError: the clips have fewer than three frames, or are not square.
    """
    T, H, W = clips.shape[1:4]
    if T < 3:
        raise InputError(
            f"clips of {T} frames are too short to test motion: raise data.frames to 3 or more"
        )
    if H != W:
        raise InputError(
            f"clips of {H} x {W} pixels are not from the synthetic world, which is square: compute"
            " this metric only for that world"
        )
    return np.array([_breaches(track(clip), fps) for clip in clips], np.float64).reshape(-1, 4)


@dataclasses.dataclass(frozen=True)
class Tracks:
    """What is seen of each colour in `COLOURS`, S of them, in each frame.

    Attributes:
      colour: index in `COLOURS` of each pixel, or -1 for the background.
      area: in sides^2.
      centre: (x, y) of the centroid; (0, 0) without an area.
      pieces: number of connected pieces of at least `SMALLEST`.
      touched: whether another colour is at most two pixels away.
    """

    colour: Int[np.ndarray, "T H H"]
    area: Float[np.ndarray, "T S"]
    centre: Float[np.ndarray, "T S 2"]
    pieces: Int[np.ndarray, "T S"]
    touched: Bool[np.ndarray, "T S"]


def track(clip: UInt8[np.ndarray, "T H H 3"]) -> Tracks:
    """Finds the colours of the world in the pixels, by their hue, saturation and brightness."""
    pixels = clip.astype(np.float32) / 255
    high, low = pixels.max(axis=-1), pixels.min(axis=-1)
    colour = NEAREST[(pixels > (high + low)[..., None] / 2) @ np.array([1, 2, 4])]
    # The background has a brightness of up to 0.2, and the dark part of a texture of 0.5.
    cover = np.clip((high - 0.2) / 0.3, 0, 1) * ((low < 0.6 * high) & (colour >= 0))
    area, centre = _centroids(cover, np.maximum(colour, 0))
    colour = np.where(cover >= 0.5, colour, -1)
    return Tracks(colour, area, centre, _pieces(colour), _touched(colour))


def _centroids(
    cover: Float[np.ndarray, "T H H"], colour: Int[np.ndarray, "T H H"]
) -> tuple[Float[np.ndarray, "T S"], Float[np.ndarray, "T S 2"]]:
    T, H, _ = cover.shape
    slot = (len(COLOURS) * np.arange(T)[:, None, None] + colour).ravel()
    grid = (np.arange(H) + 0.5) / H
    area, x, y = (
        np.bincount(slot, (cover * weight).ravel(), T * len(COLOURS)).reshape(T, -1) / H**2
        for weight in (1, grid, grid[:, None])
    )
    return area, np.stack([x, y], axis=-1) / np.maximum(area, 1e-9)[..., None]


def _pieces(colour: Int[np.ndarray, "T H H"]) -> Int[np.ndarray, "T S"]:
    T, H, _ = colour.shape
    pieces = np.zeros((T, len(COLOURS)), np.int64)
    apart = np.pad(colour, ((0, 0), (0, 1), (0, 0)), constant_values=-1).reshape(-1, H)
    for index in np.unique(colour[colour >= 0]):
        _, _, stats, _ = cv2.connectedComponentsWithStats((apart == index).astype(np.uint8))
        large = stats[1:][stats[1:, cv2.CC_STAT_AREA] >= SMALLEST * H**2]
        frame = large[:, cv2.CC_STAT_TOP] // (H + 1)
        pieces[:, index] = np.bincount(frame, minlength=T)
    return pieces


def _touched(colour: Int[np.ndarray, "T H H"]) -> Bool[np.ndarray, "T S"]:
    touched = np.zeros((len(colour), len(COLOURS)), bool)
    for view in (colour, colour.swapaxes(1, 2)):
        for step in (1, 2):
            a, b = view[:, step:], view[:, :-step]
            where = np.nonzero((a >= 0) & (b >= 0) & (a != b))
            touched[where[0], a[where]] = touched[where[0], b[where]] = True
    return touched


def _breaches(tracks: Tracks, fps: float) -> tuple[float, float, float, float]:
    shapes = np.flatnonzero(tracks.pieces.any(axis=0))
    if not len(shapes):
        return 1.0, 1.0, 1.0, SLOWEST
    area, centre, pieces, touched = (
        a[:, shapes] for a in (tracks.area, tracks.centre, tracks.pieces, tracks.touched)
    )
    present = pieces > 0
    full = np.array(
        [_full_area(*track) for track in zip(area.T, present.T, touched.T, strict=True)]
    )
    change = area / full - 1
    whole = present & (~touched | (np.abs(change) < WHOLE))
    known = whole.sum(axis=0) >= 3
    whole = np.where(known, whole, present)  # a rough wave still tells where a shape should be
    if not known.any():
        known = whole.sum(axis=0) >= 3
    wave, velocity = fit_waves(centre, whole, full, 1.5 * FASTEST / fps)

    # A shape covers another one only if both are seen at some time. Otherwise one that changes its
    # colour would cover itself.
    covers = np.zeros((len(shapes), len(COLOURS) + 1), bool)
    covers[:, shapes] = present.T @ present
    hidden = _covered(covers[:, tracks.colour], wave, full)
    hidden &= _behind(present, touched) & _behind(present[::-1], touched[::-1])[::-1]
    there = present | hidden
    # Another shape can cut one in two, which are no two shapes.
    number = there.sum(axis=1) + np.where(touched, 0, np.maximum(pieces - 1, 0)).sum(axis=1)
    members = there @ 2 ** np.arange(len(shapes))
    usual = there[(members == np.bincount(members).argmax()).argmax()]
    other = present & (np.where(touched, change, np.abs(change)) > CHANGE)

    path, speed = 1.0, SLOWEST
    if known.any():
        path = math.sqrt(((wave - centre) ** 2).sum(axis=-1)[whole & known].mean())
        speeds = fps * np.hypot(*velocity[known].T)
        speed = np.maximum(np.maximum(SLOWEST - speeds, speeds - FASTEST), 0).mean()
    return (
        (number != np.bincount(number).argmax()).mean(),
        ((there != usual) | other).any(axis=1).mean(),
        path,
        speed,
    )


def _full_area(
    area: Float[np.ndarray, " T"], present: Bool[np.ndarray, " T"], touched: Bool[np.ndarray, " T"]
) -> float:
    alone = area[present & ~touched]
    return float(np.median(alone) if len(alone) else area.max())


def _behind(
    present: Bool[np.ndarray, "T S"], touched: Bool[np.ndarray, "T S"]
) -> Bool[np.ndarray, "T S"]:
    """Whether a shape is missing since others touched it, or since the start."""
    free, behind = np.ones(present.shape[1], bool), []
    for here, touching in zip(present, touched, strict=True):
        free = np.where(here, touching, free)
        behind.append(free & ~here)
    return np.array(behind)


def _covered(
    seen: Bool[np.ndarray, "S T H H"],
    wave: Float[np.ndarray, "T S 2"],
    area: Float[np.ndarray, " S"],
) -> Bool[np.ndarray, "T S"]:
    """Whether more than half of a disc of a quarter of each shape's area is `seen` pixels."""
    grid = (np.arange(seen.shape[-1]) + 0.5) / seen.shape[-1]
    x, y = (grid - wave.T[axis, :, :, None] for axis in (0, 1))
    distance = x[:, :, None, :] ** 2 + y[..., None] ** 2
    inner = distance < area[:, None, None, None] / (4 * math.pi)
    return (2 * (inner & seen).sum(axis=(2, 3)) > inner.sum(axis=(2, 3))).T


def fit_waves(
    centre: Float[np.ndarray, "T S 2"],
    whole: Bool[np.ndarray, "T S"],
    area: Float[np.ndarray, " S"],
    fastest: float,
) -> tuple[Float[np.ndarray, "T S 2"], Float[np.ndarray, "S 2"]]:
    """The triangle waves with the least squared distance to the centres in the `whole` frames.

    Returns the waves, and their velocities v, of up to `fastest` sides per frame. Where the side of
    each wall on which u is is known, x is linear in u, and u + v t is a linear regression. It is
    repeated from many velocities in both directions. The kind of the shape gives the circumradius,
    and all kinds are tried.
    """
    time = np.arange(len(centre))
    # Axes: kinds, shapes, coordinates, starts, frames.
    margin = CIRCUMRADII[:, None] * np.sqrt(area)
    length = np.maximum(1 - 2 * margin, 1e-3)[:, :, None, None, None]
    x = (np.moveaxis(centre, 0, -1) - margin[..., None, None])[..., None, :]
    weight = (whole / np.maximum(whole.sum(axis=0), 1)).T[:, None, None]
    after = time - (weight * time).sum(axis=-1, keepdims=True)
    spread = np.maximum((weight * after**2).sum(axis=-1, keepdims=True), 1e-9)
    first = whole.argmax(axis=0)[:, None, None, None]
    start = np.take_along_axis(x, first[None], axis=-1)
    u = start + np.linspace(-fastest, fastest, 49)[:, None] * (time - first)
    for _ in range(4):
        turn = 2 * length * np.rint(u / (2 * length))
        target = turn + np.where(u < turn, -x, x)
        v = (weight * after * target).sum(axis=-1, keepdims=True) / spread
        v = np.clip(v, -fastest, fastest)
        u = (weight * target).sum(axis=-1, keepdims=True) + v * after
    folded = np.abs(u - 2 * length * np.rint(u / (2 * length)))
    gap = (weight * (folded - x) ** 2).sum(axis=-1, keepdims=True)
    best = gap.argmin(axis=3, keepdims=True)
    gap, folded, v = (np.take_along_axis(a, best, axis=3)[..., 0, :] for a in (gap, folded, v))
    kind = gap.sum(axis=(2, 3)).argmin(axis=0), np.arange(len(area))
    wave = np.moveaxis(folded[kind], -1, 0) + margin[kind][:, None]
    return wave, v[kind][..., 0]


@feature("physics", version="1", frames=3)
def of_clips(mesh: Mesh, fps: float) -> Extract:
    """A column for each of `LAWS`."""
    return lambda clips: physics(clips, fps)


def _mean_of(column: int) -> Compare:
    return lambda drawn, real: float(drawn[:, column].mean())


for column, law in enumerate(LAWS):
    metric(f"world_{law}", of="physics", better="lower")(_mean_of(column))
