"""Periodic actions of the training loop, after a step is logged and saved."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from jaxvid.build import Run
from jaxvid.conditions.condition import describe
from jaxvid.data import pipeline
from jaxvid.data.sources import Source
from jaxvid.evaluators import Evaluator, is_better
from jaxvid.files import Path
from jaxvid.parallel import rules
from jaxvid.parallel.hosts import put_whole, to_hosts
from jaxvid.sampling.draw import make_sampler, padded
from jaxvid.sampling.tasks import observed_frames
from jaxvid.training.ema import is_due
from jaxvid.training.state import TrainState
from jaxvid.workdir import pictures
from jaxvid.workdir.agree import from_first
from jaxvid.workdir.checkpoint import Best, Snapshots
from jaxvid.workdir.log import Log
from jaxvid.workdir.profile import Profile
from jaxvid.workdir.samples import write_samples


class Action(NamedTuple):
    """A periodic action: `act(step, state)` runs at the steps that are `due`."""

    due: Callable[[int], bool]
    act: Callable[[int, TrainState], None]


def make_actions(
    run: Run,
    source: Source,
    evaluators: Sequence[Evaluator],
    workdir: Path,
    snapshots: Snapshots,
    best: Best,
    log: Log,
) -> list[Action]:
    """The actions of a run's config, in order: snapshots, samples, scores.

    A profile ends before them and begins after them.

    `source` has the clips that samples show: the validation split, or the training split if that
    has none.
    """
    profile = Profile(run.config, workdir, log.say)
    return [
        Action(profile.ends, profile.end),
        _keep_snapshots(run.config, snapshots),
        *_show_samples(run, source, workdir, log),
        *_evaluate(run.config, evaluators, workdir, best, log),
        Action(profile.begins, profile.begin),
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
    example = _example(run, source, padded(num, run.mesh))
    titles = describe(run.conditions, example["given"])[:num]
    clips = {name: example[name] for name in ("video", "time", "given")}
    clips = put_whole(clips, rules.batch_sharding(run.mesh))
    draw = make_sampler(run.config, run.denoiser, run.mesh)

    def action(task: str) -> Action:
        given = observed_frames(task, data.frames, max(1, data.frames // 4))

        def show(step: int, state: TrainState) -> None:
            videos = to_hosts(draw(state.ema, key, clips, given)[:num])
            log.videos(step, task, videos, data.fps)
            if jax.process_index() == 0:
                target = workdir / "samples" / f"{step:07d}-{task}"
                with write_samples(target, data.fps, given, titles) as samples:
                    samples.add(videos)

        return Action(functools.partial(_every, run.config, run.config.log.sample_every), show)

    tasks = ("generate", "predict") if data.frames > 1 else ("generate",)
    return [action(task) for task in tasks if run.config.tasks[task]]


def _evaluate(
    config: ConfigDict, evaluators: Sequence[Evaluator], workdir: Path, best: Best, log: Log
) -> list[Action]:
    """Calls the evaluators on the EMA weights, and keeps the weights with the best score."""
    name, earlier = f"evals/{config.evals.best}", []
    if evaluators and jax.process_index() == 0:
        lines = pictures.read_metrics(workdir / "metrics.jsonl")
        earlier = [values[name] for _, values in lines if name in values]

    def act(step: int, state: TrainState) -> None:
        values = {}
        for evaluator in evaluators:
            values |= evaluator(state.ema, lambda line: log.say(f"step {step}: {line}"))
        log.metrics(step, values)
        if config.evals.best:
            is_best = all(is_better(name, values[name], value) for value in earlier)
            earlier.append(values[name])
            if from_first(is_best):
                best.save(step, state.ema)

    due = functools.partial(_every, config, config.evals.every)
    return [Action(due, act)] * bool(evaluators)


def _example(run: Run, source: Source, num: int) -> dict[str, Any]:
    """A batch of clips without augmentation; every process has all of them."""
    config, data = run.config, run.config.data.copy_and_resolve_references()
    data.plans = ()  # frames in a row
    return pipeline.make_dataset(
        source, data, run.encode, seed=config.seed + 1, batch_size=num, augmented=False
    )[0]


def _every(config: ConfigDict, every: int, step: int) -> bool:
    """Whether an action is due: every `every` steps (0 for never), and at the last step."""
    return step > 0 and (step == config.steps or (bool(every) and step % every == 0))
