"""Evaluators: what is measured on the EMA weights while a run trains.

An evaluator maps the weights to values by name, which go to metrics.jsonl and TensorBoard. All
processes call it, and get the same values.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from jaxvid.build import Run
from jaxvid.data import pipeline
from jaxvid.data.sources import Source
from jaxvid.errors import InputError
from jaxvid.evaluation import evaluate, extractors, open_split
from jaxvid.metrics.metric import METRICS
from jaxvid.metrics.protocols import Protocol, choose
from jaxvid.parallel import rules
from jaxvid.parallel.hosts import put_whole
from jaxvid.sampling.draw import padded
from jaxvid.trained import TrainedModel
from jaxvid.training.meter import by_level
from jaxvid.training.step import draw_examples, loss_by_noise

Evaluator = Callable[[Any, Callable[[str], None]], dict[str, float]]  # of EMA weights and `say`


def make_evaluators(run: Run, validation: Source) -> list[Evaluator]:
    """The evaluators of a run's config.

    Raises InputError if the data has too few or too short clips for them, or what a metric needs is
    not installed.
    """
    config = run.config
    if not config.evals.every:
        return []
    made = [_make_loss(run, validation)] if config.evals.loss and len(validation) else []
    c = config.evals
    if c.best == "loss" and not made:
        raise InputError("config.evals.best=loss: no clips are held out; see docs/evaluation.md")
    protocols = [choose(name, c.num, tuple(c.metrics)) for name in c.protocols]
    for protocol in protocols:
        open_split(run, protocol, protocol.split)
        extractors(run, protocol)
    return [*made, functools.partial(_scores, run, protocols)]


def is_better(name: str, new: float, old: float) -> bool:
    """Whether a score `evals.best` is better than an earlier one."""
    metric = METRICS.get(name.rpartition("/")[2])
    return new > old if metric and metric.better == "higher" else new < old


def _scores(
    run: Run, protocols: Sequence[Protocol], ema: Any, say: Callable[[str], None]
) -> dict[str, float]:
    """Draws clips, and scores them by protocols."""
    values = {}
    for score in evaluate(TrainedModel(run, lambda _: ema), protocols):
        name = f"evals/{score.protocol.partition('-v')[0]}/{score.metric}"
        values |= {name: score.value, f"{name}_error": score.error}
        if score.floor is not None:
            values[f"{name}_floor"] = score.floor
        say(str(score))
    return values


def _make_loss(run: Run, validation: Source) -> Evaluator:
    """Makes the evaluator of the loss on validation clips, with the same noise at each call."""
    config = run.config
    size = padded(min(config.evals.loss, config.batch_size), run.mesh)
    dataset = pipeline.make_dataset(
        validation, config.data, run.encode,
        seed=config.seed, batch_size=size, augmented=False, by_kind=bool(run.details),
    )  # fmt: skip

    @functools.partial(jax.jit, static_argnums=3)
    def of_batch(
        ema: Any, batch: dict[str, Any], number: Any, detail: tuple[int, ...]
    ) -> tuple[jax.Array, jax.Array]:
        key = jax.random.fold_in(jax.random.key(config.seed), number)
        denoiser = run.denoiser.at(detail)
        examples = draw_examples(config, denoiser, batch, key)
        return loss_by_noise(config, denoiser, ema, examples.replace(lots=None))

    def loss(ema: Any, say: Callable[[str], None]) -> dict[str, float]:
        sums, counts = np.zeros((2, 4))
        for number in range(-(-config.evals.loss // size)):
            loaded = dataset[number]
            batch = {name: x for name, x in loaded.items() if name != "bad"}
            batch = put_whole(batch, rules.batch_sharding(run.mesh))
            more = of_batch(ema, batch, number, run.detail_at(number))
            sums, counts = sums + np.asarray(more[0]), counts + np.asarray(more[1])
        values = {"evals/loss": float(sums.sum() / counts.sum())}
        say(f"validation loss {values['evals/loss']:.4g}")
        return values | by_level("evals/loss", sums, counts)

    return loss
