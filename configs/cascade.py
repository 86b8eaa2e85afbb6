"""A cascade: the outline of a video, the frames between, and more pixels; a network for each.

    python -m jaxvid.train --config=configs/cascade.py:outline
    python -m jaxvid.train --config=configs/cascade.py:between
    python -m jaxvid.train --config=configs/cascade.py:enlarge
    python -m jaxvid.sample --cascade=configs/cascade.py --num=4

The outline has 16 frames of 16x16 pixels, two a second; the next network draws the three frames
between two of them; the last enlarges all 61 to 32x32. docs/hierarchy.md says how stages fit.

Needs: two CPU cores and half an hour; no data, no network.
Measured on one core of an AMD EPYC, 2026-11-27, in minutes with compilation: outline 9:54, between
6:42, enlarge 9:19; four videos on two cores 1:05. Loss at the end 0.076, 0.025, 0.026.
Shapes keep their form and, but for tints, their colour; at two frames a second their paths turn at
random, and their textures change. Between key frames they move smoothly.
"""

from ml_collections import ConfigDict

from configs import base
from jaxvid.cascade import Stage
from jaxvid.errors import InputError

STAGES = "outline", "between", "enlarge"


def get_cascade() -> tuple[Stage, ...]:
    return tuple(Stage(name, f"runs/cascade-{name}") for name in STAGES)


def get_config(stage: str = "") -> ConfigDict:
    if stage not in STAGES:
        raise InputError(
            f"configs/cascade.py: give a stage, as in configs/cascade.py:{STAGES[0]}: one of "
            f"{', '.join(STAGES)}"
        )
    c = base.get_config()
    c.steps, c.batch_size = 2000, 8
    c.data.update(frames=16, size=16, fps=8.0)
    # Of base.py before 2026-11-28, as measured above.
    c.model.update(width=64, heads=2)
    c.diffusion.noise_mean = 1.0
    c.tasks.update(generate=1.0, predict=0.0, interpolate=0.0, random=0.0)
    c.sampler.steps = 16
    match stage:
        case "outline":
            c.data.fps = 2.0
        case "between":
            c.data.plans = ("key_frames(frames=61, every=4)",)
            c.steps = 1200
            c.tasks.update(generate=0.0, plan=1.0)
        case "enlarge":
            c.steps, c.batch_size = 900, 4
            c.data.update(frames=8, size=32)
            c.model.update(depth=3, unroll=3, patch=(1, 2, 2))
            c.conditions.low_res.update(factor=2, max_noise=0.3, noise=0.1)
            c.sampler.update(steps=8, cfg_scale=1.0)
    return c
