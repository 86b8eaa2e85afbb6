"""Games as input: one seed of a game is what a video file is elsewhere."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxvid.data import games
from jaxvid.data.curation.clips import Piece, judge
from jaxvid.data.curation.settings import Settings
from jaxvid.data.image import fit
from jaxvid.errors import InputError

AT_ONCE = 10  # clips of a seed


class Plays(NamedTuple):
    """Games to record.

    Attributes:
      games: their names, see `jaxvid.data.games`.
      clips: of each.
      fps: frames per second; None for the usual rate, which then is the same for all.
    """

    games: Sequence[str]
    clips: int
    fps: float | None = None

    def open(self) -> list[games.Game]:
        """Opens the games.

        Raises InputError if there is none, if one cannot be played, or if actions or rates differ.
        """
        opened = [games.open_game(name, self.fps) for name in self.games]
        if not opened:
            raise InputError("--games is empty: name a game, such as craftax or atari/pong")
        for other in opened[1:]:
            if (other.actions, other.fps) != (opened[0].actions, opened[0].fps):
                raise InputError(
                    f"--games: {opened[0].name} has {len(opened[0].actions)} actions at "
                    f"{opened[0].fps:g} fps, {other.name} {len(other.actions)} at {other.fps:g}: "
                    "prepare them into folders of their own"
                )
        return opened

    def stamps(self) -> dict[str, dict[str, Any]]:
        """For each game and seed, as `scan.stamps` for each file, what shows a change."""
        return {
            f"{(title := game.name.rpartition('/')[2])}/{seed:06d}": {
                "class": title,
                "text": "",
                "game": game.name,
                "version": game.version,
                "fps": game.fps,
                "seed": seed,
                "take": min(AT_ONCE, self.clips - first),
            }
            for game in self.open()
            for seed, first in enumerate(range(0, self.clips, AT_ONCE))
        }


def play(entry: Mapping[str, Any], settings: Settings) -> Iterator[Piece]:
    """The clips of a seed, with the action at each frame."""
    game = games.open_game(entry["game"], entry["fps"])
    time = np.arange(settings.frames, dtype=np.float32) / np.float32(game.fps)
    recordings = game.play(entry["seed"], settings.frames)
    for number, recorded in enumerate(itertools.islice(recordings, entry["take"])):
        frames = np.stack([fit(frame, settings.shape) for frame in recorded.frames])
        start = number * settings.frames / game.fps
        yield judge(frames, time, start, settings)._replace(action=recorded.action)
