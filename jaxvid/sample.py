"""Draw clips from a trained model: mp4s, and a contact sheet whose rows are clips.

    python -m jaxvid.sample --workdir=DIR --num=16 [--seed=1 --label=square]
    python -m jaxvid.sample --workdir=DIR --config.sampler.steps=50 --config.sampler.cfg_scale=2
    python -m jaxvid.sample --workdir=DIR --caption=TEXT
    python -m jaxvid.sample --workdir=DIR --task=predict --observed=4 [--input=VIDEO]
    python -m jaxvid.sample --workdir=DIR --frames=256 [--overlap=4]
    python -m jaxvid.sample --workdir=DIR --low_res=VIDEO [--frames=256]
    python -m jaxvid.sample --workdir=DIR --actions=FILE.csv [--frames=256]

By default the averaged (EMA) weights of the newest checkpoint are used, on all devices.
`--checkpoint=STEP` uses another checkpoint, `--weights=raw` the weights without averaging, and
`--ema_width=0.15` an average of that width, computed from the snapshots of a run with `ema.widths`.
Observed frames come from `--input`, or else from the training data. So does the low-resolution
video, without `--low_res`. Videos of any length (`--frames`) are drawn and written window by
window.
"""

from jaxvid import start

if __name__ == "__main__":
    start.begin()

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags
from jaxtyping import Bool, UInt8
from ml_collections import ConfigDict
from tqdm import tqdm

from jaxvid import config as configs
from jaxvid import errors, files
from jaxvid.build import Run, build
from jaxvid.conditions.condition import CONDITIONS
from jaxvid.data import pipeline
from jaxvid.data.sources import make_source
from jaxvid.data.video import read_video
from jaxvid.errors import InputError
from jaxvid.parallel import rules
from jaxvid.sampling.draw import by_default, make_sampler, padded
from jaxvid.sampling.plans import long_videos
from jaxvid.sampling.tasks import observed_frames
from jaxvid.training import ema
from jaxvid.workdir import folder
from jaxvid.workdir.checkpoint import Checkpoints, Snapshots
from jaxvid.workdir.samples import write_samples

WORKDIR = flags.DEFINE_string("workdir", None, "A run's work directory.", required=True)
NUM = flags.DEFINE_integer("num", 16, "Number of clips.", lower_bound=1)
SEED = flags.DEFINE_integer("seed", 0, "Random seed of the clips.", lower_bound=0)
CHECKPOINT = flags.DEFINE_integer("checkpoint", None, "Its step; by default the newest.")
WEIGHTS = flags.DEFINE_enum("weights", "ema", ["ema", "raw"], "Averaged or raw weights.")
EMA_WIDTH = flags.DEFINE_float(
    "ema_width", None, "Relative width of a post-hoc EMA, up to 0.28; by default the plain EMA."
)
TASK = flags.DEFINE_string("task", None, "generate (by default), predict, interpolate or random.")
OBSERVED = flags.DEFINE_integer("observed", None, "Observed frames; by default a quarter.")
FRAMES = flags.DEFINE_integer(
    "frames", None, "Length of a video that is drawn window by window.", lower_bound=1
)
OVERLAP = flags.DEFINE_integer("overlap", None, "Past frames a window sees; by default half of it.")
INPUT = flags.DEFINE_string("input", None, "Video file with the observed frames.")
OUTPUT = flags.DEFINE_string("output", None, "Folder; by default samples/TASK in the workdir.")


def main(argv: Sequence[str]) -> None:
    # What to draw, checked before anything is compiled.
    workdir = files.to_path(WORKDIR.value, "--workdir")
    config = _config(workdir)
    run, task = build(config), TASK.value or "generate"
    frames = FRAMES.value or config.data.frames
    observed = _observed(config, task)
    clips = _clips(run, observed, frames)
    target = files.to_path(OUTPUT.value or f"{workdir}/samples/{task}", "--output")

    # The weights, and one compiled call on all devices.
    params = _weights(run, workdir)
    print(f"drawing {NUM.value} clips of {frames} frames; the first call compiles", flush=True)
    with (
        jax.set_mesh(run.mesh),
        write_samples(target, config.data.fps, observed) as samples,
    ):
        for part in _drawn(run, params, clips, observed, frames):
            samples.add(part)
    sheet = target / "sheet.png"
    print(f"{NUM.value} clips of {frames} frames in {target}; contact sheet: {sheet}")


def parse(argv: Sequence[str]) -> list[str]:
    """Parses flags with absl, with one for each condition; stores `--config.KEY=VALUE` for later.

    Raises InputError and `flags.Error` for wrong arguments.
    """
    configs.import_plugins(argv)
    for condition in CONDITIONS.values():
        flags.DEFINE_string(condition.flag, None, condition.flag_help)
    overrides = [word for word in argv if word.startswith("--config.")]
    for word in overrides:
        name, _, value = word.removeprefix("--config.").partition("=")
        configs.check_name(name)
        OVERRIDES[name] = value
    return configs.parse_flags([word for word in argv if word not in overrides])


OVERRIDES: dict[str, str] = {}


def _config(workdir: Path) -> ConfigDict:
    """The run's config with the changes of the command line, for all devices."""
    config = folder.load(workdir)
    for name, value in OVERRIDES.items():
        if not configs.KEYS[name].free:
            raise InputError(
                f"--config.{name}: the model was trained with its value; only the keys that "
                "docs/keys.md marks with * can be changed here"
            )
        configs.override(config, name, value)
    with config.unlocked():
        config.mesh = ConfigDict(dict.fromkeys(config.mesh, 1) | {"data": -1})
    configs.check(config)
    return config


def _observed(config: ConfigDict, task: str) -> Bool[np.ndarray, "T"]:
    """Which frames of a clip the task observes; raises InputError for flags that do not fit."""
    if OBSERVED.value is not None and task == "generate":
        raise InputError("--observed: name a --task that observes frames, such as predict")
    if INPUT.value is not None and task == "generate":
        raise InputError("--input gives observed frames: name a --task that has some")
    if OVERLAP.value is not None and not FRAMES.value:
        raise InputError("--overlap is for videos drawn window by window: give --frames as well")
    if FRAMES.value and task not in ("generate", "predict"):
        raise InputError(f"--frames is for --task=generate or predict, not {task}")
    frames = config.data.frames
    count = max(1, frames // 4) if OBSERVED.value is None else OBSERVED.value
    return observed_frames(task, frames, count)


def _clips(run: Run, observed: Bool[np.ndarray, "T"], frames: int) -> dict[str, Any]:
    """The inputs of the sampler, `video`, `time` and `given`, as in a batch."""
    data, num = run.config.data, padded(NUM.value, run.mesh)
    from_flags = _from_flags(run, frames)
    needs_low_res = run.config.conditions.low_res.factor and "low_res" not in from_flags
    if needs_low_res and (FRAMES.value or INPUT.value is not None):
        raise InputError(f"the model enlarges a video: give one of {frames} frames as --low_res")
    clips = pipeline.blank_batch(data, run.encode, num)
    clips["given"] = by_default(run.conditions, clips["given"])
    if INPUT.value is not None:
        seen = int(np.flatnonzero(observed)[-1]) + 1
        video, _ = read_video(INPUT.value, frames=seen, size=data.size, fps=data.fps)
        clips["video"][:, :seen] = video
        clips["given"] = pipeline.blank_batch(data, run.encode, num)["given"]
    elif needs_low_res or observed.any():
        dataset = pipeline.make_dataset(
            make_source(data), data, run.encode, seed=SEED.value, batch_size=num
        )
        clips = {name: dataset[0][name] for name in clips}
    for name, arrays in from_flags.items():
        clips["given"][name] = jax.tree.map(lambda x: np.repeat(x[None], num, axis=0), arrays)
    return clips


def _from_flags(run: Run, frames: int) -> dict[str, Any]:
    """The arrays of the conditions on the command line, for one clip."""
    of_model, arrays = {c.name: c for c in run.conditions}, {}
    for name, condition in CONDITIONS.items():
        value = flags.FLAGS[condition.flag].value
        if value is None:
            continue
        if name not in of_model:
            raise InputError(f"--{condition.flag}: the model was trained without it")
        arrays[name] = of_model[name].parse(value, frames)
    return arrays


def _weights(run: Run, workdir: Path) -> Any:
    """The parameters to draw with; raises InputError if the run does not have them."""
    if EMA_WIDTH.value is None:
        part = "ema" if WEIGHTS.value == "ema" else "train/params"
        with Checkpoints(workdir) as checkpoints:
            return checkpoints.restore_part(part, run.params, CHECKPOINT.value)
    if WEIGHTS.value == "raw" or CHECKPOINT.value is not None:
        raise InputError("--ema_width excludes --weights=raw and --checkpoint: leave them out")
    with Snapshots(workdir, run.config.ema.widths) as snapshots:
        kept, steps, width = snapshots.averages(run.params), snapshots.steps, EMA_WIDTH.value
        params, missed = ema.reconstruct(kept, snapshots.widths, steps, width, steps[-1])
    print(
        f"EMA of width {width:g} at step {steps[-1]}, from {len(steps)} snapshot(s); its profile "
        f"is off by {missed:.2%}"
    )
    return params


def _drawn(
    run: Run, params: Any, clips: dict[str, Any], observed: Bool[np.ndarray, "T"], frames: int
) -> Iterator[UInt8[np.ndarray, "B n H W 3"]]:
    """Yields the frames of all videos, window by window."""
    config, key = run.config, jax.random.key(SEED.value)
    if not FRAMES.value:
        draw = make_sampler(config, run.denoiser, run.mesh, observed)
        batch = pipeline.put(clips, rules.batch_sharding(run.mesh))
        yield np.asarray(draw(params, key, batch))[: NUM.value]
        return
    given = int(observed.sum())
    overlap = config.data.frames // 2 if OVERLAP.value is None else OVERLAP.value
    parts = long_videos(config, run.denoiser, run.mesh, params, key, clips, given, frames, overlap)
    seconds = 0.1 if sys.stdout.isatty() else 10
    with tqdm(total=frames, unit="frame", file=sys.stdout, mininterval=seconds) as bar:
        for part in parts:
            bar.update(part.shape[1])
            yield part[: NUM.value]


if __name__ == "__main__":
    errors.run(main, parse)
