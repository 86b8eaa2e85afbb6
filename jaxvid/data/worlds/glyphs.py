"""Digits that drift and bounce off the walls, and hide one another (compare Moving MNIST).

Moving MNIST is that of Srivastava et al. 2015 (arXiv 1502.04681). Here digits are strokes of a
vector font with random thickness, slant, rotation and size, so no data set is needed.
"""

import functools
from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Float, Int, UInt8
from ml_collections import ConfigDict

from jaxvid.config import NOT_BELOW_0, key
from jaxvid.data.clips import Clip
from jaxvid.data.worlds.world import (
    COUNTS,
    Backdrop,
    a,
    choose_colours,
    draw_backdrop,
    listed,
    padded,
    to_pixels,
    world,
)

LABELS = tuple("0123456789")
CANVAS = 96  # pixels in which a digit is written
FONTS = (cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_DUPLEX, cv2.FONT_HERSHEY_TRIPLEX)


@world(
    "glyphs",
    labels=LABELS,
    spoilt_by={"flip": ("label", "text_bytes", "text")},
    count=key((1, 2), COUNTS, "number of digits"),
    speed=key(0.75, NOT_BELOW_0, "largest speed, in sides per second; the least is a third of it"),
)
def glyphs(rng: np.random.Generator, data: ConfigDict, frames: int) -> Clip:
    """Digits on straight paths between walls; the label is the one in front.

    Truth: `position` of the centres of the ink, and `velocity`. The action is the velocity of the
    digit in front.
    """
    c = data.glyphs
    count = int(rng.integers(c.count[0], c.count[1] + 1))
    digits = rng.integers(10, size=count).tolist()
    colours, backdrop = choose_colours(rng, data, count), draw_backdrop(rng, data, frames)
    time = np.arange(frames) / data.fps
    written = [_write(rng, digit) for digit in digits]
    paths = [_bounce(rng, low, high, c.speed, time) for _, low, high in written]
    position = np.stack([path for path, _ in paths], axis=1)
    velocity = np.stack([v for _, v in paths], axis=1)
    names = [f"{colour.name} {digit}" for colour, digit in zip(colours, digits, strict=True)]
    captions = (
        f"the digits {listed(list(map(str, digits)))} drifting"
        if count > 1
        else f"the digit {digits[0]} drifting",
        f"{listed([a(name) for name in names])} bouncing off the edges",
        f"moving digits: {listed(names)}",
    )
    return Clip(
        time.astype(np.float32),
        functools.partial(
            _render, [ink for ink, _, _ in written], [colour.rgb for colour in colours],
            backdrop, data.size, position,
        ),
        label=digits[-1],
        caption=captions[rng.integers(3)],
        action=velocity[:, -1].astype(np.float32),
        truth={
            "position": padded(position, c.count[1]),
            "velocity": padded(velocity, c.count[1]),
        },
    )  # fmt: skip


def _write(
    rng: np.random.Generator, digit: int
) -> tuple[Float[np.ndarray, "c c"], Float[np.ndarray, " 2"], Float[np.ndarray, " 2"]]:
    """A digit as ink in [0,1], its centre in the middle; and how far it reaches from there.

    The canvas is half a side of the picture wide. The reach is (x, y) to the left and top, and to
    the right and bottom, in sides.
    """
    ink, font = np.zeros((CANVAS, CANVAS), np.uint8), FONTS[rng.integers(len(FONTS))]
    thickness = int(rng.integers(7, 13))
    (width, height), _ = cv2.getTextSize(str(digit), font, 3.0, thickness)
    corner = ((CANVAS - width) // 2, (CANVAS + height) // 2)
    cv2.putText(ink, str(digit), corner, font, 3.0, 255, thickness, cv2.LINE_AA)
    size, slant, turn = rng.uniform(0.75, 1.1), rng.uniform(-0.3, 0.3), rng.uniform(-0.3, 0.3)
    cos, sin = np.cos(turn), np.sin(turn)
    change = size * np.array([[cos, -sin], [sin, cos]]) @ np.array([[1, slant], [0, 1]])
    middle = (CANVAS - 1) / 2
    shift = np.full(2, middle) - change @ _centre(ink)
    ink = cv2.warpAffine(ink, np.column_stack([change, shift]), (CANVAS, CANVAS)) / 255
    ink = cv2.warpAffine(ink, np.column_stack([np.eye(2), middle - _centre(ink)]), (CANVAS, CANVAS))
    rows, columns = np.nonzero(ink.max(1) > 0.5)[0], np.nonzero(ink.max(0) > 0.5)[0]
    low, high = (
        np.array([columns[i], rows[i]]) / CANVAS / 2 - 0.25 + (0.5 + i * 0.5) / CANVAS
        for i in (0, -1)
    )
    return ink.astype(np.float32), low, high


def _centre(ink: np.ndarray) -> Float[np.ndarray, " 2"]:
    y, x = np.indices(ink.shape)
    return np.array([(x * ink).sum(), (y * ink).sum()]) / ink.sum()


def _bounce(
    rng: np.random.Generator,
    low: Float[np.ndarray, " 2"],
    high: Float[np.ndarray, " 2"],
    speed: float,
    time: Float[np.ndarray, " N"],
) -> tuple[Float[np.ndarray, "N 2"], Float[np.ndarray, "N 2"]]:
    """The path and velocity of a digit that stays in the picture: a triangle wave of time."""
    corridor = 1 - (high - low)
    heading = rng.uniform(0, 2 * np.pi)
    velocity = speed * rng.uniform(1 / 3, 1) * np.array([np.cos(heading), np.sin(heading)])
    way = rng.uniform(0, corridor) + velocity * time[:, None]
    folded = np.abs(way - 2 * corridor * np.rint(way / (2 * corridor)))
    return folded - low, velocity * np.where(way // corridor % 2, -1, 1)


def _render(
    inks: Sequence[Float[np.ndarray, "c c"]],
    colours: Sequence[UInt8[np.ndarray, " 3"]],
    backdrop: Backdrop,
    size: int,
    position: Float[np.ndarray, "N S 2"],
    frames: Int[np.ndarray, " T"],
) -> UInt8[np.ndarray, "T H W 3"]:
    video = np.empty((len(frames), size, size, 3), np.float32)
    video[:] = backdrop(frames)
    scale = size / 2 / CANVAS  # pixels of the picture in one of the canvas
    for s, (ink, colour) in enumerate(zip(inks, colours, strict=True)):
        side = max(1, round(CANVAS * scale))
        small = cv2.resize(ink, (side, side), interpolation=cv2.INTER_AREA)
        for t, centre in enumerate(to_pixels(position[frames, s], size)):
            move = np.column_stack([np.eye(2), centre - (side - 1) / 2])
            cover = cv2.warpAffine(small, move, (size, size))[..., None]
            video[t] += cover * (colour.astype(np.float32) - video[t])
    return np.rint(video).astype(np.uint8)
