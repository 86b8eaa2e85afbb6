"""The same training on other layouts of devices."""

import jax
import numpy as np
import pytest

from jaxvid.data.pipeline import make_dataset
from jaxvid.data.sources import make_source
from jaxvid.parallel import rules
from jaxvid.parallel.mesh import make_mesh
from jaxvid.training.optimizer import make_optimizer
from jaxvid.training.state import make_init, make_network
from jaxvid.training.step import jit_train_step
from tests import tiny


def run(config, batch, devices, steps=20, **mesh):
    config.mesh.update(data=1, **mesh) if "data" not in mesh else config.mesh.update(**mesh)
    layout = make_mesh(config.mesh, jax.devices()[:devices])
    net, tx = make_network(config), make_optimizer(config)
    init, abstract = make_init(config, net, tx, layout)
    step = jit_train_step(config, net, tx, abstract)
    placed = jax.device_put(batch, rules.batch_sharding(layout))
    with jax.set_mesh(layout):
        state, losses = off_zero(init()), []
        start = jax.tree.map(np.array, state.params)
        for _ in range(steps):
            state, metrics = step(state, placed)
            losses.append(metrics["loss"])
    return state, np.array(jax.device_get(losses)), start


def off_zero(state):
    """As if trained for long: at first, gates are 0 and most gradients little but rounding."""

    def move(x):
        noise = 0.05 * jax.random.normal(jax.random.key(x.size), x.shape)
        return x + jax.device_put(noise, x.sharding)

    return state.replace(params=jax.tree.map(move, state.params))


@pytest.fixture
def clips(config):
    """Moving shapes: where nothing moves, the gradients of `time` are little but rounding."""
    config.data.frames = 8
    source = make_source(config.data)
    dataset = make_dataset(source, config.data, seed=0, batch_size=config.batch_size)
    return {name: dataset[0][name] for name in ("video", "time", "label")}


@pytest.fixture
def alone(config, clips):
    return run(config.copy_and_resolve_references(), clips, 1)


@pytest.mark.parametrize("mesh", [dict(data=8), dict(fsdp=8), dict(data=2, fsdp=4)], ids=str)
def test_eight_devices_train_as_one_does(config, clips, alone, mesh):
    """Exact arithmetic would agree to the bit; float32 sums in another order agree to 1e-5,
    and each array to 3e-5 of what training has changed in it."""
    state, losses, start = run(config, clips, 8, **mesh)
    jax.tree.map(np.testing.assert_array_equal, start, alone[2])
    np.testing.assert_allclose(losses, alone[1], rtol=1e-5)
    for name in ("params", "ema"):
        trees = getattr(state, name), getattr(alone[0], name), start
        for a, b, c in zip(*map(jax.tree.leaves, trees), strict=True):
            a, b = np.asarray(a), np.asarray(b)
            bounds = 1e-5 * max(np.linalg.norm(b), 1e-3), 3e-5 * np.linalg.norm(b - c)
            assert np.linalg.norm(a - b) <= min(bounds)


def test_fsdp_spreads_parameters_average_and_optimizer_state(config):
    def bytes_of(mesh):
        init, _ = make_init(config, make_network(config), make_optimizer(config), mesh)
        return rules.bytes_per_device(init())

    config.mesh.update(data=1, fsdp=8)
    spread, whole = bytes_of(make_mesh(config.mesh)), bytes_of(make_mesh(tiny.get_config().mesh))
    assert spread < 0.2 * whole
