"""Measure how fast sources draw clips, and what each augmentation costs, on one core.

    python -m benchmarks.data [--sources=synthetic,bodies] [--size=64 --frames=16 --clips=200]

Run it from the repository's root. Each number is the processor time of one thread, so other
programs disturb it little. Two Markdown tables go to stdout: clips of each source per second,
decoded as in training, with the bytes of their pixels, or of their scenes for the devices to paint;
and milliseconds per clip that each augmentation adds to the first source if it changes every clip.
"""

from jaxvid import start

if __name__ == "__main__":
    start.begin()

import time
from collections.abc import Sequence
from typing import Any

import cv2
import jax
import numpy as np
from absl import flags

from jaxvid import config as configs
from jaxvid import errors
from jaxvid.build import default_config
from jaxvid.data import augment
from jaxvid.data.augment.registry import AUGMENTATIONS
from jaxvid.data.clips import sample_clip
from jaxvid.data.sources import SOURCES, make_source
from jaxvid.data.sources.registry import RENDERS
from jaxvid.errors import InputError

NAMES = flags.DEFINE_list(
    "sources",
    [n for n in SOURCES if n not in ("clips", "images", "mixture", "tfds", "videos")],
    "Sources to measure.",
)
SIZE = flags.DEFINE_integer("size", 64, "Height and width in pixels.", lower_bound=8)
FRAMES = flags.DEFINE_integer("frames", 16, "Frames of a clip.", lower_bound=1)
CLIPS = flags.DEFINE_integer("clips", 200, "Clips of each source.", lower_bound=1)


def main(_: Sequence[str]) -> None:
    cv2.setNumThreads(1)
    if unknown := set(NAMES.value) - set(SOURCES):
        raise InputError(f"--sources: {min(unknown)!r} is not one of {', '.join(SOURCES)}")
    print("| source | clips/s | bytes per clip |\n|---|---|---|")
    for name in NAMES.value:
        for as_scene in (False, True)[: 1 + (name in RENDERS)]:
            cost, size = measure(name, as_scene=as_scene)
            title = name + " (render_on_device)" * as_scene
            print(f"| {title} | {1 / cost:.0f} | {size:,} |", flush=True)
    print("\n| augmentation | ms per clip |\n|---|---|")
    plain, _ = measure(NAMES.value[0])
    for name in AUGMENTATIONS:
        cost, _ = measure(NAMES.value[0], name)
        print(f"| {name} | {1e3 * (cost - plain):.2f} |", flush=True)


def measure(name: str, *texts: str, as_scene: bool = False) -> tuple[float, int]:
    """Seconds of the processor for a clip of a source, with augmentations, and its bytes."""
    data = default_config().data
    data.update(source=name, size=SIZE.value, frames=FRAMES.value)
    source, rng = make_source(data), np.random.default_rng(0)
    retime, changes = (augment.active(texts, temporal, always=True) for temporal in (True, False))

    def draw(index: int) -> dict[str, Any]:
        sample = sample_clip(source[index], data, rng, retime=retime, as_scene=as_scene)
        for change in changes:
            sample = change(sample, rng)
        return sample["scene" if as_scene else "video"]

    size = sum(x.nbytes for x in jax.tree.leaves(draw(0)))
    started = time.process_time()
    for index in range(CLIPS.value):
        draw(index)
    return (time.process_time() - started) / CLIPS.value, size


if __name__ == "__main__":
    errors.run(main, configs.parse_flags)
