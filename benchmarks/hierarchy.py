"""Compare plans of long videos on the same weights: scores, drift, network calls and time.

    python -m jaxvid.train --config=configs/long_video.py
    python -m benchmarks.hierarchy --workdir=runs/long_video [--plans=sliding,key_frames,…]
        [--frames=64,256] [--clips=64] [--plot=docs/images/hierarchy.png] [--videos=DIR]

Run it from the repository's root. Each plan draws the same number of videos with the averaged
weights, from the same seed. `energy` and `motion` compare windows of the length of a training clip,
all along the videos, with as many validation clips; the table has their mean, the plot each of
them, which shows drift. `world_path` and `world_speed` are means over such windows too.
`world_count` and `world_identity` judge whole videos, in which a shape that has turned into another
is missing. `real videos` are training clips of the same length. ± is the standard error over the
videos. Other sources, such as Craftax (`--plugins=benchmarks.craftax`), have no `world_` scores.

A Markdown table goes to stdout, row by row; the first six videos of each plan go to `--videos`.
"""

from jaxvid import start

if __name__ == "__main__":
    start.begin()

import time
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from absl import flags
from matplotlib.figure import Figure

from benchmarks.long_videos import Scorer, head, row
from jaxvid import config as configs
from jaxvid import errors
from jaxvid.errors import InputError
from jaxvid.trained import load
from jaxvid.workdir.samples import write_samples

WORKDIR = flags.DEFINE_string("workdir", None, "A run's work directory.", required=True)
PLANS = flags.DEFINE_string(
    "plans", "sliding;long_range;geometric;key_frames;hierarchy_2", "Plans, split at semicolons."
)
FRAMES = flags.DEFINE_list("frames", ["64", "256"], "Lengths of the videos.")
CLIPS = flags.DEFINE_integer("clips", 64, "Videos of each plan.", lower_bound=12)
TIMED = flags.DEFINE_bool("timed", True, "Draw twice, to measure the time without compilation.")
PLOT = flags.DEFINE_string("plot", None, "PNG file for a plot of the drift.")
VIDEOS = flags.DEFINE_string("videos", None, "Folder for a few videos of each plan.")
PLOTTED = ("energy", "motion", "world_identity")


def main(_: Sequence[str]) -> None:
    model = load(WORKDIR.value, changes=configs.OVERRIDES)
    data, mesh = model.run.config.data, model.run.mesh
    if min(map(int, FRAMES.value)) < data.frames:
        raise InputError(
            f"--frames: the network draws {data.frames} frames at once; give at least as many"
        )
    scorer = Scorer(data, mesh, data.frames, CLIPS.value)
    print(head(scorer.names, "frames", "plan", "calls", "rounds", "s per video"), flush=True)
    drift: dict[int, dict[str, dict[str, list]]] = {}
    with jax.set_mesh(mesh):
        for frames in map(int, FRAMES.value):
            found, curves = scorer.scores(scorer.real_videos(frames, "train"))
            drift[frames] = {"real videos": curves}
            print(row(found, str(frames), "real videos", "", "", ""), flush=True)
            for plan in PLANS.value.split(";"):
                drawing = model.drawing(CLIPS.value, frames=frames, plan=plan)
                for _ in range(1 + TIMED.value):  # the second time, all is compiled
                    started = time.perf_counter()
                    videos = np.concatenate(list(drawing.parts()), axis=1)
                    seconds = (time.perf_counter() - started) / CLIPS.value
                found, curves = scorer.scores(videos)
                drift[frames][plan] = curves
                calls, rounds = len(drawing.plan.calls), len(drawing.plan.rounds())
                about = str(calls), str(rounds), f"{seconds:.3g}" * TIMED.value
                print(row(found, str(frames), f"`{plan}`", *about), flush=True)
                if VIDEOS.value:
                    target = Path(VIDEOS.value) / f"{plan.partition('(')[0]}-{frames}"
                    with write_samples(target, data.fps, plan=drawing.plan) as samples:
                        samples.add(videos[:6])
    if PLOT.value:
        plot(Path(PLOT.value), drift, data.frames)


def plot(path: Path, drift: dict[int, dict[str, dict[str, list]]], T: int) -> None:
    """Plots the scores of the windows: a row for each length, a column for each metric."""
    figure = Figure(figsize=(12, 3 * len(drift)), dpi=120, layout="constrained")
    names = [name for name in PLOTTED if name in next(iter(drift.values()))["real videos"]]
    panels = figure.subplots(len(drift), len(names), squeeze=False)
    for along, (frames, plans) in zip(panels, drift.items(), strict=True):
        for axes, name in zip(along, names, strict=True):
            for plan, curves in plans.items():
                style = dict(color="black", ls="--") if plan == "real videos" else {}
                starts = T * np.arange(len(curves[name]))
                axes.plot(starts, curves[name], label=plan, marker=".", **style)
            axes.set(title=f"{name}, {frames} frames", xlabel="first frame of the window")
            axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside upper center", ncols=6)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


if __name__ == "__main__":
    errors.run(main, configs.parse_overrides)
