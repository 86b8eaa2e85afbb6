"""Draw clips from a trained model: mp4s, and a contact sheet whose rows are clips.

    python -m jaxvid.sample --workdir=DIR --num=16 [--seed=1 --label=square]
    python -m jaxvid.sample --workdir=DIR --config.sampler.steps=50 --config.sampler.cfg_scale=2
    python -m jaxvid.sample --workdir=DIR --caption=TEXT
    python -m jaxvid.sample --workdir=DIR --task=predict --observed=4 [--input=VIDEO]
    python -m jaxvid.sample --workdir=DIR --frames=256 [--plan=key_frames --overlap=4]
    python -m jaxvid.sample --workdir=DIR --low_res=VIDEO [--frames=256]
    python -m jaxvid.sample --workdir=DIR --actions=FILE.csv [--frames=256]

By default the averaged (EMA) weights of the newest checkpoint are used, on all devices.
`--checkpoint=STEP` uses another checkpoint, `--weights=raw` the weights without averaging, and
`--ema_width=0.15` an average of that width, computed from the snapshots of a run with `ema.widths`.
Observed frames come from `--input`, or else from the validation clips. So does the low-resolution
video, without `--low_res`. Videos of any length (`--frames`) are drawn by a plan, in several calls,
and written as they come.
"""

from jaxvid import start

if __name__ == "__main__":
    start.begin()

import functools
import sys
from collections.abc import Sequence

from absl import flags
from tqdm import tqdm

from jaxvid import config as configs
from jaxvid import errors, files
from jaxvid.conditions.condition import CONDITIONS
from jaxvid.hierarchy.plan import SCHEMES
from jaxvid.trained import load
from jaxvid.workdir.samples import write_samples

WORKDIR = flags.DEFINE_string("workdir", None, "A run's work directory.", required=True)
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
OUTPUT = flags.DEFINE_string("output", None, "Folder; by default samples/TASK in the workdir.")


def main(_: Sequence[str]) -> None:
    model = load(
        WORKDIR.value,
        checkpoint=CHECKPOINT.value,
        weights=WEIGHTS.value,
        ema_width=EMA_WIDTH.value,
        changes=configs.OVERRIDES,
    )
    config, task = model.run.config, TASK.value or "generate"
    frames = FRAMES.value or config.data.frames
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
    with (
        write_samples(
            target, config.data.fps, drawing.observed, drawing.titles, drawing.plan
        ) as samples,
        tqdm(
            unit="frame" if FRAMES.value else "step",
            file=sys.stdout,
            mininterval=0.1 if sys.stdout.isatty() else 10,
        ) as bar,
    ):
        for part in drawing.parts(functools.partial(_show, bar)):
            samples.add(part)
    sheet = target / "sheet.png"
    print(f"{NUM.value} clips of {frames} frames in {target}; contact sheet: {sheet}")


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
