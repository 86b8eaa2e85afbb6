"""The registered games, which play themselves: endless video with the action at each frame.

    @game("atari", package="ale-py")
    class Atari: ...

registers a family of games: a class with the interface of `Game`, made from a title and frames per
second (None for its usual rate), and a static method `titles`. A family of one game has the title
"". Users write "atari/pong", or "craftax".
"""

import dataclasses
import importlib.util
from collections.abc import Callable, Iterator
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, UInt8

from jaxvid.errors import InputError, nearest


@dataclasses.dataclass(frozen=True)
class Recording:
    """N frames in a row of a game, without a break.

    Attributes:
      frames: square RGB pictures.
      action: what the player does at each frame, as a one-hot vector. The next frame is the first
        to show its effect, as a velocity in the worlds tells where a thing goes from here.
    """

    frames: UInt8[np.ndarray, "N S S 3"]
    action: Float32[np.ndarray, "N A"]


@runtime_checkable
class Game(Protocol):
    """A game and its player.

    Attributes:
      name: what a user calls it.
      version: changes when the same seed gives other pixels.
      actions: names of the A actions; equal for all games of a family.
      fps: frames per second.
    """

    name: str
    version: str
    actions: tuple[str, ...]
    fps: float

    def play(self, seed: int, frames: int) -> Iterator[Recording]:
        """Plays without end, and yields recordings of `frames` frames each.

        They are a pure function of name, version, fps, seed and `frames`. Raises InputError if the
        game yields none.
        """


FAMILIES: dict[str, tuple[str, type]] = {}  # with the package that each needs


def game(name: str, *, package: str) -> Callable[[type], type]:
    """Registers a family of games, which needs a package: as pip calls it."""

    def register(family: type) -> type:
        FAMILIES[name] = package, family
        return family

    return register


def names() -> tuple[str, ...]:
    """The games that can be played here: those whose packages are installed."""
    return tuple(
        f"{name}/{title}" if title else name
        for name, (package, family) in FAMILIES.items()
        if _installed(package)
        for title in family.titles()
    )


def open_game(name: str, fps: int | float | None = None) -> Game:
    """Opens a game by its name.

    Args:
      name: one of `names()`.
      fps: frames per second; by default the usual rate of the game.

    Raises:
      InputError: there is no such game, its package is not installed, or it has no such rate.
    """
    family, _, title = name.partition("/")
    if family in FAMILIES and not _installed(package := FAMILIES[family][0]):
        raise InputError(f"{name}: {package} is missing: pip install {package}")
    if name not in (known := names()):
        hint = nearest(name, known) or f"choose one of {', '.join(known or FAMILIES)}"
        raise InputError(f"{name}: there is no such game; {hint.strip()}")
    return FAMILIES[family][1](title, fps)


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package.replace("-", "_")) is not None
