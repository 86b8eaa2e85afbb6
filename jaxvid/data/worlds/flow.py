"""A texture that deforms and flows: travelling waves, ripples around a point, or a swirl."""

import functools
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Complex, Float, Int, UInt8
from ml_collections import ConfigDict

from jaxvid.config import ABOVE_0, FRACTION, key
from jaxvid.data.clips import Clip
from jaxvid.data.worlds import texture
from jaxvid.data.worlds.world import choose_colours, listed, world

LABELS = ("waves", "ripples", "swirl")
WHAT = {
    "waves": ("waves run through", "a wavy pattern moves through"),
    "ripples": ("ripples spread over", "rings ripple through"),
    "swirl": ("a whirl stirs", "a swirl turns"),
}
MARKS = 4
Time = np.ndarray | np.floating
Field = Callable[[np.ndarray, Time], np.ndarray]


@world(
    "flow",
    labels=LABELS,
    speed=key(0.5, ABOVE_0, "speed of the waves, in sides per second; of a swirl, in turns"),
    strength=key(0.5, FRACTION, "how far it deforms the texture; at 1 it would fold"),
)
def flow(rng: np.random.Generator, data: ConfigDict, frames: int) -> Clip:
    """A texture of three colours; the label says how it moves.

    Truth: `position` of four points of the texture, drawn at random.
    """
    c, label = data.flow, int(rng.integers(3))
    colours, noise = choose_colours(rng, data, 3), texture.draw_noise(rng)
    time = np.arange(frames) / data.fps
    inward, outward = _FIELDS[LABELS[label]](rng, c)
    marks = rng.uniform(0.2, 0.8, (1, 1, MARKS, 2))
    position = outward(marks, time[:, None, None])[:, 0]
    names = listed([colour.name for colour in colours])
    ways = WHAT[LABELS[label]]
    return Clip(
        time.astype(np.float32),
        functools.partial(
            _render, noise, [colour.rgb for colour in colours], data.size, time, inward
        ),
        label=label,
        caption=f"{ways[rng.integers(len(ways))]} {names}",
        truth={"position": position.astype(np.float32)},
    )


def _waves(rng: np.random.Generator, c: ConfigDict) -> tuple[Field, Field]:
    """A transversal wave: points move across its direction."""
    heading, phase, waves = (
        float(rng.uniform(*ends)) for ends in ((0, 2 * np.pi), (0, 2 * np.pi), (1, 2))
    )
    along = np.array([np.cos(heading), np.sin(heading)], np.float32)
    across = np.array([-along[1], along[0]])

    def shift(points: np.ndarray, time: Time) -> np.ndarray:
        angle = 2 * np.pi * waves * (points @ along - c.speed * time) + phase
        return c.strength / (2 * np.pi * waves) * np.sin(angle)[..., None] * across

    # Points move across, so the wave's angle at a point is the same before and after.
    return lambda p, t: p - shift(p, t), lambda p, t: p + shift(p, t)


def _ripples(rng: np.random.Generator, c: ConfigDict) -> tuple[Field, Field]:
    """Rings that run outwards: points move to and fro along the radius."""
    middle = rng.uniform(0.3, 0.7, 2).astype(np.float32)
    phase, waves = float(rng.uniform(0, 2 * np.pi)), float(rng.uniform(1.5, 3))

    def shift(points: np.ndarray, time: Time) -> np.ndarray:
        radius = np.linalg.norm(points - middle, axis=-1)
        angle = 2 * np.pi * waves * (radius - c.speed * time) + phase
        size = c.strength / (2 * np.pi * waves) * np.tanh(8 * radius) * np.sin(angle)
        return (size / np.maximum(radius, 1e-6))[..., None] * (points - middle)

    def outward(points: np.ndarray, time: Time) -> np.ndarray:
        x = points
        for _ in range(60):  # x = p + shift(x), a contraction
            x = points + shift(x, time)
        return x

    return lambda p, t: p - shift(p, t), outward


def _swirl(rng: np.random.Generator, c: ConfigDict) -> tuple[Field, Field]:
    """A rotation to and fro, which falls off with the distance from its middle."""
    middle = rng.uniform(0.35, 0.65, 2).astype(np.float32)
    largest = float(rng.choice([-4, 4])) * c.strength

    def rotate(points: np.ndarray, time: Time, sign: int) -> np.ndarray:
        x, y = np.moveaxis(points - middle, -1, 0)
        angle = sign * largest * np.exp(-(x * x + y * y) / 0.35**2) * np.sin(np.pi * c.speed * time)
        cos, sin = np.cos(angle), np.sin(angle)
        return middle + np.stack([cos * x - sin * y, sin * x + cos * y], -1)

    return lambda p, t: rotate(p, t, -1), lambda p, t: rotate(p, t, 1)


_FIELDS = {"waves": _waves, "ripples": _ripples, "swirl": _swirl}


def _render(
    noise: Complex[np.ndarray, "h w"],
    colours: Sequence[UInt8[np.ndarray, " 3"]],
    size: int,
    time: Float[np.ndarray, " N"],
    inward: Field,
    frames: Int[np.ndarray, " T"],
) -> UInt8[np.ndarray, "T H W 3"]:
    values = texture.make_tile(noise, size)
    low, middle, high = (colour.astype(np.float32) for colour in colours)
    paint = low + texture.above(values, -0.4) * (middle - low)
    paint += texture.above(values, 0.6) * (high - paint)
    tile, points = np.rint(paint).astype(np.uint8), texture.grid(size)
    return np.stack(  # no point leaves the tile
        [texture.at_points(tile, inward(points, t) + 0.5) for t in np.float32(time[frames])]
    )
