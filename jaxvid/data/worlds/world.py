"""Procedural worlds: endless labelled video, in which a clip is a pure function of its number.

    @world("bodies", labels=("balls", "boxes"), gravity=key(2.0, NOT_BELOW_0, "…"))
    def bodies(rng: np.random.Generator, data: ConfigDict, frames: int) -> Clip: ...

A world is such a function, one to a file. It is the source of its name, and its keys are
`data.NAME.…`. It shows the same at any size and, but for collisions of bodies, at any frame rate.
Its label and caption stay true when a clip is mirrored (but for digits), cropped or reversed, and
its truth follows the pixels:

    position   [N,S,2]  centres (x, y) of S things, in image coordinates: [0,1], x right, y down;
                        a later one hides earlier ones, and NaN stands for one that is not there
    velocity   [N,S,2]  in sides of the picture per second
    camera     [N,3,3]  maps homogeneous coordinates of a plane of the world to image coordinates
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8
from ml_collections import ConfigDict

from jaxvid.config import POSITIVE, Key, Rule, declare, is_sequence, key, one_of
from jaxvid.data.clips import Clip, longest
from jaxvid.data.sources.registry import source

PALETTES = {
    "bright": {
        "red": (230, 40, 40), "orange": (250, 140, 20), "yellow": (245, 225, 40),
        "green": (40, 190, 70), "cyan": (40, 210, 220), "blue": (50, 90, 240),
        "purple": (150, 60, 210), "pink": (250, 120, 190), "white": (245, 245, 245),
    },
    "pastel": {
        "rose": (240, 180, 185), "peach": (250, 210, 175), "lemon": (250, 245, 190),
        "mint": (180, 235, 200), "sky": (175, 215, 245), "lavender": (210, 190, 240),
    },
    "grey": {"white": (250, 250, 250), "silver": (190, 190, 190), "grey": (125, 125, 125)},
}  # fmt: skip
SPLITS = {"train": range(1_000_000), "validation": range(1_000_000, 1_100_000)}
COUNTS = Rule(
    "(fewest, most), integers of at least 1",
    lambda v: is_sequence(v, POSITIVE.holds, 2) and v[0] <= v[1],
)

declare(
    "data",
    palette=key(
        "bright", one_of(PALETTES), "colours of the worlds bodies, glyphs, layers and flow"
    ),
    backdrop=key(
        "plain",
        one_of(("plain", "flow", "layers")),
        "what is behind bodies and glyphs: a dark colour, or another world in dark colours",
    ),
)

Draw = Callable[[np.random.Generator, ConfigDict, int], Clip]
Backdrop = Callable[[Int[np.ndarray, " T"]], UInt8[np.ndarray, "..."]]


class Colour(NamedTuple):
    """A colour of a palette: its name, and RGB in [0,255]."""

    name: str
    rgb: UInt8[np.ndarray, " 3"]


class World:
    """A split of a world: a source with random access, see `sources.registry.Source`."""

    def __init__(
        self,
        name: str,
        draw: Draw,
        labels: tuple[str, ...],
        version: int,
        keys: dict[str, Key],
        data: ConfigDict,
        split: str,
    ):
        self.labels = labels
        self._draw, self._data, self._frames = draw, data, longest(data)
        self._numbers, self._name = SPLITS[split], name
        # Defaults are left out, so that a key added later changes no fingerprint.
        own = data[name]
        chosen = [(k, own[k]) for k, declared in sorted(keys.items()) if own[k] != declared.default]
        about = name, version, split, self._frames, data.size, data.fps, data.palette, chosen
        about += (data.backdrop,) * (data.backdrop != "plain")
        self.fingerprint = hashlib.sha256(repr(about).encode()).hexdigest()[:16]

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int) -> Clip:
        rng = np.random.default_rng([self._numbers[index], *self._name.encode()])
        return self._draw(rng, self._data, self._frames)


# By name, what augmentations make false there, beside what they do in all worlds.
WORLDS: dict[str, Mapping[str, tuple[str, ...]]] = {}
_DRAWS: dict[str, Draw] = {}


def world(
    name: str,
    *,
    labels: tuple[str, ...],
    version: int = 1,
    spoilt_by: Mapping[str, tuple[str, ...]] | None = None,
    **keys: Key,
) -> Callable[[Draw], Draw]:
    """Declares the keys of a world in `data.NAME`, and registers it as the source NAME.

    Args:
      name: of the source.
      labels: names of its classes.
      version: increase it when the same keys give other clips.
      spoilt_by: augmentations that make some of its arrays false; see `augment.registry`.
      keys: its keys.
    """

    def register(draw: Draw) -> Draw:
        declare(f"data.{name}", **keys)
        WORLDS[name], _DRAWS[name] = spoilt_by or {}, draw
        source(name)(lambda data, split: World(name, draw, labels, version, keys, data, split))
        return draw

    return register


def choose_colours(rng: np.random.Generator, data: ConfigDict, count: int) -> list[Colour]:
    """Colours of the palette in a random order; they repeat if there are fewer than `count`."""
    palette = [Colour(name, np.uint8(rgb)) for name, rgb in PALETTES[data.palette].items()]
    return [palette[i] for i in np.resize(rng.permutation(len(palette)), count)]


def draw_backdrop(rng: np.random.Generator, data: ConfigDict, frames: int) -> Backdrop:
    """What is behind things, as `data.backdrop` says."""
    colour = rng.integers(5, 45, 3).astype(np.uint8)
    if data.backdrop == "plain":
        return lambda shown: colour
    behind = _DRAWS[data.backdrop](rng.spawn(1)[0], data, frames)
    return lambda shown: behind.decode(shown) // 3


def a(words: str) -> str:
    """Words with their article: "a red ball", "an orange ball"."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def listed(words: Sequence[str]) -> str:
    """ "red", "red and blue", "red, blue and green"."""
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def padded(rows: Float[np.ndarray, "N s ..."], most: int) -> Float[np.ndarray, "N S ..."]:
    """Float32 rows of `most` things, of which the last ones are NaN."""
    full = np.full((len(rows), most, *rows.shape[2:]), np.nan, np.float32)
    full[:, : rows.shape[1]] = rows
    return full


def to_pixels(points: Float[np.ndarray, "*n 2"], size: int) -> Float[np.ndarray, "*n 2"]:
    """Image coordinates as OpenCV counts pixels: the centre of the first one is 0."""
    return points * size - 0.5


def fixed_point(points: Float[np.ndarray, "*n 2"], size: int) -> np.ndarray:
    """`to_pixels` as the integers that OpenCV draws with, with SHIFT fractional bits."""
    return np.rint(to_pixels(points, size) * 2**SHIFT).astype(np.int32)


SHIFT = 6
