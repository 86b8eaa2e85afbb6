"""A cascade: networks that draw a video one after another, from its outline to its last pixel.

    from jaxvid.cascade import draw, load

    levels = load("configs/cascade.py").levels(4, frames=61, label="square")
    for level, video in draw(levels, "runs/cascade/samples"):   # uint8 [4, T, H, W, 3], on disk
        ...

The first stage draws from nothing. How another one goes on follows from the configs of the runs.
With the same size and r times the frame rate it is given frames 0, r, 2r, … and draws those between
(temporal). With the same frame rate and `conditions.low_res` it draws the same frames with more
pixels (spatial; Ho et al. 2022, arXiv 2210.02303).
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, UInt8
from ml_collections import ConfigDict

from jaxvid import config_file, files, trained
from jaxvid.conditions.condition import describe, window
from jaxvid.data import pipeline
from jaxvid.data.clips import frame_shape
from jaxvid.errors import InputError
from jaxvid.files import Path
from jaxvid.hierarchy.plan import Plan
from jaxvid.sampling.draw import Report, by_default, padded
from jaxvid.sampling.long_videos import fills_devices, plan_for
from jaxvid.trained import Drawing, TrainedModel
from jaxvid.workdir.checkpoint import Checkpoints
from jaxvid.workdir.levels import claim, read_level, write_level

LOW_RES = "low_res"  # the condition that a spatial stage has from the level before


@dataclasses.dataclass(frozen=True)
class Stage:
    """A stage as a cascade file names it.

    Attributes:
      name: of its files. `get_config(name)` in the cascade file is the config that trains it.
      workdir: of its run.
      plan: of its calls, see `hierarchy.plan`; by default "key_frames" for a temporal stage.
      changes: new values of config keys, as `trained.load` takes them.
    """

    name: str
    workdir: str
    plan: str | None = None
    changes: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Level:
    """The videos of a stage; `Cascade.levels` checks and makes it.

    Attributes:
      name: of its files, such as "1-outline".
      model: draws it.
      plan: of its calls.
      given: the arrays of each condition but the low-resolution video.
      seed: of all random draws.
      num: number of videos.
      frames: length of a video; the plan may draw more.
      every: how many frames of the last level lie from one of its frames to the next.
      settings: all that the videos depend on, and the levels before.
    """

    name: str
    model: TrainedModel
    plan: Plan
    given: dict[str, Any]
    seed: int
    num: int
    frames: int
    every: int
    settings: dict[str, Any]

    @property
    def data(self) -> ConfigDict:
        """The `data` section of its config: size, frames per second."""
        return self.model.run.config.data

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of its videos."""
        return self.num, self.frames, *frame_shape(self.data), 3

    @property
    def observed(self) -> Bool[np.ndarray, " T"]:
        """The frames that the level before gives."""
        return np.isin(np.arange(self.frames), self.plan.given)

    @property
    def titles(self) -> list[str]:
        """What each video shows, by its conditions."""
        return describe([c for c in self.model.run.conditions if c.name in self.given], self.given)

    def parts(
        self, before: UInt8[np.ndarray, "B t h w 3"] | None, report: Report | None = None
    ) -> Iterator[UInt8[np.ndarray, "B n H W 3"]]:
        """Draws the videos from those of the level before, and yields their frames as they come.

        `report` is called with the number of frames that are there, and that of all frames.
        """
        run = self.model.run
        clips = pipeline.blank_batch(run.config.data, run.encode, self.num) | {"given": self.given}
        if self.plan.given:
            clips["video"] = before
        elif before is not None:
            clips["given"] = clips["given"] | {LOW_RES: {"video": before}}
        if not fills_devices(run.config, self.plan, self.num):
            rows = np.arange(padded(self.num, run.mesh)) % self.num
            clips = jax.tree.map(lambda x: x if len(x) == len(rows) else x[rows], clips)
        drawing = Drawing(self.model, clips, self.num, self.seed, self.observed, self.plan)
        left = self.frames
        for part in drawing.parts(report):
            yield part[:, :left]
            left -= part.shape[1]
            if left <= 0:
                return


@dataclasses.dataclass(frozen=True)
class Cascade:
    """Trained stages that fit; `load` makes it.

    Attributes:
      stages: from the outline on.
      models: that of each stage.
      checkpoints: the step of each model.
    """

    stages: tuple[Stage, ...]
    models: tuple[TrainedModel, ...]
    checkpoints: tuple[int, ...]

    def levels(
        self, num: int, *, frames: int | None = None, seed: int = 0, **conditions: str
    ) -> tuple[Level, ...]:
        """Prepares `num` videos, which `draw` draws.

        Args:
          num: number of videos.
          frames: their length at the last level; by default what one window of the first spans.
          seed: of all random draws; each level has noise of its own.
          conditions: a text for each flag of `jaxvid.sample`. All stages that have a condition get
            it. Values per frame, such as actions, are those of the frames of the last level.

        Raises:
          InputError: no stage has a condition, or a plan cannot draw videos of this length.
        """
        datas = [model.run.config.data for model in self.models]
        every = [round(datas[-1].fps / data.fps) for data in datas]
        frames = frames or (datas[0].frames - 1) * every[0] + 1
        lengths = [-(-(frames - 1) // n) + 1 for n in every]
        chosen = [[c for c in m.run.conditions if c.name != LOW_RES] for m in self.models]
        for flag in conditions:
            if flag not in {c.flag for group in chosen for c in group}:
                raise InputError(f"--{flag}: no stage of the cascade takes it")
        levels = []
        for k, (stage, model) in enumerate(zip(self.stages, self.models, strict=True)):
            run, ratio = model.run, every[k - 1] // every[k] if k else 1
            given = range(0, (lengths[k - 1] - 1) * ratio + 1, ratio) if ratio > 1 else ()
            text = stage.plan or ("key_frames" if given else None)
            try:
                plan = plan_for(run.config, text, max([lengths[k] - 1, *given]) + 1, given)
            except InputError as error:
                raise InputError(f"--frames={frames}: stage {stage.name}: {error}") from None
            flags = {c.flag for c in chosen[k]}
            own = model.chosen({f: v for f, v in conditions.items() if f in flags}, frames)
            blank = pipeline.blank_batch(run.config.data, run.encode, num)["given"]
            arrays = by_default(chosen[k], blank)
            arrays |= jax.tree.map(lambda x: np.repeat(x[None], num, axis=0), own)
            levels.append(
                Level(
                    name=f"{k + 1}-{stage.name}",
                    model=model,
                    plan=plan,
                    given=window(chosen[k], arrays, every[k] * np.arange(plan.frames)),
                    seed=int(np.random.SeedSequence((seed, k)).generate_state(1)[0]),
                    num=num,
                    frames=lengths[k],
                    every=every[k],
                    settings={
                        "num": num,
                        "frames": frames,
                        "seed": seed,
                        "conditions": conditions,
                        "workdir": stage.workdir,
                        "checkpoint": self.checkpoints[k],
                        "plan": stage.plan or plan.scheme,
                        "changes": dict(stage.changes),
                        "sampler": run.config.sampler.to_dict(),
                    },
                )
            )
        return tuple(levels)


def draw(
    levels: Sequence[Level], folder: str | Path, report: Report | None = None
) -> Iterator[tuple[Level, UInt8[np.ndarray, "B T H W 3"]]]:
    """Draws levels one after another, and yields each with its videos, which stay in a file.

    A level whose file is there is not drawn again, so that what was interrupted goes on.

    Args:
      levels: from `Cascade.levels`.
      folder: has the videos of each level as NAME.npy, and in cascade.json what they depend on.
      report: called with the number of frames of a level that are there, and that of all frames.

    Raises:
      InputError: `folder` has videos of other settings, or it cannot be read or written.
    """
    folder = files.to_path(str(folder), "--output")
    names = {"levels": [level.name for level in levels]}
    claim(folder, names | {level.name: level.settings for level in levels})
    paths, video = [folder / f"{level.name}.npy" for level in levels], None
    for level, path in zip(levels, paths, strict=True):
        if not path.exists():
            level.model.params  # noqa: B018  read before anything is drawn
    for level, path in zip(levels, paths, strict=True):
        if not path.exists():
            write_level(path, level.shape, level.parts(video, report))
        video = read_level(path, level.shape)
        yield level, video


def load(path: str) -> Cascade:
    """Loads the models of a cascade file, whose `get_cascade()` returns a tuple of `Stage`s.

    Raises InputError if a stage has no run or no checkpoint, or does not fit the one before it.
    """
    stages = config_file.load(path, "cascade")
    try:
        return _load(path, stages)
    except InputError as error:
        raise InputError(f"--cascade={path}: {error}") from None


def _load(path: str, stages: tuple[Stage, ...]) -> Cascade:
    if not stages or not all(isinstance(stage, Stage) for stage in stages):
        raise InputError("get_cascade() returns other things than jaxvid.cascade.Stage, or none")
    names = [stage.name for stage in stages]
    if len(set(names)) < len(names) or not all(re.fullmatch(r"[\w-]+", name) for name in names):
        raise InputError(f"stages {', '.join(names)}: give each a name of its own, of letters")
    models, checkpoints = [], []
    for stage in stages:
        steps = Checkpoints(files.to_path(stage.workdir, f"workdir of stage {stage.name}")).steps
        if not steps:
            raise InputError(
                f"stage {stage.name}: {stage.workdir} has no checkpoint; python -m jaxvid.train "
                f"--config={path}:{stage.name} --workdir={stage.workdir} trains it"
            )
        try:
            model = trained.load(stage.workdir, checkpoint=steps[-1], changes=stage.changes)
        except InputError as error:
            raise InputError(f"stage {stage.name}: {error}") from None
        models.append(model)
        checkpoints.append(steps[-1])
    configs = [model.run.config for model in models]
    if configs[0].conditions.low_res.factor:
        raise InputError(
            f"stage {names[0]} enlarges a video (conditions.low_res.factor), but it is the first: "
            "put a stage before it that draws one"
        )
    for k in range(1, len(stages)):
        _check_fits(names[k - 1 : k + 1], *configs[k - 1 : k + 1])
    return Cascade(tuple(stages), tuple(models), tuple(checkpoints))


def _check_fits(names: Sequence[str], before: ConfigDict, after: ConfigDict) -> None:
    """Raises InputError unless a stage goes on from the one before, in time or in space."""
    factor, rate = after.conditions.low_res.factor, after.data.fps / before.data.fps
    sizes = [frame_shape(config.data) for config in (before, after)]
    if factor:
        fits = rate == 1 and sizes[1] == tuple(factor * side for side in sizes[0])
    else:
        fits = sizes[0] == sizes[1] and rate > 1 and rate == round(rate)
    if not fits:
        raise InputError(
            f"stage {names[1]} (data.size={after.data.size}, data.fps={after.data.fps:g}, "
            f"conditions.low_res.factor={factor}) does not fit {names[0]} (data.size="
            f"{before.data.size}, data.fps={before.data.fps:g}): give it the same size and a "
            "multiple of the fps and no low_res, or the same fps and low_res.factor times the size"
        )
