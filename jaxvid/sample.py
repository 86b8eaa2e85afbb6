"""Draw clips from a trained model: mp4s, and a contact sheet whose rows are clips.

    python -m jaxvid.sample --workdir=DIR --num=16 [--steps=50 --cfg_scale=2 --seed=1 --label=0]
    python -m jaxvid.sample --workdir=DIR --caption=TEXT --cfg_scale=3
    python -m jaxvid.sample --workdir=DIR --frames=256 [--overlap=4]
    python -m jaxvid.sample --workdir=DIR --task=predict --observed=4 [--input=VIDEO]
    python -m jaxvid.sample --workdir=DIR --input=VIDEO [--frames=256]
    python -m jaxvid.sample --workdir=DIR --actions=FILE.csv [--frames=256]

The averaged (EMA) weights of the newest checkpoint are used, on all devices; or, with
`--ema_width=0.15`, an average of that width, made from the snapshots of a run with `ema.widths`.
The frames that a task observes come from `--input`, a video file, or else from the data that the
model was trained on; and so does the low-resolution video of a model with `data.low_res`. The table
of `--actions` has a row per frame, from the first on; actions past its end are unknown.
"""

from jaxvid import start

if __name__ == "__main__":
    start.begin()

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags
from jaxtyping import Bool
from ml_collections import ConfigDict

from jaxvid import build, errors, files  # noqa: F401
from jaxvid import config as configs
from jaxvid.data import pipeline
from jaxvid.data.conditions import read_actions
from jaxvid.data.sources import make_source
from jaxvid.data.text import to_bytes
from jaxvid.data.video import read_video
from jaxvid.parallel import rules
from jaxvid.parallel.mesh import make_mesh
from jaxvid.sampling import draw as sampling
from jaxvid.sampling.plans import rollout
from jaxvid.sampling.tasks import observed_frames
from jaxvid.training.optimizer import make_optimizer
from jaxvid.training.state import make_init, make_network
from jaxvid.workdir import folder
from jaxvid.workdir.checkpoint import Checkpoints, Snapshots

WORKDIR = flags.DEFINE_string("workdir", None, "A run's work directory.", required=True)
NUM = flags.DEFINE_integer("num", 16, "How many clips.", lower_bound=1)
SEED = flags.DEFINE_integer("seed", 0, "Another seed gives other clips.", lower_bound=0)
STEPS = flags.DEFINE_integer("steps", None, "Sampler steps; by default the config's.")
SAMPLER = flags.DEFINE_string("sampler", None, "Sampler; by default the config's.")
CFG_SCALE = flags.DEFINE_float("cfg_scale", None, "Guidance; by default the config's, 1 is none.")
OBSERVED_NOISE = flags.DEFINE_float(
    "observed_noise", None, "Level of the noise on observed frames; by default the config's."
)
LABEL = flags.DEFINE_integer("label", None, "Class of all clips; by default all in turn.")
CAPTION = flags.DEFINE_string("caption", None, "What all clips show, for a model of captions.")
EMA_WIDTH = flags.DEFINE_float(
    "ema_width", None, "Relative width of a post-hoc EMA, up to 0.28; by default the plain EMA."
)
TASK = flags.DEFINE_string("task", "generate", "generate, predict, interpolate or random.")
OBSERVED = flags.DEFINE_integer("observed", None, "Frames given; by default a quarter of them.")
FRAMES = flags.DEFINE_integer("frames", None, "Of videos drawn window by window.", lower_bound=1)
OVERLAP = flags.DEFINE_integer("overlap", None, "Past frames a window sees; by default half of it.")
INPUT = flags.DEFINE_string("input", None, "A video: observed frames, low-resolution frames.")
ACTIONS = flags.DEFINE_string("actions", None, "A table of numbers: what is done at each frame.")
OUTPUT = flags.DEFINE_string("output", None, "Folder; by default samples/TASK in the workdir.")

SAMPLER_KEYS = dict(name=SAMPLER, steps=STEPS, cfg_scale=CFG_SCALE, observed_noise=OBSERVED_NOISE)


def main(_: Sequence[str]) -> None:
    # What to draw, checked before anything is compiled.
    workdir = files.to_path(WORKDIR.value, "--workdir")
    config = folder.load(workdir)
    with config.unlocked():
        for name, flag in SAMPLER_KEYS.items():
            if flag.value is not None:
                config.sampler[name] = flag.value
        config.mesh = ConfigDict(dict.fromkeys(config.mesh, 1) | {"data": -1})
    configs.check(config)
    frames = config.data.frames
    count = max(1, frames // 4) if OBSERVED.value is None else OBSERVED.value
    observed = observed_frames(TASK.value, frames, count)
    if FRAMES.value and TASK.value not in ("generate", "predict"):
        raise errors.InputError(f"--frames is for --task=generate or predict, not {TASK.value}")
    mesh = make_mesh(config.mesh)
    clips = _clips(config, observed, mesh)

    output = files.to_path(OUTPUT.value or f"{workdir}/samples/{TASK.value}", "--output")
    files.make_folder(output, "--output")

    # The weights, and one compiled call on all devices.
    net = make_network(config)
    _, abstract = make_init(config, net, make_optimizer(config), mesh)
    with jax.set_mesh(mesh):
        params = _average(config, workdir, abstract.ema)
        key = jax.random.key(SEED.value)
        if FRAMES.value:
            given = int(observed.sum())
            overlap = frames // 2 if OVERLAP.value is None else OVERLAP.value
            frames = FRAMES.value
            videos = rollout(config, net, mesh, params, key, clips, given, frames, overlap)
            observed = np.arange(frames) < given
        else:
            draw = sampling.make_sampler(config, net, mesh, observed)
            videos = np.asarray(draw(params, key, pipeline.put(clips, rules.batch_sharding(mesh))))
        videos = videos[: NUM.value]

    sheet = sampling.write_samples(output, videos, config.data.fps, observed)
    print(f"{len(videos)} clips of {frames} frames in {output}; all at a glance: {sheet}")


def _average(config: ConfigDict, workdir: Path, abstract: Any) -> Any:
    """The plain EMA, or that of `--ema_width` at the newest snapshot; raises InputError."""
    if EMA_WIDTH.value is None:
        with Checkpoints(workdir) as checkpoints:
            return checkpoints.restore_ema(abstract)
    with Snapshots(workdir, config.ema.widths) as snapshots:
        params, missed = snapshots.average(EMA_WIDTH.value, abstract)
        print(
            f"EMA of width {EMA_WIDTH.value:g} at step {snapshots.steps[-1]}, from "
            f"{len(snapshots.steps)} snapshot(s); its profile is off by {missed:.2%}"
        )
    return params


def _clips(
    config: ConfigDict, observed: Bool[np.ndarray, "T"], mesh: jax.sharding.Mesh
) -> dict[str, np.ndarray]:
    """Classes and times to draw, and what is given to draw from; raises InputError."""
    data, frames = config.data, FRAMES.value or config.data.frames
    clips = sampling.blank_clips(config, NUM.value, mesh)
    num = len(clips["label"])
    if INPUT.value:
        _read_input(data, observed, frames, clips)
    elif data.low_res and FRAMES.value:
        raise errors.InputError(
            "--frames: the model needs a low-resolution video of that length: give it as --input"
        )
    elif data.low_res or observed.any():
        source = make_source(data)
        batch = pipeline.make_dataset(source, data, seed=SEED.value, batch_size=num)[0]
        clips = {name: batch[name] for name in clips}
    if ACTIONS.value is not None:
        if not data.action_dim:
            raise errors.InputError("--actions: the model was not trained on actions")
        action, mask = read_actions(ACTIONS.value, frames, data.action_dim)
        clips |= {"action": _to_all(num, action), "action_mask": _to_all(num, mask)}
    if CAPTION.value is not None:
        length = data.text_length
        if not length or data.text_embeddings:
            raise errors.InputError("--caption: the model was not trained on captions' bytes")
        clips["text_bytes"][:], clips["text_mask"][:] = to_bytes(CAPTION.value, length)
    if LABEL.value is not None:
        if not 0 <= LABEL.value < config.model.labels:
            raise errors.InputError(
                f"--label={LABEL.value}: the model has {config.model.labels} classes, from 0"
            )
        clips["label"][:] = LABEL.value
    return clips


def _read_input(
    data: ConfigDict, observed: Bool[np.ndarray, "T"], frames: int, clips: dict[str, np.ndarray]
) -> None:
    """Puts into `clips` what `--input` gives: observed frames, and low-resolution video."""
    if not observed.any() and not data.low_res:
        raise errors.InputError("--input gives observed frames: name a --task that has some")
    clips["label"][:] = -1
    if observed.any():
        seen = int(np.flatnonzero(observed)[-1]) + 1
        video, _ = read_video(INPUT.value, frames=seen, size=data.size, fps=data.fps)
        clips["video"][:, :seen] = video
    if data.low_res:
        size = data.size // data.low_res
        video, _ = read_video(INPUT.value, frames=frames, size=size, fps=data.fps)
        clips["low_res"] = _to_all(len(clips["label"]), video)


def _to_all(num: int, array: np.ndarray) -> np.ndarray:
    return np.repeat(array[None], num, axis=0)


if __name__ == "__main__":
    errors.run(main, configs.parse_flags)
