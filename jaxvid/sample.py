"""Draw clips from a trained model: mp4s, and a contact sheet whose rows are clips.

    python -m jaxvid.sample --workdir=DIR --num=16 [--seed=1 --label=square]
    python -m jaxvid.sample --workdir=DIR --config.sampler.steps=50 --config.sampler.cfg_scale=2
    python -m jaxvid.sample --workdir=DIR --caption=TEXT
    python -m jaxvid.sample --workdir=DIR --task=predict --observed=4 [--input=VIDEO]
    python -m jaxvid.sample --workdir=DIR --frames=256 [--plan=key_frames --overlap=4]
    python -m jaxvid.sample --workdir=DIR --low_res=VIDEO [--frames=256]
    python -m jaxvid.sample --workdir=DIR --actions=FILE.csv [--frames=256]
    python -m jaxvid.sample --cascade=configs/cascade.py [--num=4 --frames=61 --label=square]

By default the averaged (EMA) weights of the newest checkpoint are used, on all devices.
`--checkpoint=STEP` uses another checkpoint, `--weights=raw` the weights without averaging, and
`--ema_width=0.15` an average of that width, computed from the snapshots of a run with `ema.widths`.
Observed frames come from `--input`, or else from the validation clips. So does the low-resolution
video, without `--low_res`. Videos of any length (`--frames`) are drawn by a plan, in several calls,
and written as they come.

`--cascade` draws by several trained networks, one after another (docs/hierarchy.md). The same
command goes on after an interruption; levels that are finished are not drawn again.
"""

from jaxvid import start
from jaxvid.data.clips import frame_shape

if __name__ == "__main__":
    start.begin()

import contextlib
import functools
import sys
from collections.abc import Sequence

import jax
import numpy as np
from absl import flags
from tqdm import tqdm

from jaxvid import config as configs
from jaxvid import errors, files
from jaxvid.cascade import draw
from jaxvid.cascade import load as load_cascade
from jaxvid.conditions.condition import CONDITIONS
from jaxvid.errors import InputError
from jaxvid.hierarchy.plan import SCHEMES
from jaxvid.parallel import peers
from jaxvid.trained import load
from jaxvid.workdir import exported
from jaxvid.workdir.folder import run_name
from jaxvid.workdir.pictures import cascade_sheet, write_png
from jaxvid.workdir.samples import write_samples

PART = 64  # frames that are read from a level at once

WORKDIR = flags.DEFINE_string(
    "workdir", None, "A run's work directory, or a file of jaxvid.export."
)
CASCADE = flags.DEFINE_string(
    "cascade", None, "In place of --workdir, a file with get_cascade(), as configs/cascade.py."
)
NUM = flags.DEFINE_integer("num", 16, "Number of clips.", lower_bound=1)
SEED = flags.DEFINE_integer("seed", 0, "Random seed of the clips.", lower_bound=0)
CHECKPOINT = flags.DEFINE_integer("checkpoint", None, "Its step; by default the newest.")
WEIGHTS = flags.DEFINE_enum(
    "weights", "ema", ["ema", "raw", "best"], "Averaged, raw, or averaged with the best score."
)
EMA_WIDTH = flags.DEFINE_float(
    "ema_width", None, "Relative width of a post-hoc EMA, up to 0.28; by default the plain EMA."
)
TASK = flags.DEFINE_string("task", None, "generate (by default), predict, interpolate or random.")
OBSERVED = flags.DEFINE_integer("observed", None, "Observed frames; by default a quarter.")
FRAMES = flags.DEFINE_integer(
    "frames", None, "Length of a video that is drawn by a plan.", lower_bound=1
)
PLAN = flags.DEFINE_string(
    "plan", None, f"Order of a long video's calls: {', '.join(SCHEMES)}; see docs/hierarchy.md."
)
OVERLAP = flags.DEFINE_integer(
    "overlap", None, "Earlier frames that a call sees; by default half of a clip."
)
INPUT = flags.DEFINE_string("input", None, "Video file with the observed frames.")
OUTPUT = flags.DEFINE_string(
    "output", None, "Folder; by default samples/TASK in the workdir, or runs/CASCADE/samples."
)
DISTRIBUTED = flags.DEFINE_string(
    "distributed",
    None,
    "Draw from --workdir with other processes, as --distributed of jaxvid.train.",
)
OF_A_RUN = CHECKPOINT, WEIGHTS, EMA_WIDTH, TASK, OBSERVED, PLAN, OVERLAP, INPUT, DISTRIBUTED


def main(_: Sequence[str]) -> None:
    if (WORKDIR.value is None) == (CASCADE.value is None):
        raise InputError("give --workdir=DIR of a run, or --cascade=FILE.py of several")
    if CASCADE.value:
        draw_cascade(CASCADE.value)
    else:
        with peers.joined(DISTRIBUTED.value):
            draw_clips()


def draw_clips() -> None:
    """Draws from the model of a work directory."""
    model = load(
        WORKDIR.value,
        checkpoint=CHECKPOINT.value,
        weights=WEIGHTS.value,
        ema_width=EMA_WIDTH.value,
        changes=configs.OVERRIDES,
    )
    config, task = model.run.config, TASK.value or "generate"
    frames = FRAMES.value or config.data.frames
    if OUTPUT.value is None and WORKDIR.value.endswith(exported.SUFFIX):
        raise InputError("give --output=DIR: --workdir is a file")
    target = files.to_path(OUTPUT.value or f"{WORKDIR.value}/samples/{task}", "--output")
    drawing = model.drawing(
        NUM.value,
        seed=SEED.value,
        task=task,
        observed=OBSERVED.value,
        video=INPUT.value,
        frames=FRAMES.value,
        overlap=OVERLAP.value,
        plan=PLAN.value,
        **_conditions(),
    )
    model.params  # noqa: B018  read before anything is written
    print(f"drawing {NUM.value} clips of {frames} frames; the first call compiles", flush=True)
    if drawing.plan:
        print(drawing.plan, flush=True)
    writer = write_samples(target, config.data.fps, drawing.observed, drawing.titles, drawing.plan)
    if jax.process_index():
        writer = contextlib.nullcontext()
    with writer as samples, _bar("frame" if FRAMES.value else "step") as bar:
        for part in drawing.parts(functools.partial(_show, bar)):
            if samples:
                samples.add(part)
    sheet = target / "sheet.png"
    print(f"{NUM.value} clips of {frames} frames in {target}; contact sheet: {sheet}")


def draw_cascade(file: str) -> None:
    """Draws from the models of a cascade, level by level."""
    changed = [flag.name for flag in OF_A_RUN if flag.present]
    changed += [f"config.{name}" for name in configs.OVERRIDES]
    if changed:
        raise InputError(f"--{changed[0]} is for --workdir: the stages of {file} say how they draw")
    levels = load_cascade(file).levels(
        NUM.value, frames=FRAMES.value, seed=SEED.value, **_conditions()
    )
    target = files.to_path(OUTPUT.value or f"runs/{run_name(file)}/samples", "--output")
    for level in levels:
        size = "x".join(map(str, frame_shape(level.data)))
        print(f"{level.name}: {size}, {level.data.fps:g} fps; "
              f"{level.plan}", flush=True)  # fmt: skip
    videos = []
    with _bar("frame") as bar:
        for level, video in draw(levels, target, functools.partial(_show, bar)):
            videos.append(video)
            with write_samples(
                target / level.name, level.data.fps, level.observed, level.titles, level.plan
            ) as samples:
                for start in range(0, level.frames, PART):
                    samples.add(np.asarray(video[:, start : start + PART]))
    titles = [
        ": ".join(filter(None, [level.name, *level.titles[i : i + 1]]))
        for i in range(NUM.value)
        for level in levels
    ]
    sheet = target / "sheet.png"
    write_png(sheet, cascade_sheet(videos, [level.every for level in levels], titles))
    print(f"{NUM.value} clips of {levels[-1].frames} frames in {target}; contact sheet: {sheet}")


def _bar(unit: str) -> tqdm:
    return tqdm(unit=unit, file=sys.stdout, mininterval=0.1 if sys.stdout.isatty() else 10)


def _conditions() -> dict[str, str]:
    """The conditions that the command line gives."""
    values = {c.flag: flags.FLAGS[c.flag].value for c in CONDITIONS.values()}
    return {flag: value for flag, value in values.items() if value is not None}


def _show(bar: tqdm, done: int, total: int) -> None:
    bar.total = int(total)
    bar.update(int(done) - bar.n)


def parse(argv: Sequence[str]) -> list[str]:
    """Parses as `config.parse_overrides`, with a flag for each condition."""
    configs.import_plugins(argv)
    for condition in CONDITIONS.values():
        flags.DEFINE_string(condition.flag, None, condition.flag_help)
    return configs.parse_overrides(argv)


if __name__ == "__main__":
    errors.run(main, parse)
