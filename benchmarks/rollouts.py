"""Measure the drift of long videos by the noise level of the frames that a window sees again.

    python -m benchmarks.rollouts --workdir=runs/base [--levels=0,0.1,0.2] [--frames=128]
        [--overlap=4] [--clips=64] [--steps=16]

Run it from the repository's root. For each level of `sampler.observed_noise` it draws videos with
the averaged weights and the sampler of a run, from the same noise. The videos have the labels,
captions and actions of unseen clips; the actions end with the clip. Windows of the length of a
training clip are compared with other unseen clips as in formulations.py: by the energy distance of
pixels and their differences, in thousandths of the pixel range, where a perfect model scores 0. A
column names the first frame of its window; drift raises the scores from left to right.

A Markdown table goes to stdout, row by row.
"""

from jaxvid import start

if __name__ == "__main__":
    start.begin()

from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from absl import flags

from benchmarks.training import energy_score, unseen
from jaxvid import config as configs
from jaxvid import errors
from jaxvid.build import build
from jaxvid.errors import InputError
from jaxvid.sampling.long_videos import long_videos, plan_for
from jaxvid.workdir import folder
from jaxvid.workdir.checkpoint import Checkpoints

WORKDIR = flags.DEFINE_string("workdir", None, "A run's work directory.", required=True)
LEVELS = flags.DEFINE_list("levels", ["0"], "Noise levels of the frames that a window sees again.")
FRAMES = flags.DEFINE_integer("frames", 128, "Frames of a video.", lower_bound=1)
OVERLAP = flags.DEFINE_integer(
    "overlap", None, "Earlier frames that a window sees; by default half."
)
CLIPS = flags.DEFINE_integer("clips", 64, "Videos to draw and compare.", lower_bound=3)
STEPS = flags.DEFINE_integer("steps", None, "Sampler steps; by default the config's.")


def main(_: Sequence[str]) -> None:
    workdir = Path(WORKDIR.value)
    config = folder.load(workdir)
    with config.unlocked():
        config.sampler.steps = config.sampler.steps if STEPS.value is None else STEPS.value
        changed = [config.copy_and_resolve_references() for _ in LEVELS.value]
    for of_level, level in zip(changed, LEVELS.value, strict=True):
        of_level.sampler.observed_noise = number(level)
        configs.check(of_level)
    T = config.data.frames
    if FRAMES.value < T:
        raise InputError(
            f"--frames={FRAMES.value}: the network draws {T} at once; give at least {T}"
        )
    if config.conditions.low_res.factor:
        raise InputError(
            "config.conditions.low_res.factor: a model with low-resolution video has no drift to "
            "measure; use a run without it"
        )
    starts = [start for start in (0, *(T * 2**i for i in range(20))) if start + T <= FRAMES.value]
    starts = sorted({*starts, FRAMES.value - T})

    wanted, real = (jax.device_get(unseen(config, CLIPS.value, index)) for index in range(2))
    run = build(config)
    print("| noise |", *(f"frame {start} |" for start in starts))
    print("|---|" + "---|" * len(starts))
    with jax.set_mesh(run.mesh):
        with Checkpoints(workdir) as checkpoints:
            params = checkpoints.restore_part("ema", run.params)
        for of_level in changed:
            plan = plan_for(of_level, None, FRAMES.value, overlap=OVERLAP.value)
            parts = long_videos(
                of_level, run.denoiser, run.mesh, params, jax.random.key(0), wanted, plan
            )
            videos = np.concatenate(list(parts), axis=1)
            windows = (videos[:, start : start + T] for start in starts)
            scores = (energy_score(window, real["video"]) for window in windows)
            cells = (f"{value:.1f} ± {error:.1f}" for value, error in scores)
            print(f"| {of_level.sampler.observed_noise} | {' | '.join(cells)} |", flush=True)


def number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InputError(f"--levels: {text!r} is not a number") from None


if __name__ == "__main__":
    errors.run(main, configs.parse_flags)
