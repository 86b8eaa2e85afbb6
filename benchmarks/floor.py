"""Measure the floor of a protocol's scores, and how fast their features are computed.

    python -m benchmarks.floor --config=configs/base.py [--protocol=fvd2048_16f] [--num=256,2048]

Run it from the repository's root. The floor is the score of real clips: those of one split of the
config's data against as many of the other. Two Markdown tables go to stdout, progress to stderr.
Features are kept in the user's cache folder, so an interrupted run goes on.
"""

from jaxvid import start

if __name__ == "__main__":
    start.begin()

import time
from collections.abc import Sequence

import jax
import numpy as np
from absl import flags
from ml_collections import config_flags
from tqdm import tqdm

from benchmarks.training import unseen
from jaxvid import config as configs
from jaxvid import errors, evaluation
from jaxvid.build import build
from jaxvid.metrics.metric import Clips, Extract
from jaxvid.metrics.protocols import choose
from jaxvid.metrics.score import compare

CONFIG = config_flags.DEFINE_config_file("config", None, "File with get_config().")
PROTOCOL = flags.DEFINE_string("protocol", "fvd2048_16f", "Protocol of the scores.")
NUM = flags.DEFINE_list("num", ["256", "2048"], "Numbers of clips.")
REPEATS = 5


def main(_: Sequence[str]) -> None:
    run = build(configs.from_flag(CONFIG))
    protocols = [choose(PROTOCOL.value, int(num)) for num in NUM.value]
    extract = evaluation.extractors(run, protocols[0])
    print("| clips | " + " | ".join(protocols[0].metrics) + " |")
    print("|---" * (1 + len(protocols[0].metrics)) + "|")
    with jax.set_mesh(run.mesh):
        for protocol in protocols:
            with tqdm(total=2 * protocol.clips, unit="clip") as bar:
                real, others = (
                    evaluation.real_features(run, protocol, split, extract, bar.update)
                    for split in (protocol.split, evaluation.OTHER[protocol.split])
                )
            scores = compare(protocol, others, real, None)
            cells = [f"{score.value:.4g} ± {score.error:.2g} |" for score in scores]
            print(f"| {protocol.clips} |", *cells, flush=True)
        print("\n| features | clips per second |\n|---|---|")
        longer = run.config.copy_and_resolve_references()
        longer.data.frames = protocols[0].frames or longer.data.frames
        clips = np.asarray(unseen(longer, evaluation.CHUNK)["video"])
        for name, features in extract.items():
            seconds = [timed(features, clips) for _ in range(1 + REPEATS)][1:]
            print(f"| {name} | {len(clips) / np.median(seconds):.4g} |", flush=True)


def timed(features: Extract, clips: Clips) -> float:
    """Seconds to compute the features of clips."""
    started = time.perf_counter()
    features(clips)
    return time.perf_counter() - started


if __name__ == "__main__":
    errors.run(main, configs.parse_flags)
