"""What benchmarks share: a config's network, trained as `jaxvid.train` does, without files."""

import time
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float32
from ml_collections import ConfigDict

from jaxvid import config as configs
from jaxvid.data import pipeline
from jaxvid.data.conditions import check_conditions
from jaxvid.data.sources import make_source
from jaxvid.errors import InputError
from jaxvid.models.transformer import SpaceTimeTransformer
from jaxvid.parallel import rules
from jaxvid.parallel.mesh import make_mesh
from jaxvid.training.optimizer import make_optimizer
from jaxvid.training.state import TrainState, make_init, make_network
from jaxvid.training.step import jit_train_step


class Trained(NamedTuple):
    """A network after `config.steps` steps.

    Attributes:
      net, mesh, state: what was trained, where, and what came of it.
      losses: of each step.
      step_s: the median of the steps' seconds, each waited for before the next begins.
      temp_bytes: memory for intermediate results of a step, by the compiler's plan.
    """

    net: SpaceTimeTransformer
    mesh: Mesh
    state: TrainState
    losses: Float32[np.ndarray, "steps"]
    step_s: float
    temp_bytes: int


def train(config: ConfigDict, devices: Sequence[jax.Device] | None = None) -> Trained:
    """Trains a config's network on all devices, or on these.

    Raises InputError for what does not fit the mesh or the data.
    """
    mesh = make_mesh(config.mesh, devices)
    configs.check_mesh(config, rules.batch_parts(mesh), mesh.shape["fsdp"])
    source, split = make_source(config.data), rules.batch_sharding(mesh)
    configs.check_labels(config, source.labels)
    check_conditions(source, config.data)
    dataset = pipeline.make_dataset(
        source, config.data, seed=config.seed, batch_size=config.batch_size
    )
    net, tx = make_network(config), make_optimizer(config)
    init, abstract = make_init(config, net, tx, mesh)
    train_step = jit_train_step(config, net, tx, abstract)
    with jax.set_mesh(mesh):
        state, batches = init(), pipeline.batches(dataset, 0, config.data)
        batch = next(batches)
        compiled = train_step.lower(abstract, pipeline.put(batch, split)).compile()
        losses, seconds = [], []
        for _ in range(config.steps):
            given = pipeline.put(batch, split)
            started = time.perf_counter()
            state, metrics = jax.block_until_ready(compiled(state, given))
            seconds.append(time.perf_counter() - started)
            losses.append(metrics["loss"])
            batch = next(batches)
    plan, step_s = compiled.memory_analysis(), float(np.median(seconds))
    return Trained(net, mesh, state, np.array(losses), step_s, plan.temp_size_in_bytes)


def unseen(config: ConfigDict, clips: int, index: int = 0) -> dict[str, Array]:
    """Batch `index` of `clips` clips, in an order and with cuts that `train` did not see.

    All indices whose clips are in the source once are different clips. Of the million clips of the
    synthetic world a short training has seen next to none; those of a folder it has seen. Raises
    InputError for more clips than there are, and a number that does not divide over the mesh.
    """
    mesh, source = make_mesh(config.mesh), make_source(config.data)
    if (index + 1) * clips > len(source):
        raise InputError(
            f"measuring needs {(index + 1) * clips} different clips, but the data has "
            f"{len(source)}: lower --clips"
        )
    if clips % rules.batch_parts(mesh):
        raise InputError(
            f"--clips={clips} does not divide over the {rules.batch_parts(mesh)} devices of the "
            "mesh's replica, data and fsdp axes"
        )
    seed = config.seed + 1_000_003
    dataset = pipeline.make_dataset(source, config.data, seed=seed, batch_size=clips)
    return pipeline.put(dataset[index], rules.batch_sharding(mesh))
