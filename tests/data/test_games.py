"""Games: recordings that anyone can make again, with the action that each frame leads on by.

Those of a family need its package; the packages are optional (requirements-games.txt).
"""

import hashlib
import itertools
import json
import subprocess
import sys

import numpy as np
import pytest

from configs import games as games_config
from jaxvid.data import games
from jaxvid.data.games import atari, registry
from jaxvid.errors import InputError
from tests.commands import ENVIRONMENT, ROOT

DIGEST = """
import hashlib, itertools, sys
from jaxvid.data import games
digest = hashlib.sha256()
for recording in itertools.islice(games.open_game(sys.argv[1]).play(0, 16), 2):
    digest.update(recording.frames)
    digest.update(recording.action)
print(digest.hexdigest())
"""


def needs_package(name):
    package, _ = registry.FAMILIES[name.partition("/")[0]]
    pytest.importorskip(package.replace("-", "_"))


@pytest.fixture(params=["atari/breakout", "craftax"])
def name(request):
    needs_package(request.param)
    return request.param


def play(name, seed=0, count=2, frames=16, **choices):
    return list(itertools.islice(games.open_game(name, **choices).play(seed, frames), count))


def digest(recordings):
    arrays = (array.tobytes() for r in recordings for array in (r.frames, r.action))
    return hashlib.sha256(b"".join(arrays)).hexdigest()


def test_a_game_is_a_function_of_its_seed_in_any_process(name):
    one = digest(play(name))
    assert digest(play(name, seed=1)) != one
    assert digest(play(name)) == one
    said = subprocess.run(
        [sys.executable, "-c", DIGEST, name], cwd=ROOT, env=ENVIRONMENT, text=True,
        capture_output=True, check=True,
    ).stdout  # fmt: skip
    assert said.split()[-1] == one


def test_recordings_are_square_and_move_and_follow_one_another(name):
    game, (first, second) = games.open_game(name), play(name)
    (whole,) = play(name, count=1, frames=32)
    np.testing.assert_array_equal(np.concatenate([first.frames, second.frames]), whole.frames)
    np.testing.assert_array_equal(np.concatenate([first.action, second.action]), whole.action)
    assert whole.frames.shape[1] == whole.frames.shape[2] >= 63
    assert whole.action.shape == (32, len(game.actions))
    assert ((whole.action == 1).sum(1) == 1).all()
    assert ((whole.action == 0).sum(1) == len(game.actions) - 1).all()
    assert len(np.unique(whole.action.argmax(1))) > 2
    assert (whole.frames[1:] != whole.frames[:-1]).any((1, 2, 3)).mean() > 0.3


def test_the_paddle_of_breakout_goes_where_the_action_says():
    needs_package("atari")
    moves, actions = {"left": [], "right": []}, games.open_game("atari/breakout").actions
    for recording in play("atari/breakout", count=4, frames=64):
        red, green, _ = np.moveaxis(recording.frames[:, 143:147, 9:151].astype(int), -1, 0)
        paddle = ((red > 150) & (green < 100)).any(1)
        place = (paddle * np.arange(142)).sum(1) / paddle.sum(1)
        for made, move in zip(recording.action.argmax(1), np.diff(place), strict=False):
            moves.get(actions[made], []).append(move)
    assert np.mean(moves["left"]) < -5
    assert np.mean(moves["right"]) > 5


def test_the_view_of_craftax_moves_between_the_frame_of_the_action_and_the_next():
    needs_package("craftax")
    (recording,) = play("craftax", count=1, frames=128)
    names = games.open_game("craftax").actions
    steps = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}
    world, walked, agree = recording.frames[:, :49].astype(int), 0, 0
    for t, made in enumerate(recording.action[:-1].argmax(1)):

        def misfit(step, t=t):
            """How far the next view is from this one, moved by a tile, outside of the middle."""
            there = np.roll(world[t], [-7 * s for s in step], (0, 1))[7:-7, 7:-7]
            return np.abs(there - world[t + 1][7:-7, 7:-7]).mean()

        best = min([None, *steps], key=lambda way: misfit(steps[way] if way else (0, 0)))
        walked += best is not None
        agree += best == names[made]
        assert best in (None, names[made])
    assert agree == walked > 30


@pytest.mark.parametrize("fps", [60, 15, 7.5])
def test_a_game_is_as_fast_at_any_rate(fps):
    needs_package("atari")
    game = games.open_game("atari/freeway", fps)
    lane = next(game.play(0, 9)).frames[:, 68:73, 8:].astype(int)  # its car drives 60 pixels/s
    car = np.abs(lane - np.median(lane, axis=(0, 2), keepdims=True)).sum(-1) > 60
    shift = round(60 / fps)
    assert game.fps == fps
    assert (car[1:, :, :-shift] == car[:-1, :, shift:]).mean() > 0.99
    assert (car[1:] == car[:-1]).mean() < 0.99


def test_no_recording_goes_on_in_another_game(monkeypatch):
    needs_package("atari")

    class Numbered(atari._Console):
        """The first pixel is the number of the game."""

        number = 0

        def reset(self):
            super().reset()
            self.number += 1
            self.frame[0, 0] = self.number

        def advance(self, action):
            super().advance(action)
            self.frame[0, 0] = self.number

    monkeypatch.setattr(atari, "_Console", Numbered)
    seen = [r.frames[:, 0, 0, 0] for r in play("atari/laser_gates", count=8, frames=32)]
    assert len({numbers[0] for numbers in seen}) > 1
    assert all((numbers == numbers[0]).all() for numbers in seen)


def test_a_game_that_is_too_short_or_still_is_named(monkeypatch):
    needs_package("atari")
    monkeypatch.setattr(atari, "PATIENCE", 10)
    with pytest.raises(InputError, match="atari/laser_gates: no 400 frames at 15 fps in 10 s"):
        play("atari/laser_gates", frames=400)
    with pytest.raises(InputError, match="atari/blackjack: no 100 frames"):
        play("atari/blackjack", frames=100)


def test_wrong_names_and_rates_are_one_line(monkeypatch):
    monkeypatch.setitem(registry.FAMILIES, "chess", ("no-such-package", None))
    with pytest.raises(InputError, match=r"^chess: no-such-package is missing: pip install no-s"):
        games.open_game("chess")
    assert not [name for name in games.names() if name.startswith("chess")]
    needs_package("atari")
    for wrong, near in [("pong", "atari/pong"), ("atari/space_invader", "atari/space_invaders")]:
        with pytest.raises(InputError, match=f"^{wrong}: .*; did you mean '{near}'[?]$"):
            games.open_game(wrong)
    with pytest.raises(
        InputError, match=r"xxxxxx: .*choose one of atari/adventure, atari/air_raid"
    ):
        games.open_game("xxxxxx")
    with pytest.raises(InputError, match=r"atari/pong at 8 fps: .*: give 7\.5 or 8\.57143$"):
        games.open_game("atari/pong", 8)
    with pytest.raises(InputError, match=r"atari/pong at 100 fps: .*: give 60$"):
        games.open_game("atari/pong", 100)
    assert not {"atari/combat", "atari/joust"} & set(games.names())  # the emulator refuses them


def test_a_folder_without_actions_is_not_for_the_config_of_games(tmp_path):
    made = {"version": 1, "size": 36, "fps": 15, "frames": 6, "shards": {}, "labels": []}
    (tmp_path / "manifest.json").write_text(json.dumps(made))
    with pytest.raises(InputError, match=r"games\.py:.*: its clips have no actions"):
        games_config.get_config(str(tmp_path))
