"""Scores of trained networks for benchmarks, and their table."""

from collections.abc import Sequence

import jax
import numpy as np
from ml_collections import ConfigDict

from benchmarks import training
from jaxvid.evaluation import evaluate
from jaxvid.metrics.protocols import Protocol
from jaxvid.metrics.score import Score
from jaxvid.trained import TrainedModel


def scores_of(config: ConfigDict, protocols: Sequence[Protocol]) -> list[Score]:
    """Trains a config's network, and scores its average."""
    trained = training.train(config)
    with jax.set_mesh(trained.run.mesh):
        model = TrainedModel(trained.run, lambda _: trained.state.ema)
        return evaluate(model, protocols)


def table(rows: dict[str, list[list[Score]]]) -> str:
    """A Markdown table with a row per method, and one for real clips."""
    first = next(iter(rows.values()))[0]
    out = ["| method | " + " | ".join(score.metric for score in first) + " |"]
    out.append("|---" * (len(first) + 1) + "|")
    floors = [f"{s.floor:.4g} ± {s.floor_error:.2g}" if s.floor is not None else "" for s in first]
    out.append(f"| real clips | {' | '.join(floors)} |")
    for name, seeds in rows.items():
        cells = []
        for scores in zip(*seeds, strict=True):
            values = np.array([score.value for score in scores])
            error = scores[0].error
            if len(values) > 1:
                error = values.std(ddof=1) / np.sqrt(len(values))
            cells.append(f"{values.mean():.4g} ± {error:.2g}")
        out.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(out)
