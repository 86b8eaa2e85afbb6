"""Training for benchmarks: the steps of `jaxvid.train`, without a work directory."""

import functools
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float32
from ml_collections import ConfigDict

from jaxvid import config as configs
from jaxvid.build import Run, build, check_training
from jaxvid.conditions.condition import check_source
from jaxvid.data import pipeline
from jaxvid.data.sources import make_source
from jaxvid.errors import InputError
from jaxvid.metrics.metric import METRICS, Clips
from jaxvid.metrics.score import measure
from jaxvid.models.transformer import stacks
from jaxvid.parallel import rules
from jaxvid.training.state import TrainState


class Trained(NamedTuple):
    """A network after `config.steps` steps.

    Attributes:
      run, state: the run and its final state.
      losses: loss of each step.
      step_s: median seconds per step, each of which ends before the next begins.
      temp_bytes: memory for the intermediate results of a step, from the compiler's plan.
    """

    run: Run
    state: TrainState
    losses: Float32[np.ndarray, " steps"]
    step_s: float
    temp_bytes: int


def train(config: ConfigDict, devices: Sequence[jax.Device] | None = None) -> Trained:
    """Trains a config's network on all devices, or on `devices`.

    Raises InputError if the config does not fit the mesh or the data.
    """
    run, source = build(config, devices), make_source(config.data)
    check_training(run)
    check_source(run.conditions, source)
    dataset = pipeline.make_dataset(
        source, config.data, run.encode,
        seed=config.seed, batch_size=config.batch_size, by_kind=bool(run.details),
        scenes=config.data.render_on_device,
    )  # fmt: skip
    with jax.set_mesh(run.mesh):
        state, batches = run.init(), pipeline.batches(dataset, 0, config.data)
        batch = run.put(next(batches))
        step_of = functools.cache(
            lambda detail: run.train_step.lower(run.state, batch, detail).compile()
        )
        losses, seconds = [], []
        for step in range(config.steps):
            compiled = step_of(run.detail_at(step))
            started = time.perf_counter()
            state, metrics = jax.block_until_ready(compiled(state, batch))
            seconds.append(time.perf_counter() - started)
            losses.append(run.metrics_of(metrics)["loss"])
            batch = run.put(next(batches))
    plan, step_s = compiled.memory_analysis(), float(np.median(seconds))
    return Trained(run, state, np.array(losses), step_s, plan.temp_size_in_bytes)


def unseen(config: ConfigDict, clips: int, index: int = 0) -> dict[str, Any]:
    """Batch `index` of `clips` clips of the validation split, without augmentation.

    Batches of different `index` share no clip. Raises InputError if the split has too few clips,
    and if `clips` does not divide over the mesh.
    """
    run, source = build(config), make_source(config.data, "validation")
    if (index + 1) * clips > len(source):
        raise InputError(
            f"the benchmark needs {(index + 1) * clips} different clips, but the validation split "
            f"has {len(source)}: lower --clips"
        )
    if clips % rules.batch_parts(run.mesh):
        raise InputError(
            f"--clips={clips} does not divide over the {rules.batch_parts(run.mesh)} devices of "
            "the mesh axes replica, data and fsdp: give a multiple"
        )
    dataset = pipeline.make_dataset(
        source, config.data, run.encode, seed=config.seed, batch_size=clips, augmented=False
    )
    return run.put(dataset[index])


def parameters(config: ConfigDict) -> int:
    """The number of parameters of a config's network."""
    return sum(x.size for x in jax.tree.leaves(build(config).params))


def like(config: ConfigDict, line: str, target: int) -> ConfigDict:
    """The config with another line, about as many words, and about `target` parameters."""
    config = config.copy_and_resolve_references()
    depth = max(1, round(words(config.model.blocks, config.model.depth) / words(line, 1)))
    unroll = max(repeats for _, repeats in stacks(line, depth))
    config.model.update(blocks=line, depth=depth, unroll=unroll)
    configs.check(config)
    step = 4 * config.model.heads
    widths = range(step, 3 * config.model.width + 1, step)

    def distance(width: int) -> int:
        config.model.width = width
        return abs(parameters(config) - target)

    config.model.width = min(widths, key=distance)
    return config


def words(blocks: str, depth: int) -> int:
    """The total number of words in a network, over all repeats."""
    return sum(repeats * sum(map(len, line)) for line, repeats in stacks(blocks, depth))


def energy_score(drawn: Clips, real: Clips) -> tuple[float, float]:
    """The energy distance of drawn clips from real ones, and its standard error."""
    score = measure(METRICS["energy"], drawn, real, seed=0)
    return score["value"], score["error"]
