"""What augmentation and synthetic data buy where real clips are few, at equal steps.

    python -m jaxvid.prepare --games=craftax --clips=600 --output=few --size=32 --frames=16
    python -m benchmarks.scarce --config=configs/videos.py:few --workdir=runs/scarce
        --config.data.validation=0.9 [--seeds=3 --config.key=value …]

Each way trains as `jaxvid.train` does, on the clips of the config that are not held out:

    alone      on them as they are
    augmented  with flips, crops and colours
    mixed      every second clip is of a synthetic world
    before     the first half of the steps on synthetic worlds, the second on them

The score is the loss on held-out clips at fixed noise, of the averaged weights: at the end, and the
least of all evaluations, at which one would stop. A Markdown table goes to stdout; +- is the
standard error over the seeds of training. Runs that are there are not repeated.
"""

from jaxvid import start

if __name__ == "__main__":
    start.begin()

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import flags
from ml_collections import ConfigDict

from jaxvid import config as configs
from jaxvid import errors
from jaxvid.data.worlds import WORLDS
from jaxvid.train import CONFIG, WORKDIR, train

WAYS = ("alone", "augmented", "mixed", "before")
AUGMENT = ("flip", "crop(least=0.8)", "colour")

SEEDS = flags.DEFINE_integer("seeds", 3, "Training runs of each way.", lower_bound=2)
EVALS = flags.DEFINE_integer("evals", 8, "Evaluations of each run.", lower_bound=1)


def main(_: Sequence[str]) -> None:
    config = configs.from_flag(CONFIG)
    config.evals.every = max(1, config.steps // EVALS.value)
    config.evals.protocols, config.log.sample_every = (), 0
    config.conditions.label.classes = 0  # the worlds have others
    print("| | at the end | at best | step of the best |\n|---|---|---|---|")
    for way in WAYS:
        runs = []
        for seed in range(SEEDS.value):
            workdir = Path(WORKDIR.value or "runs/scarce") / f"{way}-{seed}"
            runs.append(scores(run(way, config, seed, workdir)))
        last, best, step = np.array(runs).T
        cells = [f"{x.mean():.4f} +- {x.std(ddof=1) / len(x) ** 0.5:.4f}" for x in (last, best)]
        print(f"| {way} | {' | '.join(cells)} | {step.mean():.0f} |", flush=True)


def run(way: str, base: ConfigDict, seed: int, workdir: Path) -> Path:
    """Trains in one way; returns the folder of the run that ends it."""
    config = base.copy_and_resolve_references()
    config.seed, config.data.augment = seed, ()
    match way:
        case "augmented":
            config.data.augment = AUGMENT
        case "mixed":
            config.data.update(
                source="mixture", mixture=(f"{base.data.source}(weight={len(WORLDS)})", *WORLDS)
            )
        case "before":
            first = config.copy_and_resolve_references()
            first.steps = config.steps = base.steps // 2
            first.data.update(source="mixture", mixture=tuple(WORLDS))
            train(first, workdir.with_name(f"{workdir.name}-first"))
            config.init_from = f"{workdir}-first"
    train(config, workdir)
    return workdir


def scores(workdir: Path) -> tuple[float, float, int]:
    """The last and the least validation loss of a run, and the step of the least."""
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    found = {line["step"]: line["evals/loss"] for line in lines if "evals/loss" in line}
    best = min(found, key=found.__getitem__)
    return found[max(found)], found[best], best


if __name__ == "__main__":
    errors.run(main, configs.parse_flags)
