"""Shared by all tests: a config small enough to compile and train in seconds."""

import os

# Before jax starts: eight devices on one CPU, for meshes, and no search for accelerators.
os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=1"
)
os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from tests import tiny


@pytest.fixture
def config() -> ConfigDict:
    return tiny.get_config()


@pytest.fixture
def batch(config) -> dict[str, jax.Array]:
    """What the pipeline gives for `config`, of smooth random videos."""
    B, T, S = config.batch_size, config.data.frames, config.data.size
    rng = np.random.default_rng(0)
    arrays = {
        "video": rng.integers(0, 256, (B, T, S, S, 3), np.uint8),
        "time": np.tile(np.arange(T, dtype=np.float32) / 8, (B, 1)),
        "label": rng.integers(0, config.model.labels, B, np.int32),
    }
    return jax.tree.map(jnp.asarray, arrays)


@pytest.fixture
def one_device_mesh(config):
    from jaxvid.parallel.mesh import make_mesh

    return make_mesh(config.mesh, jax.devices()[:1])
