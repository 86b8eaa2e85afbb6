"""The base of every other config: bouncing shapes, on any machine, in about ten minutes.

    python -m jaxvid.train --config=configs/base.py

Needs: two CPU cores and 2 GiB of memory; no data, no network.
Measured on two cores of an AMD EPYC with AVX-512, 2026-11-28: 6:45 minutes, 44 clips/s with huge
pages, no data wait; loss 0.61 (mean of the first 20 steps) to 0.052 (of the last 20). An older
host takes about ten. Eight shapes move on smooth paths, and all but one, whose green turns yellow,
keep their colour; squares are a little round.

It sets only what differs from the defaults; docs/keys.md lists every key.
"""

from ml_collections import ConfigDict

from jaxvid.build import default_config


def get_config() -> ConfigDict:
    c = default_config()
    c.steps, c.batch_size = 2000, 8
    c.data.update(frames=8, size=24, shapes=(1, 1), spin=0.0)
    c.tasks.update(generate=0.7, predict=0.2, interpolate=0.05, random=0.05)
    # A CPU is faster without a loop over depth.
    c.model.update(blocks="space time mlp", depth=6, unroll=6)
    c.model.update(width=96, heads=3, patch=(1, 4, 4))
    c.conditions.label.classes = 3
    c.diffusion.update(prediction="x0", noise_mean=1.2, max_observed_noise=0.3)
    c.optimizer.update(name="muon", lr=8e-3, warmup=20, decay="linear", b2=0.99)
    c.ema.update(decay=0.995, snapshot_every=50)
    c.checkpoint.update(every=200, keep=2)
    c.log.update(every=20)
    c.sampler.update(name="unipc", cfg_scale=1.25, observed_noise=0.2)
    return c
