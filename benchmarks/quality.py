"""The jaxvid benchmark: the quality of what a method draws, on data that anyone can regenerate.

    python -m benchmarks.quality --config=configs/base.py [--lines="space mlp time mlp,joint mlp"]
        [--seeds=3] [--protocols=quick,world] [--videos=NAME=DIR,…] [--num=64]

Run it from the repository's root. A method is the config with a line of the block grammar, by
default its own, at about as many parameters (benchmarks/training.py). Or it is a folder of
videos that another program drew, of the frame size, rate and length of the config's clips. The
former are trained with the step of `jaxvid.train`, and their averaged weights draw the clips. Each
protocol compares them with validation clips; `real clips` is the score of as many training clips.
Progress goes to stderr, a Markdown table to stdout. A score is the mean over the seeds, ± its
standard error: over the clips, or with several seeds over the seeds.
"""

from jaxvid import start

if __name__ == "__main__":
    start.begin()

import re
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
from absl import flags
from ml_collections import config_flags

from benchmarks.scoring import scores_of, table
from benchmarks.training import like, parameters
from jaxvid import config as configs
from jaxvid import errors
from jaxvid.build import build
from jaxvid.comparison import evaluate_videos
from jaxvid.errors import InputError
from jaxvid.metrics.protocols import choose
from jaxvid.metrics.score import Score

CONFIG = config_flags.DEFINE_config_file("config", None, "File with get_config().")
LINES = flags.DEFINE_string("lines", "", "Lines of the grammar, split at commas.")
SEEDS = flags.DEFINE_integer("seeds", 1, "Training runs of each line.", lower_bound=1)
PROTOCOLS = flags.DEFINE_list("protocols", ["quick", "world"], "Protocols of the scores.")
NUM = flags.DEFINE_integer("num", 0, "Number of clips, if not the protocols'.", lower_bound=0)
VIDEOS = flags.DEFINE_list("videos", [], "NAME=DIR of videos that other programs drew.")


def main(_: Sequence[str]) -> None:
    config, parts = configs.from_flag(CONFIG), [text.partition("=") for text in VIDEOS.value]
    if any(not folder for _, _, folder in parts):
        raise InputError("--videos: give NAME=DIR, separated by commas")
    protocols = [choose(name, NUM.value) for name in PROTOCOLS.value]
    lines = re.split(r",(?![^(]*\))", LINES.value) if LINES.value else [config.model.blocks]
    target = parameters(config)
    equal = {line: like(config, line, target) for line in lines if line != config.model.blocks}
    equal |= {line: config.copy_and_resolve_references() for line in lines if line not in equal}
    rows: dict[str, list[list[Score]]] = {}
    for name, _, folder in parts:
        with jax.set_mesh(build(config).mesh):
            rows[name] = [
                [s for p in protocols for s in evaluate_videos(build(config), Path(folder), p)]
            ]
    for line in lines:
        rows[f"`{line}`"] = []
        for seed in range(SEEDS.value):
            equal[line].seed = config.seed + seed
            rows[f"`{line}`"].append(scores_of(equal[line], protocols))
            print(f"{line}, seed {equal[line].seed}: done", file=sys.stderr, flush=True)
    print(table(rows))
    print(f"\n{'; '.join(p.label for p in protocols)}; {config.steps} steps of {config.batch_size}")


if __name__ == "__main__":
    errors.run(main, configs.parse_flags)
