"""A trained model in Python: what `jaxvid.sample` draws with.

    from jaxvid.trained import load

    model = load("runs/base")
    videos = model.draw(8, label="square")                  # uint8 [8, T, H, W, 3]
    videos = model.draw(4, task="predict", observed=4, video="bikes.mp4")
    for frames in model.drawing(2, frames=1000).parts():     # uint8 [2, n, H, W, 3] each
        ...

`model.run.denoiser` and `model.params` are the network and its parameters.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, UInt8
from ml_collections import ConfigDict

from jaxvid import config as configs
from jaxvid import files
from jaxvid.build import Run, build, check_mesh
from jaxvid.conditions.condition import CONDITIONS, describe
from jaxvid.data import pipeline
from jaxvid.data.clips import frame_shape
from jaxvid.data.sources import make_source
from jaxvid.data.video import read_video
from jaxvid.errors import InputError, nearest
from jaxvid.files import Path
from jaxvid.hierarchy.plan import Plan
from jaxvid.parallel import rules
from jaxvid.parallel.hosts import put_whole, to_hosts
from jaxvid.sampling.draw import Report, by_default, make_sampler, padded
from jaxvid.sampling.long_videos import fills_devices, long_videos, plan_for
from jaxvid.sampling.tasks import observed_frames
from jaxvid.training import ema
from jaxvid.workdir import exported, folder
from jaxvid.workdir.checkpoint import Best, Checkpoints, Snapshots


@dataclasses.dataclass(frozen=True)
class TrainedModel:
    """A trained model; `load` makes it. Its parameters are read when they are first used."""

    run: Run
    read_params: Callable[[Any], Any]

    @functools.cached_property
    def params(self) -> Any:
        """The parameters, on the devices."""
        return self.read_params(self.run.params)

    def draw(self, num: int, **choices: Any) -> UInt8[np.ndarray, "B T H W 3"]:
        """Draws `num` videos. `choices` are those of `drawing`."""
        return np.concatenate(list(self.drawing(num, **choices).parts()), axis=1)

    def drawing(
        self,
        num: int,
        *,
        seed: int = 0,
        task: str = "generate",
        observed: int | None = None,
        video: str | Path | None = None,
        frames: int | None = None,
        overlap: int | None = None,
        plan: str | None = None,
        **conditions: str,
    ) -> "Drawing":
        """Prepares `num` videos; iterating over its `parts()` draws them.

        Args:
          num: number of videos.
          seed: of all random draws.
          task: generate, predict, interpolate or random.
          observed: number of frames that the task observes; by default a quarter of a clip.
          video: file of the observed frames; by default they come from the validation clips of
            the data, or from its training clips if there are none.
          frames: number of frames of a long video, which is drawn by a plan; by default a video
            is one clip.
          overlap: number of earlier frames that a call of the plan sees; by default half a clip.
          plan: which frames each call draws and sees, as `hierarchy.plan` describes it; by default
            "streaming" if the network can stream, else "sliding".
          conditions: a text for each flag of `jaxvid.sample`, such as `label="square"`.

        Raises:
          InputError: a choice is invalid. Its message names the flag of `jaxvid.sample`.
        """
        config = self.run.config
        if observed is not None and task == "generate":
            raise InputError("--observed: name a --task that observes frames, such as predict")
        if video is not None and task == "generate":
            raise InputError("--input gives observed frames: name a --task that has some")
        for flag, value in (("overlap", overlap), ("plan", plan)):
            if value is not None and not frames:
                raise InputError(f"--{flag} is for long videos: give --frames as well")
        if frames and task not in ("generate", "predict"):
            raise InputError(f"--frames is for --task=generate or predict, not {task}")
        T = config.data.frames
        seen = observed_frames(task, T, max(1, T // 4) if observed is None else observed)
        if frames:
            long = plan_for(config, plan, frames, int(seen.sum()), overlap)
        clips = self._clips(num, seed, seen, video, frames, conditions)
        return Drawing(self, clips, num, seed, seen, long if frames else None)

    def _clips(
        self,
        num: int,
        seed: int,
        observed: Bool[np.ndarray, " T"],
        video: str | Path | None,
        frames: int | None,
        conditions: Mapping[str, str],
    ) -> dict[str, Any]:
        """What to draw and what is given to draw from: `video`, `time`, `given`."""
        run, data = self.run, self.run.config.data
        num = padded(num, run.mesh)
        chosen = self.chosen(conditions, frames or data.frames)
        needs_low_res = run.config.conditions.low_res.factor and "low_res" not in chosen
        if needs_low_res and (frames or video is not None):
            raise InputError(
                f"the model enlarges a video: give one of {frames or data.frames} frames as "
                "--low_res"
            )
        clips = pipeline.blank_batch(data, run.encode, num)
        if video is not None:
            seen = int(np.flatnonzero(observed)[-1]) + 1
            clips["video"][:, :seen], _ = read_video(
                video, frames=seen, size=frame_shape(data), fps=data.fps
            )
        elif needs_low_res or observed.any():
            data = data.copy_and_resolve_references()
            data.plans = ()  # frames in a row
            source = make_source(data, "validation") or make_source(data)
            dataset = pipeline.make_dataset(
                source, data, run.encode, seed=seed, batch_size=num, augmented=False
            )
            clips = dataset[0]
        else:
            clips["given"] = by_default(run.conditions, clips["given"])
        for name, arrays in chosen.items():
            clips["given"][name] = jax.tree.map(lambda x: np.repeat(x[None], num, axis=0), arrays)
        return clips

    def chosen(self, conditions: Mapping[str, str], frames: int) -> dict[str, Any]:
        """The arrays of the conditions that are chosen, for one clip of a number of frames.

        Raises InputError for a condition that the model does not have, and an invalid value.
        """
        by_flag = {c.flag: c for c in self.run.conditions}
        for flag in conditions:
            if flag not in {c.flag for c in CONDITIONS.values()}:
                raise InputError(f"--{flag}: {nearest(flag, by_flag)}there is no such condition")
            if flag not in by_flag:
                raise InputError(f"--{flag}: the model was trained without it")
        return {
            by_flag[flag].name: by_flag[flag].parse(value, frames)
            for flag, value in conditions.items()
        }


@dataclasses.dataclass(frozen=True)
class Drawing:
    """Videos to draw; `TrainedModel.drawing` checks and makes it.

    Attributes:
      model: draws them.
      clips: `time`, `given` and, for frames that are given, `video` of a batch that fits the mesh.
      num: number of clips of the batch that are wanted.
      seed: of all random draws.
      observed: frames that are given rather than drawn.
      plan: of a long video, or None for one clip.
    """

    model: TrainedModel
    clips: dict[str, Any]
    num: int
    seed: int
    observed: Bool[np.ndarray, " T"]
    plan: Plan | None = None

    @property
    def titles(self) -> list[str]:
        """What each video shows, by its conditions."""
        return describe(self.model.run.conditions, self.clips["given"])[: self.num]

    def parts(self, report: Report | None = None) -> Iterator[UInt8[np.ndarray, "B n H W 3"]]:
        """Draws the videos and yields their frames as they come.

        `report` is called with what is done and the total: sampling steps of a clip, or frames of
        a long video.
        """
        parts = self._parts(report)
        while True:
            with jax.set_mesh(self.model.run.mesh):  # not while the caller has the part
                part = next(parts, None)
            if part is None:
                return
            yield part[: self.num]

    def _parts(self, report: Report | None) -> Iterator[UInt8[np.ndarray, "B n H W 3"]]:
        run, params, key = self.model.run, self.model.params, jax.random.key(self.seed)
        if not self.plan:
            draw = make_sampler(run.config, run.denoiser, run.mesh, report)
            clips = {name: self.clips[name] for name in ("video", "time", "given")}
            clips = put_whole(clips, rules.batch_sharding(run.mesh))
            yield to_hosts(draw(params, key, clips, self.observed))
            return
        # Without padding, where calls side by side fill the devices.
        whole = fills_devices(run.config, self.plan, self.num)
        clips = jax.tree.map(lambda x: x[: self.num], self.clips) if whole else self.clips
        told = (report,) if report else ()
        yield from long_videos(
            run.config, run.denoiser, run.mesh, params, key, clips, self.plan, *told
        )


def load(
    workdir: str | Path,
    *,
    checkpoint: int | None = None,
    weights: str = "ema",
    ema_width: float | None = None,
    changes: Mapping[str, str] | None = None,
) -> TrainedModel:
    """Loads the model of a work directory, on all devices.

    Args:
      workdir: of a run of `jaxvid.train`, or a file of `jaxvid.export`.
      checkpoint: step of the checkpoint; by default the newest.
      weights: "ema" (averaged), "raw", or "best": averaged, with the best score in a run with
        `evals.best`.
      ema_width: relative width of a post-hoc EMA, up to 0.28, from the snapshots of a run with
        `ema.widths`.
      changes: new values of config keys as texts, such as {"sampler.steps": "50"}. Only keys that
        docs/keys.md marks with * can change.

    Raises:
      InputError: `workdir` holds no run, a key cannot change, or the checkpoint does not exist (the
        last when the parameters are first used).
    """
    workdir = files.to_path(str(workdir), "--workdir")
    if ema_width is not None and (weights != "ema" or checkpoint is not None):
        raise InputError("--ema_width excludes --weights and --checkpoint: leave them out")
    if weights == "best" and checkpoint is not None:
        raise InputError("--weights=best excludes --checkpoint: leave one of them out")

    of_file = workdir.suffix == exported.SUFFIX
    if of_file and (weights != "ema" or checkpoint is not None or ema_width is not None):
        raise InputError(
            f"{workdir} has one set of weights: leave out --weights, --checkpoint and --ema_width"
        )

    def read(abstract: Any) -> Any:
        if of_file:
            return exported.read(workdir, abstract)
        if ema_width is not None:
            return _averaged(workdir, run.config, ema_width, abstract)
        if weights == "best":
            with Best(workdir) as best:
                return best.restore(abstract)
        with Checkpoints(workdir) as checkpoints:
            part = "ema" if weights == "ema" else "train/params"
            return checkpoints.restore_part(part, abstract, checkpoint)

    config = exported.read_config(workdir) if of_file else folder.load(workdir)
    run = build(_changed(config, changes or {}))
    check_mesh(run)
    return TrainedModel(run, read)


def _changed(config: ConfigDict, changes: Mapping[str, str]) -> ConfigDict:
    """The config with new values for some keys, on all devices, and with nothing of training.

    The devices divide the clips, unless the new values say otherwise.
    """
    with config.unlocked():
        config.mesh = ConfigDict(dict.fromkeys(config.mesh, 1) | {"data": -1})
    for name, value in changes.items():
        configs.check_name(name)
        if not configs.KEYS[name].free:
            raise InputError(
                f"--config.{name}: the model was trained with its value; only the keys that "
                "docs/keys.md marks with * can be changed here"
            )
        configs.override(config, name, value)
    if "mesh.data" not in changes and list(config.mesh.values()).count(-1) > 1:
        config.mesh.data = 1
    config.model.remat = "none"
    configs.check(config)
    return config


def _averaged(workdir: Path, config: ConfigDict, width: float, abstract: Any) -> Any:
    """The post-hoc EMA of a width."""
    with Snapshots(workdir, config.ema.widths) as snapshots:
        kept, steps = snapshots.averages(abstract), snapshots.steps
        params, missed = ema.reconstruct(kept, snapshots.widths, steps, width, steps[-1])
    print(
        f"EMA of width {width:g} at step {steps[-1]}, from {len(steps)} snapshot(s); its profile "
        f"is off by {missed:.2%}"
    )
    return params
