"""Long videos by any plan: a network that is trained on the calls of all of them.

    python -m jaxvid.train --config=configs/long_video.py
    python -m jaxvid.sample --workdir=runs/long_video --frames=256 --plan=key_frames --num=4

With --config=configs/long_video.py:sparse the frames between key frames, and far ones, have a
quarter of the tokens.

A clip has the times of one call of a plan, and observes what this call sees: key frames far apart,
frames between two that are there, or frames that go on from dense and sparse earlier ones. So one
network carries out all plans of docs/hierarchy.md, which compares them.

Needs: two CPU cores and about an hour, or an accelerator; no data, no network.
Measured on one H100 with --config.data.workers=8, 2026-11-26: 1:16 minutes with compilation, 1,000
clips/s; loss 0.034 at the end. docs/benchmarks.md has the scores of its videos.
"""

from ml_collections import ConfigDict

from configs import base
from jaxvid.errors import InputError


def get_config(detail: str = "") -> ConfigDict:
    if detail not in ("", "sparse"):
        raise InputError(f"configs/long_video.py:{detail}: give nothing, or sparse")
    c = base.get_config()
    c.steps, c.batch_size = 4000, 8
    c.data.frames = 16
    c.data.plans = (
        "sliding(frames=64)",
        "long_range(frames=256)",
        "geometric(frames=256)",
        "key_frames(frames=64)",
        "key_frames(frames=256)",
        "hierarchy_2(frames=64)",
        "hierarchy_2(frames=256)",
    )
    # Of base.py before 2026-11-28, as measured above.
    c.model.update(width=64, heads=2, patch=(1, 3, 3))
    c.diffusion.noise_mean = 1.0
    c.tasks.update(generate=0.1, predict=0.1, interpolate=0.0, random=0.0, plan=0.8)
    c.sampler.update(steps=16, observed_noise=0.1)
    if detail:
        c.model.update(patches=((6, 6),))
        c.model.update(detail_between=(0, 0, 0, 0, 1), detail_onwards=(*12 * (0,), 1))
    return c
