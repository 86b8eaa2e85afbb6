"""Clips per second of the whole loader on prepared clips, and whether its memory grows.

    python -m jaxvid.prepare --games=craftax --clips=5000 --output=DIR --size=64 --frames=32
    python -m benchmarks.loader --path=DIR [--clips=20000 --frames=16 --workers=2]

Run it from the repository's root. A Markdown table goes to stdout: clips as they are, and with
every augmentation at its default share, from the shards to batches of 64 in the memory of the
trainer. The memory is that of all processes, without what they share.
"""

from jaxvid import start

if __name__ == "__main__":
    start.begin()

import os
import re
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import flags
from ml_collections import ConfigDict
from tqdm import tqdm

from jaxvid import config as configs
from jaxvid import errors
from jaxvid.build import default_config
from jaxvid.data import manifest, pipeline
from jaxvid.data.augment.registry import AUGMENTATIONS
from jaxvid.data.curation.settings import Settings
from jaxvid.data.sources import make_source

BATCH = 64

PATH = flags.DEFINE_string("path", None, "Folder that jaxvid.prepare made.", required=True)
CLIPS = flags.DEFINE_integer("clips", 20_000, "Clips of each row.", lower_bound=10 * BATCH)
FRAMES = flags.DEFINE_integer("frames", 16, "Frames per clip.", lower_bound=1)
WORKERS = flags.DEFINE_integer("workers", 2, "Processes that load; 0 loads in threads.")


def main(_: Sequence[str]) -> None:
    made, data = Settings.from_json(manifest.read(Path(PATH.value))), default_config().data
    H, W = made.shape
    data.update(source="clips", path=PATH.value, size=H, width=W if W != H else 0)
    data.update(fps=made.fps, frames=FRAMES.value, workers=WORKERS.value)
    # What chooses frames comes first.
    every = sorted(AUGMENTATIONS, key=lambda name: not AUGMENTATIONS[name].temporal)
    print("| augmentation | clips/s | memory after a tenth, half and all of the clips, MB |")
    print("|---|---|---|")
    for title, texts in (("none", ()), ("every", tuple(every))):
        data.augment = texts
        rate, memory = measure(data)
        shown = ", ".join(f"{memory[i]:.0f}" for i in (0, 4, 9))
        print(f"| {title} | {rate:.0f} | {shown} |", flush=True)


def measure(data: ConfigDict) -> tuple[float, np.ndarray]:
    """Clips per second, and megabytes after each tenth of the clips."""
    dataset = pipeline.make_dataset(
        make_source(data), data, lambda sample, clip: {}, seed=0, batch_size=BATCH
    )
    batches, steps = pipeline.batches(dataset, 0, data), CLIPS.value // BATCH
    next(batches)  # workers have started
    began, memory = time.perf_counter(), []
    for step in tqdm(range(steps), disable=None):
        next(batches)
        if (step + 1) * 10 // steps > len(memory):
            memory.append(megabytes())
    rate = steps * BATCH / (time.perf_counter() - began)
    batches.close()
    return rate, np.array(memory)


def megabytes() -> float:
    """Private memory of this process and its children."""
    own, total = os.getpid(), 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if own in (parent, int(folder.name)):
                rollup = (folder / "smaps_rollup").read_text()
                total += sum(map(int, re.findall(r"Private_\w+: +(\d+)", rollup)))
        except OSError:  # it has ended
            continue
    return total / 1024


if __name__ == "__main__":
    errors.run(main, configs.parse_flags)
