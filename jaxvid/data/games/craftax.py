"""Craftax-Classic, an open world in JAX (Matthews et al. 2024, arXiv 2402.16801).

The player walks, turns at random moments, works on what is in front of it, and now and then places
or makes something. It starts with materials for that; it does not tire, hunger or die, and night
does not fall. The view follows it, above what it has.
"""

import functools
import importlib.metadata
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from jaxvid.data.games.registry import Recording, game

VERSION = 1  # increase it when the same seed gives other frames
TILE = 7  # pixels; a frame has 9 x 9 tiles
WALK, WORK, SLEEP = (1, 2, 3, 4), 5, 6  # actions
TURNS, TURNS_STUCK, WORKS, BUILDS = 0.15, 0.4, 0.2, 0.08  # how often
STOCK = dict.fromkeys(("wood", "stone", "coal", "iron", "sapling"), 9) | dict.fromkeys(
    ("wood_pickaxe", "stone_pickaxe"), 1
)


@game("craftax", package="craftax")
class Craftax:
    """The game, see `registry.Game`; at any rate, the player acts once in each frame."""

    name = "craftax"

    def __init__(self, title: str, fps: int | float | None = None):
        # The very first import takes a minute, and leaves a cache of textures in the package.
        from craftax.craftax_classic.constants import Action

        self.fps = 8.0 if fps is None else float(fps)
        self.version = f"craftax {importlib.metadata.version('craftax')}, {VERSION}"
        self.actions = tuple(action.name.lower() for action in Action)

    @staticmethod
    def titles() -> tuple[str, ...]:
        """One game."""
        return ("",)

    def play(self, seed: int, frames: int) -> Iterator[Recording]:
        """See `registry.Game`."""
        begin, advance = _make_player(len(self.actions))
        now, numbers = begin(seed), itertools.count()
        one_hot = np.eye(len(self.actions), dtype=np.float32)
        while True:
            video, actions = [], []
            for number in itertools.islice(numbers, frames):
                now, picture, action = advance(now, seed, number)
                video.append(picture)
                actions.append(action)
            yield Recording(np.stack(video), one_hot[np.stack(actions)])


@functools.cache
def _make_player(actions: int) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Jitted functions: the start of a game, and its steps.

    They play one game. In a batch, the frames of a game would change with its place among others.
    """
    import jax  # here, because those who prepare other videos need not wait for it
    import jax.numpy as jnp
    from craftax.craftax_classic.renderer import make_craftax_pixel_renderer
    from craftax.craftax_env import make_craftax_env_from_name

    env = make_craftax_env_from_name("Craftax-Classic-Symbolic-v1", auto_reset=False)
    settings, render = env.default_params, make_craftax_pixel_renderer(TILE)
    others = [a for a in range(actions) if a not in (*WALK, WORK, SLEEP)]

    def fresh(state: Any) -> Any:
        most = {f"player_{name}": 9 for name in ("health", "food", "drink", "energy")}
        state = state.replace(**most, light_level=1.0)
        # Without weak types, for which `advance` would be compiled again.
        return jax.tree.map(lambda x: jnp.asarray(x, jnp.result_type(x)), state)

    def begin(seed: Any) -> Any:
        _, state = env.reset(jax.random.key(seed), settings)
        state = state.replace(inventory=state.inventory.replace(**STOCK))
        return fresh(state), jnp.int32(WALK[0]), jnp.bool_(False)

    def advance(now: Any, seed: Any, number: Any) -> Any:
        state, walk, stuck = now
        keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), number), 5)
        way = jax.random.choice(keys[0], jnp.array(WALK))
        turns = jax.random.bernoulli(keys[1], jnp.where(stuck, TURNS_STUCK, TURNS))
        walk = jnp.where(turns, way, walk)
        other = jax.random.choice(keys[2], jnp.array(others))
        chance = jax.random.uniform(keys[3])
        action = jnp.where(chance < WORKS, WORK, walk)
        action = jnp.where(chance > 1 - BUILDS, other, action)
        picture = jnp.round(render(state)).astype(jnp.uint8)
        _, after, *_ = env.step(keys[4], state, action, settings)
        stuck = (after.player_position == state.player_position).all()
        return (fresh(after), walk, stuck), picture, action

    return jax.jit(begin), jax.jit(advance)
