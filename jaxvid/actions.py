"""Periodic actions of the training loop, after a step is logged and saved."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from jaxvid.build import Run
from jaxvid.data import pipeline
from jaxvid.data.sources import Source
from jaxvid.metrics.metric import METRICS
from jaxvid.parallel import rules
from jaxvid.sampling.draw import by_default, make_sampler, padded
from jaxvid.sampling.tasks import observed_frames
from jaxvid.training.ema import is_due
from jaxvid.training.state import TrainState
from jaxvid.workdir.checkpoint import Snapshots
from jaxvid.workdir.log import Log
from jaxvid.workdir.samples import write_samples


class Action(NamedTuple):
    """A periodic action: `act(step, state, batch)` runs at the steps that are `due`."""

    due: Callable[[int], bool]
    act: Callable[[int, TrainState, dict[str, Any]], None]


def make_actions(
    run: Run, source: Source, workdir: Path, snapshots: Snapshots, log: Log
) -> list[Action]:
    """The actions of a run's config, in order: snapshots, samples, scores."""
    return [
        _keep_snapshots(run.config, snapshots),
        *_show_samples(run, workdir, log),
        *_score(run, source, log),
    ]


def _keep_snapshots(config: ConfigDict, snapshots: Snapshots) -> Action:
    """Saves the power-function averages, including those of the last step."""
    return Action(
        functools.partial(is_due, config),
        lambda step, state, batch: snapshots.save(step, state.profiles),
    )


def _show_samples(run: Run, workdir: Path, log: Log) -> list[Action]:
    """One action per task: draws clips with the EMA weights, for `samples/` and the log.

    "generate" draws all classes in turn; "predict" continues clips of the newest batch.
    """
    data, num = run.config.data, run.config.sampler.num
    key, every = jax.random.key(run.config.seed), run.config.log.sample_every
    blank = pipeline.blank_batch(data, run.encode, padded(num, run.mesh))
    blank["given"] = by_default(run.conditions, blank["given"])

    def action(task: str) -> Action:
        given = observed_frames(task, data.frames, max(1, data.frames // 4))
        draw = make_sampler(run.config, run.denoiser, run.mesh, given)

        def show(step: int, state: TrainState, batch: dict[str, Any]) -> None:
            clips = batch
            if task == "generate" and not run.config.conditions.low_res.factor:
                clips = pipeline.put(blank, rules.batch_sharding(run.mesh))
            videos = np.asarray(jax.device_get(draw(state.ema, key, clips)))[:num]
            log.videos(step, task, videos, data.fps)
            if jax.process_index() == 0:
                target = workdir / "samples" / f"{step:07d}-{task}"
                with write_samples(target, data.fps, given) as samples:
                    samples.add(videos)

        return Action(lambda step: _every(run.config, every, step), show)

    return [action(task) for task in ("generate", "predict") if run.config.tasks[task]]


def _score(run: Run, source: Source, log: Log) -> list[Action]:
    """Scores clips drawn with the EMA weights against clips of the data, in a separate order."""
    config = run.config
    if not config.evals.every:
        return []
    num, nothing = padded(config.evals.num, run.mesh), np.zeros(config.data.frames, bool)
    batches_of = functools.partial(
        pipeline.make_dataset,
        source, config.data, run.encode, seed=config.seed + 1, batch_size=num,
    )  # fmt: skip
    whole = batches_of()
    own = batches_of(process_index=jax.process_index(), process_count=jax.process_count())
    draw = make_sampler(config, run.denoiser, run.mesh, nothing)

    def score(step: int, state: TrainState, batch: dict[str, Any]) -> None:
        given, real = own[0], whole[1]["video"]
        clips = {name: given[name] for name in ("video", "time", "given")}
        split = rules.batch_sharding(run.mesh)
        drawn = draw(state.ema, jax.random.key(config.seed), pipeline.put(clips, split))
        values = {}
        for name in config.evals.metrics:
            value, error = METRICS[name](np.asarray(jax.device_get(drawn)), real)
            values |= {f"evals/{name}": value, f"evals/{name}_error": error}
            log.say(f"step {step}: {name} {value:.4g} ± {error:.2g} from {num} clips")
        log.metrics(step, values)

    return [Action(lambda step: _every(config, config.evals.every, step), score)]


def _every(config: ConfigDict, every: int, step: int) -> bool:
    """Whether an action is due: every `every` steps (0 for never), and at the last step."""
    return step > 0 and (step == config.steps or (bool(every) and step % every == 0))
