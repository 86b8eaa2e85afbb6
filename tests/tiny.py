"""configs/base.py, so small that a step takes milliseconds."""

import jax
import numpy as np
from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    c = base.get_config()
    c.steps, c.batch_size = 8, 8
    c.data.update(frames=4, size=8, shapes=(1, 1), prefetch=1)
    c.model.update(blocks="space time mlp", depth=2, width=16, heads=2, mlp_ratio=2)
    c.model.update(patch=(1, 4, 4), unroll=1)
    c.optimizer.update(name="adamw", lr=2e-3, warmup=2)
    c.checkpoint.every = 3
    c.log.update(every=2, sample_every=0)
    c.sampler.update(num=2, steps=2)
    return c


def trained(run):
    """Parameters of a run, moved off the zeros at which its gates begin, as by training."""
    rng, params = np.random.default_rng(0), jax.device_get(run.init().params)
    return jax.tree.map(lambda x: x + 0.1 * rng.normal(size=x.shape).astype(x.dtype), params)
