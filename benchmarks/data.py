"""Measure how fast sources draw clips, and what each augmentation costs, on one core.

    python -m benchmarks.data [--sources=synthetic,bodies] [--size=64 --frames=16 --clips=200]

Run it from the repository's root. Each number is the processor time of one thread, so other
programs disturb it little. Two Markdown tables go to stdout: clips of each source per second,
decoded and batched as in training, and milliseconds per clip that each augmentation adds to the
first source if it changes every clip.
"""

from jaxvid import start

if __name__ == "__main__":
    start.begin()

import time
from collections.abc import Sequence

import cv2
import numpy as np
from absl import flags

from jaxvid import config as configs
from jaxvid import errors
from jaxvid.build import default_config
from jaxvid.data import augment
from jaxvid.data.augment.registry import AUGMENTATIONS
from jaxvid.data.clips import sample_clip
from jaxvid.data.sources import SOURCES, make_source
from jaxvid.errors import InputError

NAMES = flags.DEFINE_list(
    "sources",
    [n for n in SOURCES if n not in ("clips", "mixture", "videos")],
    "Sources to measure.",
)
SIZE = flags.DEFINE_integer("size", 64, "Height and width in pixels.", lower_bound=8)
FRAMES = flags.DEFINE_integer("frames", 16, "Frames of a clip.", lower_bound=1)
CLIPS = flags.DEFINE_integer("clips", 200, "Clips of each source.", lower_bound=1)


def main(_: Sequence[str]) -> None:
    cv2.setNumThreads(1)
    if unknown := set(NAMES.value) - set(SOURCES):
        raise InputError(f"--sources: {min(unknown)!r} is not one of {', '.join(SOURCES)}")
    print("| source | clips/s |\n|---|---|")
    for name in NAMES.value:
        print(f"| {name} | {1 / seconds(name):.0f} |", flush=True)
    print("\n| augmentation | ms per clip |\n|---|---|")
    plain = seconds(NAMES.value[0])
    for name in AUGMENTATIONS:
        print(f"| {name} | {1e3 * (seconds(NAMES.value[0], name) - plain):.2f} |", flush=True)


def seconds(name: str, *texts: str) -> float:
    """Processor time for a clip of a source, with augmentations."""
    data = default_config().data
    data.update(source=name, size=SIZE.value, frames=FRAMES.value)
    source, rng = make_source(data), np.random.default_rng(0)
    retime, changes = (augment.active(texts, temporal, always=True) for temporal in (True, False))

    def draw(index: int) -> None:
        sample = sample_clip(source[index], data, rng, retime=retime)
        for change in changes:
            sample = change(sample, rng)

    draw(0)
    started = time.process_time()
    for index in range(CLIPS.value):
        draw(index)
    return (time.process_time() - started) / CLIPS.value


if __name__ == "__main__":
    errors.run(main, configs.parse_flags)
