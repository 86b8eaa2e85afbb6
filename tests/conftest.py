"""Shared by all tests: a config small enough to compile and train in seconds."""

import atexit
import gc
import importlib.metadata
import os
import shutil
import tempfile

# Before jax starts: eight devices on one CPU, for meshes, and no search for accelerators. Most of
# the time goes to compiling: less is optimised, programs are not split for threads, and fusions
# take XLA's older and shorter way where it still has that.
os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0 "
    "--xla_cpu_parallel_codegen_split_count=1"
)
if importlib.metadata.version("jaxlib").startswith("0.10."):
    os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"
os.environ["JAX_PLATFORMS"] = "cpu"
# Small arrays gain nothing, and workers side by side would take more memory.
os.environ["JAXVID_HUGE_PAGES"] = "0"
# What one test compiles, the others need not, nor do other workers and the commands they start.
if "PYTEST_XDIST_WORKER" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="jaxvid-tests-")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
    os.environ["XDG_CACHE_HOME"] = os.environ["JAX_COMPILATION_CACHE_DIR"]

# Tracing makes many objects and little garbage, among very many that stay.
gc.set_threshold(50_000)

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from tests import tiny
from tests.bucket import emulated


def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores, for tests wait for processes that they start."""
    return len(os.sched_getaffinity(0)) + 1 if hasattr(os, "sched_getaffinity") else 2


@pytest.fixture
def config() -> ConfigDict:
    return tiny.get_config()


@pytest.fixture(scope="session")
def bucket():
    """The path of an empty bucket; commands and this process find it by the environment."""
    with emulated() as path:
        yield path


@pytest.fixture
def batch(config) -> dict[str, jax.Array]:
    """What the pipeline gives for `config`: every clip a plain colour."""
    B, T, S = config.batch_size, config.data.frames, config.data.size
    rng = np.random.default_rng(0)
    arrays = {
        "video": np.broadcast_to(rng.integers(0, 256, (B, 1, 1, 1, 3), np.uint8), (B, T, S, S, 3)),
        "time": np.tile(np.arange(T, dtype=np.float32) / 8, (B, 1)),
        "given": {"label": rng.integers(0, config.conditions.label.classes, B, np.int32)},
    }
    return jax.tree.map(jnp.asarray, arrays)
