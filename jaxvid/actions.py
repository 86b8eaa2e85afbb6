"""Periodic actions of the training loop, after a step is logged and saved."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import grain
import jax
import numpy as np
from ml_collections import ConfigDict

from jaxvid.build import Run
from jaxvid.conditions.condition import describe
from jaxvid.data import pipeline
from jaxvid.data.sources import Source
from jaxvid.metrics.metric import METRICS
from jaxvid.parallel import rules
from jaxvid.sampling.draw import make_sampler, padded
from jaxvid.sampling.tasks import observed_frames
from jaxvid.training.ema import is_due
from jaxvid.training.state import TrainState
from jaxvid.workdir.checkpoint import Snapshots
from jaxvid.workdir.log import Log
from jaxvid.workdir.samples import write_samples


class Action(NamedTuple):
    """A periodic action: `act(step, state)` runs at the steps that are `due`."""

    due: Callable[[int], bool]
    act: Callable[[int, TrainState], None]


def make_actions(
    run: Run, source: Source, workdir: Path, snapshots: Snapshots, log: Log
) -> list[Action]:
    """The actions of a run's config, in order: snapshots, samples, scores.

    `source` is the validation split, or the training split if that has no clips.
    """
    return [
        _keep_snapshots(run.config, snapshots),
        *_show_samples(run, source, workdir, log),
        *_score(run, source, log),
    ]


def _keep_snapshots(config: ConfigDict, snapshots: Snapshots) -> Action:
    """Saves the power-function averages, including those of the last step."""
    return Action(
        functools.partial(is_due, config),
        lambda step, state: snapshots.save(step, state.profiles),
    )


def _show_samples(run: Run, source: Source, workdir: Path, log: Log) -> list[Action]:
    """One action per task: draws clips with the EMA weights, for `samples/` and the log.

    Conditions and observed frames are always those of the same few clips of the data.
    """
    data, num, key = run.config.data, run.config.sampler.num, jax.random.key(run.config.seed)
    example = _examples(run, source, padded(num, run.mesh))[0]
    own, titles = _own_part(run, example), describe(run.conditions, example["given"])[:num]
    draw = make_sampler(run.config, run.denoiser, run.mesh)

    def action(task: str) -> Action:
        given = observed_frames(task, data.frames, max(1, data.frames // 4))

        def show(step: int, state: TrainState) -> None:
            videos = np.asarray(jax.device_get(draw(state.ema, key, own, given)))[:num]
            log.videos(step, task, videos, data.fps)
            if jax.process_index() == 0:
                target = workdir / "samples" / f"{step:07d}-{task}"
                with write_samples(target, data.fps, given, titles) as samples:
                    samples.add(videos)

        return Action(functools.partial(_every, run.config, run.config.log.sample_every), show)

    return [action(task) for task in ("generate", "predict") if run.config.tasks[task]]


def _score(run: Run, source: Source, log: Log) -> list[Action]:
    """Scores clips drawn with the EMA weights against clips of `source`."""
    config = run.config
    if not config.evals.every:
        return []
    num, nothing = padded(config.evals.num, run.mesh), np.zeros(config.data.frames, bool)
    examples = _examples(run, source, num)
    draw = make_sampler(config, run.denoiser, run.mesh)

    def score(step: int, state: TrainState) -> None:
        own = _own_part(run, examples[0])
        drawn = draw(state.ema, jax.random.key(config.seed), own, nothing)
        drawn, real = np.asarray(jax.device_get(drawn)), examples[1]["video"]
        values = {}
        for name in config.evals.metrics:
            value, error = METRICS[name](drawn, real)
            values |= {f"evals/{name}": value, f"evals/{name}_error": error}
            log.say(f"step {step}: {name} {value:.4g} ± {error:.2g} from {num} clips")
        log.metrics(step, values)

    return [Action(functools.partial(_every, config, config.evals.every), score)]


def _examples(run: Run, source: Source, num: int) -> grain.MapDataset:
    """Batches of clips without augmentation; every process sees all of them."""
    config = run.config
    return pipeline.make_dataset(
        source, config.data, run.encode, seed=config.seed + 1, batch_size=num, augmented=False
    )


def _own_part(run: Run, batch: dict[str, Any]) -> dict[str, Any]:
    """The clips of a batch, this process's part of them on its devices."""
    index, count = jax.process_index(), jax.process_count()
    own = jax.tree.map(lambda x: np.split(x, count)[index], batch)
    return pipeline.put(own, rules.batch_sharding(run.mesh))


def _every(config: ConfigDict, every: int, step: int) -> bool:
    """Whether an action is due: every `every` steps (0 for never), and at the last step."""
    return step > 0 and (step == config.steps or (bool(every) and step % every == 0))
