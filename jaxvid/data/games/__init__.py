"""Games that play themselves, one file per family."""

from jaxvid.data.games import atari, craftax  # noqa: F401
from jaxvid.data.games.registry import Game, Recording, game, names, open_game

__all__ = ["Game", "Recording", "game", "names", "open_game"]
