"""Videos of Craftax, a game in JAX (Matthews et al. 2024, arXiv 2402.16801), for other benchmarks.

    pip install craftax
    python -m benchmarks.craftax --output=craftax.npy [--videos=600] [--frames=288] [--size=36]

plays seeded games of Craftax-Classic. The player walks, turns at random moments and works on what
is in front of it; it does not tire, hunger or die, and night does not fall. The same arguments give
the same file, uint8 [videos,frames,size,size,3], which the source "craftax" reads:

    python -m jaxvid.train --config=configs/long_video.py --plugins=benchmarks.craftax
        --config.data.source=craftax --config.data.path=craftax.npy --config.data.size=36 …

The last twelfth of the videos is the validation split.
"""

from jaxvid import start

if __name__ == "__main__":
    start.begin()

import dataclasses
import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jaxtyping import UInt8
from ml_collections import ConfigDict

from jaxvid import config as configs
from jaxvid import errors
from jaxvid.data.clips import Clip
from jaxvid.data.sources import source
from jaxvid.errors import InputError

AT_ONCE = 16  # games
WALK, WORK = (1, 2, 3, 4), 5  # actions


@source("craftax")
def open_videos(config: ConfigDict, split: str) -> "Videos":
    """Opens a split of the file `data.path`."""
    try:
        videos = np.load(config.path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InputError(
            f"config.data.path={config.path}: not made by benchmarks.craftax"
        ) from error
    if videos.shape[2:] != (config.size, config.size, 3):
        raise InputError(
            f"config.data.path={config.path}: it holds {videos.shape}, not videos of frames of "
            f"config.data.size={config.size}"
        )
    held_out = len(videos) // 12
    return Videos(videos[:-held_out] if split == "train" else videos[-held_out:], config.fps)


@dataclasses.dataclass(frozen=True)
class Videos:
    """Videos in memory or in a file."""

    videos: UInt8[np.ndarray, "V N H W 3"]
    fps: float
    labels = ()

    @functools.cached_property
    def fingerprint(self) -> str:
        return f"craftax-{self.videos.shape}-{int(self.videos[0].sum())}"

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, index: int) -> Clip:
        video = self.videos[index]
        time = np.arange(len(video), dtype=np.float32) / np.float32(self.fps)
        return Clip(time, lambda frames: np.asarray(video[frames]))


def main(_: Sequence[str]) -> None:
    try:
        play = make_player(FRAMES.value)
    except ImportError as error:
        raise InputError("craftax is missing: pip install craftax") from error
    V, S = VIDEOS.value, SIZE.value
    output = Path(OUTPUT.value)
    partial = output.with_name(f".{output.name}.partial")
    videos = np.lib.format.open_memmap(partial, "w+", np.uint8, (V, FRAMES.value, S, S, 3))
    for first in range(0, V, AT_ONCE):
        numbers = jnp.arange(first, first + AT_ONCE)
        for i, game in enumerate(np.asarray(play(numbers))[: V - first]):
            shrunk = [cv2.resize(frame, (S, S), interpolation=cv2.INTER_AREA) for frame in game]
            videos[first + i] = shrunk
        print(f"{min(first + AT_ONCE, V)} of {V} games", file=sys.stderr, flush=True)
    videos.flush()
    partial.replace(output)


def make_player(frames: int) -> Any:
    """A jitted function from the numbers of games to their frames, uint8 [games,frames,63,63,3]."""
    from craftax.craftax_classic.renderer import make_craftax_pixel_renderer
    from craftax.craftax_env import make_craftax_env_from_name

    env = make_craftax_env_from_name("Craftax-Classic-Symbolic-v1", auto_reset=False)
    settings, render = env.default_params, make_craftax_pixel_renderer(7)

    def fresh(state: Any) -> Any:
        most = {f"player_{name}": 9 for name in ("health", "food", "drink", "energy")}
        return state.replace(**most, light_level=1.0)

    def play(number: Any) -> Any:
        start_key, walk_key = jax.random.split(jax.random.key(number))
        _, state = env.reset(start_key, settings)

        def step(carry: Any, key: Any) -> Any:
            state, walk = carry
            turn_key, way_key, work_key, env_key = jax.random.split(key, 4)
            way = jax.random.choice(way_key, jnp.array(WALK))
            walk = jnp.where(jax.random.bernoulli(turn_key, 0.15), way, walk)
            action = jnp.where(jax.random.bernoulli(work_key, 0.2), WORK, walk)
            _, state, *_ = env.step(env_key, state, action, settings)
            state = fresh(state)
            return (state, walk), jnp.round(render(state)).astype(jnp.uint8)

        return jax.lax.scan(step, (fresh(state), 1), jax.random.split(walk_key, frames))[1]

    return jax.jit(jax.vmap(play))


if __name__ == "__main__":
    OUTPUT = flags.DEFINE_string("output", None, "File for the videos.", required=True)
    VIDEOS = flags.DEFINE_integer("videos", 600, "Number of games.", lower_bound=12)
    FRAMES = flags.DEFINE_integer("frames", 288, "Frames of each.", lower_bound=1)
    SIZE = flags.DEFINE_integer("size", 36, "Height and width in pixels.", lower_bound=1)
    errors.run(main, configs.parse_overrides)
