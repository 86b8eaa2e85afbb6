"""Measure the seams that plans leave in enlarged videos, on the same weights and videos.

    python -m jaxvid.train --config=configs/cascade.py:enlarge
    python -m benchmarks.seams --workdir=runs/cascade-enlarge [--frames=61] [--clips=32]
        [--plans="overlapping;overlapping(overlap=1);sliding"]

Run it from the repository's root. Validation clips are made small and enlarged again by each plan,
from the same seed. `seam` is the mean jump between successive frames where windows begin or end,
over the mean jump elsewhere; `real` is that of the real videos between the same frames, which is 1
but for chance, and `ratio` is `seam` over `real`, ± its standard error over the videos. `error` is
the mean difference from the real videos, in steps of 1/255. A Markdown table goes to stdout, row by
row.
"""

from jaxvid import start

if __name__ == "__main__":
    start.begin()

from collections.abc import Sequence

import numpy as np
from absl import flags

from benchmarks.long_videos import seam
from jaxvid import config as configs
from jaxvid import errors
from jaxvid.data import pipeline
from jaxvid.data.sources import make_source
from jaxvid.errors import InputError
from jaxvid.hierarchy.plan import Plan
from jaxvid.metrics.bootstrap import bootstrap
from jaxvid.sampling.long_videos import plan_for
from jaxvid.trained import Drawing, load

WORKDIR = flags.DEFINE_string("workdir", None, "A run with conditions.low_res.", required=True)
PLANS = flags.DEFINE_string(
    "plans", "overlapping;overlapping(overlap=1);sliding", "Plans, split at semicolons."
)
FRAMES = flags.DEFINE_integer("frames", 61, "Length of the videos.", lower_bound=2)
CLIPS = flags.DEFINE_integer("clips", 32, "Videos of each plan.", lower_bound=2)


def main(_: Sequence[str]) -> None:
    model = load(WORKDIR.value, changes=configs.OVERRIDES)
    run, data = model.run, model.run.config.data.copy_and_resolve_references()
    if not run.config.conditions.low_res.factor:
        raise InputError(f"--workdir={WORKDIR.value}: the network does not enlarge videos")
    plans = {text: plan_for(run.config, text, FRAMES.value) for text in PLANS.value.split(";")}
    nothing = np.zeros(data.frames, bool)
    data.update(frames=FRAMES.value, strides=(1,), plans=())
    clips = pipeline.make_dataset(
        make_source(data, "validation"), data, run.encode,
        seed=0, batch_size=CLIPS.value, augmented=False,
    )[0]  # fmt: skip
    real = clips["video"]
    clips = {name: clips[name] for name in ("video", "time", "given")}
    print("| plan | calls | seam | real | ratio | error |\n|---|---|---|---|---|---|")
    for text, plan in plans.items():
        drawing = Drawing(model, clips, CLIPS.value, 0, nothing, plan)
        drawn = np.concatenate(list(drawing.parts()), axis=1)
        pairs, error = np.stack([drawn, real], axis=1), np.abs(drawn - real.astype(float)).mean()

        def ratio(pairs: np.ndarray, _: np.ndarray, plan: Plan = plan) -> float:
            return seam(pairs[:, 0], plan) / seam(pairs[:, 1], plan)

        uncertain, *_ = bootstrap(ratio, pairs, pairs, seed=0)
        print(
            f"| `{text}` | {len(plan.calls)} | {seam(drawn, plan):.3f} | {seam(real, plan):.3f} "
            f"| {ratio(pairs, pairs):.3f} ± {uncertain:.1g} | {error:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    errors.run(main, configs.parse_overrides)
