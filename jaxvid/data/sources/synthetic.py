"""A procedural world of textured shapes that bounce off the walls: endless labelled video.

A shape moves in a straight line and reflects off the walls, which in one dimension is a triangle
wave of time. With u = x_0 + v t in a corridor of length L,

    x(t) = |u - 2L round(u / 2L)|

so the state at any time has a closed form, and any frame can be drawn without the earlier ones.
Lengths are in units of the picture's side, with x to the right and y down.
"""

import dataclasses
import functools
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8
from ml_collections import ConfigDict

from jaxvid.config import NOT_BELOW_0, POSITIVE, Rule, declare, is_sequence, key
from jaxvid.data.clips import Clip, longest
from jaxvid.data.sources.registry import source

declare(
    "data",
    shapes=key(
        (2, 3),
        Rule(
            "(fewest, most), integers of at least 1",
            lambda v: is_sequence(v, POSITIVE.holds, 2) and v[0] <= v[1],
        ),
        "number of shapes in a clip of the synthetic world",
    ),
    spin=key(1.0, NOT_BELOW_0, "fastest rotation of the shapes, in radians per second"),
)

# Increase it when the same parameters give different clips.
VERSION = 1
CORNERS = {"circle": 0, "square": 4, "triangle": 3}
COLOURS = ("red", "yellow", "green", "cyan", "blue", "magenta")  # evenly around the circle of hues
TEXTURES = ("halves", "quarters", "stripes")
SPLITS = {"train": range(1_000_000), "validation": range(1_000_000, 1_100_000)}


@dataclasses.dataclass(frozen=True)
class SyntheticWorld:
    """A random-access source in which a clip is a pure function of `seed` and its number.

    A clip shows several shapes of one kind, which is its label. `truth["position"]` is float32
    [N,S,2]: the (x, y) of the centres in [0,1] image coordinates, padded with NaN to the largest
    S the world allows. A shape hides earlier shapes in that order.

    `action` is the velocity of the first shape, (x, y) in sides per second. The caption says only
    what stays true when a shape bounces or a clip is mirrored, reversed or cropped: for one shape,
    whether it moves more along x or along y, "a red circle moving side to side" or "… up and down";
    for several, their colours, "2 circles: red and blue".

    Attributes:
      seed: seed of the whole world.
      frames: frames per clip, N.
      size: height and width in pixels.
      fps: frames per second; a shape travels 1/4 to 3/4 of the picture's side in a second.
      shapes: fewest and most shapes in a clip.
      spin: fastest rotation in radians per second; with 0 all shapes have the same angle.
      numbers: the numbers of the clips.
    """

    labels: ClassVar[tuple[str, ...]] = tuple(CORNERS)

    seed: int
    frames: int
    size: int
    fps: float = 8.0
    shapes: tuple[int, int] = (2, 3)
    spin: float = 1.0
    numbers: range = SPLITS["train"]

    @property
    def fingerprint(self) -> str:
        # Defaults are left out, so that a parameter added later changes no fingerprint.
        values = ((f.name, getattr(self, f.name), f.default) for f in dataclasses.fields(self))
        chosen = [(name, value) for name, value, default in values if value != default]
        return hashlib.sha256(f"synthetic {VERSION} {chosen}".encode()).hexdigest()[:16]

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> Clip:
        rng = np.random.default_rng((self.seed, self.numbers[index]))
        time = np.arange(self.frames) / self.fps
        label = int(rng.integers(len(CORNERS)))
        count = int(rng.integers(self.shapes[0], self.shapes[1] + 1))
        # A few hues far apart, so that a shape that changes its colour is easy to notice.
        colours = np.resize(rng.permutation(len(COLOURS)), count)
        hues = colours / len(COLOURS)
        drawn = [_draw_shape(rng, label, hue, self.spin, time) for hue in hues]
        shapes, velocity = [shape for shape, _ in drawn], drawn[0][1]
        ground = Ground(rng.uniform(0.0, 0.2, (2, 3, 1, 1)), rng.uniform(0, 2 * np.pi))

        position = np.full((self.frames, self.shapes[1], 2), np.nan, np.float32)
        for s, shape in enumerate(shapes):
            position[:, s] = shape.centre
        return Clip(
            time.astype(np.float32),
            functools.partial(_decode, shapes, ground, self.size),
            label=label,
            caption=_caption(self.labels[label], [COLOURS[c] for c in colours], velocity[0]),
            action=velocity.astype(np.float32),
            truth={"position": position},
            scene=functools.partial(_scene, shapes, ground, self.shapes[1]),
        )


def render_scenes(config: ConfigDict, scenes: Mapping[str, Any]) -> UInt8[Array, "B T H H 3"]:
    """Paints the scenes of a batch, for the `data` section of a config, in a jitted function."""

    def of_clip(scene: Mapping[str, Any]) -> UInt8[Array, "T H H 3"]:
        shapes = [Shape(*(x[s] for x in scene["shapes"])) for s in range(config.shapes[1])]
        return render(shapes, scene["ground"], config.size, jnp, jax.lax.switch)

    return jax.vmap(of_clip)(scenes)


@source("synthetic", render=render_scenes)
def open_synthetic(config: ConfigDict, split: str) -> SyntheticWorld:
    """The world of the `data` section of a config; its clips fit the largest stride or plan."""
    c = config
    return SyntheticWorld(0, longest(c), c.size, c.fps, tuple(c.shapes), c.spin, SPLITS[split])


class Shape(NamedTuple):
    """A regular polygon, or a circle, over N frames.

    Attributes:
      kind: number in CORNERS.
      inradius: radius of the largest circle inside; below 0 if there is no shape.
      centre: (x, y).
      angle: angle in radians.
      texture: number in TEXTURES, fixed to the shape.
      tones: RGB of the light and dark parts, in [0,1].
    """

    kind: int | Int[Array, ""]
    inradius: float | Float[Array, ""]
    centre: Float[np.ndarray | Array, "N 2"]
    angle: Float[np.ndarray | Array, " N"]
    texture: int | Int[Array, ""]
    tones: Float[np.ndarray | Array, "2 3"]

    def at(self, frames: Int[np.ndarray, " T"]) -> "Shape":
        """The shape in some frames."""
        return self._replace(centre=self.centre[frames], angle=self.angle[frames])


class Ground(NamedTuple):
    """A gradient, the background.

    Attributes:
      ends: RGB of its first and last colour, in [0,1].
      heading: its direction in radians.
    """

    ends: Float[np.ndarray | Array, "2 3 1 1"]
    heading: float | Float[Array, ""]


def _decode(
    shapes: Sequence[Shape], ground: Ground, size: int, frames: Int[np.ndarray, " T"]
) -> UInt8[np.ndarray, "T H H 3"]:
    return render([shape.at(frames) for shape in shapes], ground, size)


def _scene(
    shapes: Sequence[Shape], ground: Ground, most: int, frames: Int[np.ndarray, " T"]
) -> dict[str, Any]:
    """The arrays, in 32 bits, from which `render_scenes` paints these frames; of `most` shapes."""
    nothing = shapes[0]._replace(inradius=-1.0)
    rows = [shape.at(frames) for shape in [*shapes, *[nothing] * (most - len(shapes))]]
    scene = {"ground": ground, "shapes": Shape(*map(np.array, zip(*rows, strict=True)))}
    return jax.tree.map(lambda x: np.asarray(x, f"{np.result_type(x).kind}4"), scene)


def render(
    shapes: Sequence[Shape],
    ground: Ground,
    size: int,
    xp: Any = np,
    switch: Callable[[Any, Sequence[Callable]], Any] = lambda number, functions: functions[
        number
    ](),
) -> UInt8[np.ndarray | Array, "T H H 3"]:
    """Paints the shapes in their order over the background, with anti-aliased edges.

    `xp` is numpy or jax.numpy, and `switch` calls the function with a number.
    """
    # Channels come before pixels until the end: numpy is fast along a long last axis.
    picture = xp.repeat(_gradient(ground, size, xp)[None], len(shapes[0].angle), axis=0)
    for shape in shapes:
        x, y = _body_frame(shape, size, xp)
        paint = _coverage(_texture(x, y, shape, xp, switch), size)[:, None]
        cover = _coverage(-_outline(x, y, shape, xp, switch), size)[:, None]
        light, dark = shape.tones[:, :, None, None]
        picture += cover * (dark + paint * (light - dark) - picture)
    return xp.rint(255 * xp.moveaxis(picture, 1, 3)).astype(np.uint8)


def _draw_shape(
    rng: np.random.Generator, kind: int, hue: float, spin: float, time: Float[np.ndarray, " N"]
) -> tuple[Shape, Float[np.ndarray, "N 2"]]:
    """A shape, and the velocity of its centre in sides per second."""
    radius, corners = rng.uniform(0.18, 0.24), tuple(CORNERS.values())[kind]
    if corners:  # the same area as the circle
        half = math.pi / corners
        inradius = radius * math.sqrt(half / math.tan(half))
        circumradius = inradius / math.cos(half)
    else:
        inradius = circumradius = radius
    corridor = 1 - 2 * circumradius
    speed, heading = rng.uniform(0.25, 0.75), rng.uniform(0, 2 * np.pi)
    velocity = speed * np.array([math.cos(heading), math.sin(heading)])
    path = rng.uniform(0, corridor, 2) + velocity * time[:, None]
    light = 0.1 + 0.9 * np.clip(np.abs((hue + np.array([0, 2, 1]) / 3) % 1 * 6 - 3) - 1, 0, 1)
    shape = Shape(
        kind=kind,
        inradius=inradius,
        centre=circumradius + _fold(path, corridor),
        angle=(rng.uniform(0, 2 * np.pi) + rng.uniform(-spin, spin) * time) * (spin > 0),
        texture=int(rng.integers(len(TEXTURES))),
        tones=np.stack([light, 0.5 * light]).astype(np.float32),
    )
    return shape, velocity * np.where(path // corridor % 2, -1, 1)


def _caption(kind: str, colours: Sequence[str], velocity: Float[np.ndarray, " 2"]) -> str:
    if len(colours) > 1:
        return f"{len(colours)} {kind}s: {', '.join(colours[:-1])} and {colours[-1]}"
    x, y = np.abs(velocity)
    return f"a {colours[0]} {kind} moving {'side to side' if x > y else 'up and down'}"


def _fold(u, length):
    """Triangle wave in [0, `length`]: how far u is from the nearest multiple of 2 `length`."""
    return abs(u - 2 * length * (u / (2 * length)).round())


def _gradient(ground: Ground, size: int, xp):
    """RGB of the background, float32 [3,H,H]."""
    (first, last), (cos, sin) = ground.ends, (f(ground.heading) for f in (xp.cos, xp.sin))
    grid = (xp.arange(size) + 0.5) / size - 0.5
    ramp = 0.5 + 0.7 * (cos * grid + sin * grid[:, None])
    return (first + ramp * (last - first)).astype(np.float32)


def _body_frame(shape: Shape, size: int, xp):
    """Coordinates (x, y), float32 [T,H,H] each, of all pixels relative to the moving shape."""
    grid = (np.arange(size, dtype=np.float32) + 0.5) / size
    x = (grid - shape.centre[:, :1].astype(np.float32))[:, None, :]
    y = (grid - shape.centre[:, 1:].astype(np.float32))[:, :, None]
    cos, sin = (f(shape.angle).astype(np.float32)[:, None, None] for f in (xp.cos, xp.sin))
    return cos * x + sin * y, cos * y - sin * x


def _outline(x, y, shape: Shape, xp, switch):
    """Signed distance to the outline, negative inside: the largest over a polygon's sides."""

    def reach(corners: int):
        if not corners:
            return xp.sqrt(x * x + y * y)
        angles = (2 * math.pi * side / corners for side in range(corners))
        sides = (np.float32(math.cos(a)) * x + np.float32(math.sin(a)) * y for a in angles)
        return functools.reduce(xp.maximum, sides)

    of_kind = [functools.partial(reach, corners) for corners in CORNERS.values()]
    return switch(shape.kind, of_kind) - shape.inradius


def _texture(x, y, shape: Shape, xp, switch):
    """Signed distance to the border between the tones, positive in the light one."""
    width = 2 / 3 * shape.inradius  # three stripes, one of them in the middle
    of_texture = {
        "halves": lambda: x,
        "quarters": lambda: xp.maximum(xp.minimum(x, y), xp.minimum(-x, -y)),
        "stripes": lambda: width / 2 - _fold(x, width),
    }
    return switch(shape.texture, [of_texture[name] for name in TEXTURES])


def _coverage(distance, size: int):
    """The share of each pixel in which the distance is positive."""
    return (distance * size + 0.5).clip(0, 1)
