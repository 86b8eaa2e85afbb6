"""A cascade against one network that draws all pixels: scores, drift and time.

    python -m benchmarks.cascade --cascade=configs/cascade.py --direct=DIR [--plan=key_frames]
        [--frames=61] [--clips=64] [--videos=DIR]

Run it from the repository's root. `--direct` is a run with clips of the size and rate of the last
stage, which draws the same videos by a plan. The scores are those of benchmarks/hierarchy.py, in
windows of 16 frames. `TFLOP` is what training took: FLOPs of a step, forward and backward, times
the step of the checkpoint, over all stages. A Markdown table goes to stdout, and the first six
videos of each to `--videos`.
"""

from jaxvid import start

if __name__ == "__main__":
    start.begin()

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from absl import flags

from benchmarks.long_videos import Scorer, head, row
from jaxvid import cascade, errors
from jaxvid import config as configs
from jaxvid.errors import InputError
from jaxvid.models.flops import train_flops
from jaxvid.trained import TrainedModel, load
from jaxvid.workdir.checkpoint import Checkpoints
from jaxvid.workdir.samples import write_samples

CASCADE = flags.DEFINE_string("cascade", None, "File with get_cascade().", required=True)
DIRECT = flags.DEFINE_string("direct", None, "Work directory of the one network.", required=True)
PLAN = flags.DEFINE_string("plan", "key_frames", "Plan of the one network.")
FRAMES = flags.DEFINE_integer("frames", 61, "Length of the videos.", lower_bound=16)
CLIPS = flags.DEFINE_integer("clips", 64, "Videos of each.", lower_bound=12)
TIMED = flags.DEFINE_bool("timed", True, "Draw twice, to measure the time without compilation.")
VIDEOS = flags.DEFINE_string("videos", None, "Folder for a few videos of each.")
WINDOW = 16


def main(_: Sequence[str]) -> None:
    stages, one = cascade.load(CASCADE.value), load(DIRECT.value)
    levels = stages.levels(CLIPS.value, frames=FRAMES.value)
    data, mesh = one.run.config.data, one.run.mesh
    last = levels[-1].data
    if (data.size, data.fps) != (last.size, last.fps):
        raise InputError(
            f"--direct={DIRECT.value}: it draws {data.size}x{data.size} at {data.fps:g} fps, the "
            f"cascade {last.size}x{last.size} at {last.fps:g}"
        )
    drawing = one.drawing(CLIPS.value, frames=FRAMES.value, plan=PLAN.value)
    with Checkpoints(Path(DIRECT.value)) as checkpoints:
        step = checkpoints.steps[-1]
    costs = {
        "cascade": sum(map(flops, stages.models, stages.checkpoints)),
        f"`{PLAN.value}`": flops(one, step),
    }

    def by_cascade() -> np.ndarray:
        with tempfile.TemporaryDirectory() as folder:
            *_, (_, video) = cascade.draw(levels, folder)
            return np.array(video)

    draws = by_cascade, lambda: np.concatenate(list(drawing.parts()), axis=1)
    scorer = Scorer(data, mesh, WINDOW, CLIPS.value)
    print(head(scorer.names, "", "TFLOP", "s per video"))
    with jax.set_mesh(mesh):
        print(
            row(scorer.scores(scorer.real_videos(FRAMES.value, "train"))[0], "real videos", "", "")
        )
    for (name, cost), draw in zip(costs.items(), draws, strict=True):
        for _ in range(1 + TIMED.value):  # the second time, all is compiled
            started = time.perf_counter()
            videos = draw()
            seconds = (time.perf_counter() - started) / CLIPS.value
        with jax.set_mesh(mesh):
            found, _ = scorer.scores(videos)
        print(row(found, name, f"{cost / 1e12:.1f}", f"{seconds:.3g}" * TIMED.value), flush=True)
        if VIDEOS.value:
            with write_samples(Path(VIDEOS.value) / name.strip("`"), data.fps) as samples:
                samples.add(videos[:6])


def flops(model: TrainedModel, steps: int) -> int:
    """FLOPs of the training of a model."""
    call = model.run.network_call(model.run.config.batch_size)
    return steps * sum(train_flops(*call).values())


if __name__ == "__main__":
    errors.run(main, configs.parse_flags)
