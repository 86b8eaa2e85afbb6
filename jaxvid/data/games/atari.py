"""Games of the Atari 2600, in an emulator that carries them (Bellemare et al. 2013, arXiv
1207.4708).

The player holds a random action of the game for a random time, and presses FIRE where a game or a
life waits for it. All games have the same 18 actions, so that one network can learn several; some
have no use in a game, and are not made there.

A frame is the brighter of the last two pictures of the console, because many games draw their
figures in turn. It shows the whole screen, of 160x210 pixels, as a square of 160x160.
"""

import collections
import importlib.metadata
import math
from collections.abc import Iterator

import cv2
import numpy as np
from jaxtyping import UInt8

from jaxvid.data.games.registry import Recording, game
from jaxvid.errors import InputError

VERSION = 1  # increase it when the same seed gives other frames
RATE = 60  # pictures of the console per second
SIDE = 160
FIRE = 1  # an action
HELD = (0.1, 0.5)  # seconds of an action
SKIPPED = (1.0, 5.0)  # seconds at the start of a game, where all look alike
STILL = 1  # seconds without motion, which are left out
PATIENCE = 600  # seconds of play without a recording


@game("atari", package="ale-py")
class Atari:
    """A game of the Atari 2600, see `registry.Game`; `fps` is 60, 30, 20, 15, 12 and so on."""

    def __init__(self, title: str, fps: int | float | None = None):
        import ale_py

        self.name, self._title = f"atari/{title}", title
        self.fps = 15.0 if fps is None else float(fps)
        pictures = max(RATE / self.fps, 1)
        self._pictures = round(pictures)
        if not math.isclose(self._pictures * self.fps, RATE):
            near = sorted({RATE / math.ceil(pictures), RATE / math.floor(pictures)})
            raise InputError(
                f"{self.name} at {self.fps:g} fps: the console draws {RATE} pictures per second, "
                f"and every n-th is taken: give {' or '.join(f'{rate:g}' for rate in near)}"
            )
        self.version = f"ale-py {importlib.metadata.version('ale-py')}, {VERSION}"
        self.actions = tuple(name.lower() for name in ale_py.Action.__members__)

    @staticmethod
    def titles() -> tuple[str, ...]:
        """The games in the package that the emulator knows."""
        from ale_py import ALEInterface, roms

        known = ALEInterface.isSupportedROM
        return tuple(sorted(t for t in roms.get_all_rom_ids() if known(roms.get_rom_path(t))))

    def play(self, seed: int, frames: int) -> Iterator[Recording]:
        """See `registry.Game`. A recording in which nothing moves for a second is left out.

        Raises InputError after ten minutes of play without a recording.
        """
        rng = np.random.default_rng([seed, *self._title.encode()])
        console = _Console(self._title, seed, self._pictures)
        actions, one_hot = _press(console, rng, self.fps), np.eye(len(self.actions), dtype="f4")
        skip, video, pressed, played = _frames(rng, SKIPPED, self.fps), [], [], 0
        while played < PATIENCE * self.fps:
            video.append(console.frame)
            pressed.append(next(actions))
            console.advance(pressed[-1])
            played += 1
            if skip > 0 or console.still >= STILL * self.fps:
                video, pressed = [], []
            elif len(video) == frames:
                yield Recording(np.stack(video), one_hot[pressed])
                video, pressed, played = [], [], 0
            skip -= 1
            if console.is_over:
                console.reset()
                skip, video, pressed = _frames(rng, SKIPPED, self.fps), [], []
        raise InputError(
            f"{self.name}: no {frames} frames at {self.fps:g} fps in {PATIENCE} s of play: its "
            "games are shorter, or nothing moves: take fewer frames, or another game"
        )


class _Console:
    """A console with a game in it, at its start.

    Attributes:
      useful: the actions that have a use in the game.
      frame: uint8 [SIDE,SIDE,3], what it shows.
      still: for how many frames this has not changed.
    """

    def __init__(self, title: str, seed: int, pictures: int):
        from ale_py import ALEInterface, LoggerMode, roms

        ALEInterface.setLoggerMode(LoggerMode.Error)
        self._ale, self._pictures = ALEInterface(), pictures
        self._ale.setInt("random_seed", seed)
        self._ale.setFloat("repeat_action_probability", 0.0)
        self._ale.loadROM(roms.get_rom_path(title))
        self._actions = self._ale.getLegalActionSet()
        self.useful = [self._actions.index(action) for action in self._ale.getMinimalActionSet()]
        self.reset()

    def reset(self) -> None:
        """Starts another game."""
        self._ale.reset_game()
        picture = self._ale.getScreenRGB()
        self._last = collections.deque([picture, picture], maxlen=2)
        self.frame, self.still = _square(picture), 0

    def advance(self, action: int) -> None:
        """Presses the buttons of an action until the next frame."""
        for left in reversed(range(self._pictures)):
            self._ale.act(self._actions[action])
            if left < 2:
                self._last.append(self._ale.getScreenRGB())
        before, self.frame = self.frame, _square(np.maximum(*self._last))
        self.still = 0 if (self.frame != before).any() else self.still + 1

    @property
    def is_over(self) -> bool:
        """Whether the game is."""
        return self._ale.game_over()

    @property
    def lives(self) -> int:
        """Lives that are left, or 0 in a game without lives."""
        return self._ale.lives()


def _square(picture: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "S S 3"]:
    return cv2.resize(picture, (SIDE, SIDE), interpolation=cv2.INTER_AREA)


def _press(console: _Console, rng: np.random.Generator, fps: float) -> Iterator[int]:
    """The action of the player at each frame, after which the console advances."""
    to_start = [FIRE] if FIRE in console.useful else console.useful
    lives = -1
    while True:
        choice = console.useful if console.lives == lives else to_start
        action, lives = choice[rng.integers(len(choice))], console.lives
        for _ in range(max(1, _frames(rng, HELD, fps))):
            yield action
            if console.lives != lives:
                break


def _frames(rng: np.random.Generator, seconds: tuple[float, float], fps: float) -> int:
    """A random time, in frames."""
    return round(rng.uniform(*seconds) * fps)
