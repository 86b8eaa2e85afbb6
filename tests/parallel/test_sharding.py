"""The same training on other layouts of devices."""

import jax
import numpy as np
import pytest

from jaxvid.build import build
from jaxvid.data.pipeline import make_dataset
from jaxvid.data.sources import make_source
from jaxvid.parallel import rules
from jaxvid.training.step import draw_examples, loss_by_noise
from tests import tiny


def train(config, batch, devices, steps=5, **mesh):
    config.mesh.update(data=1, **mesh) if "data" not in mesh else config.mesh.update(**mesh)
    run = build(config, jax.devices()[:devices])
    placed = jax.device_put(batch, rules.batch_sharding(run.mesh))
    with jax.set_mesh(run.mesh):
        state, losses = off_zero(run.init()), []
        start = jax.tree.map(np.array, state.params)
        for _ in range(steps):
            state, metrics = run.train_step(state, placed)
            losses.append(run.metrics_of(metrics)["loss"])
    return state, np.array(jax.device_get(losses)), start


def off_zero(state):
    """As if trained for long: at first, gates are 0 and most gradients little but rounding."""

    def move(x):
        noise = 0.05 * jax.random.normal(jax.random.key(x.size), x.shape)
        return x + jax.device_put(noise, x.sharding)

    return state.replace(params=jax.tree.map(move, state.params))


def small():
    config = tiny.get_config()
    config.model.update(blocks="space time mlp", depth=1)
    return config


@pytest.fixture(scope="module")
def clips():
    """Moving shapes: where nothing moves, the gradients of `time` are little but rounding."""
    config = small()
    encode, B = build(config).encode, config.batch_size
    batch = make_dataset(make_source(config.data), config.data, encode, seed=0, batch_size=B)[0]
    return {name: batch[name] for name in ("video", "time", "given")}


@pytest.fixture(scope="module")
def alone(clips):
    return train(small(), clips, 1)


@pytest.mark.thorough
def test_eight_devices_train_as_one_does(clips, alone):
    """Exact arithmetic would agree to the bit; float32 sums in another order agree to 1e-5,
    and each array to 3e-5 of what training has changed in it."""
    assert_equal(train(small(), clips, 8, data=2, fsdp=2, tensor=2), alone)


def test_levels_of_detail_have_the_gradient_of_one_device_on_eight(clips):
    config = small()
    config.model.update(patch=(1, 2, 2), patches=((4, 4),), detail=(0, 1, 1, 1), skip=0.5)
    config.model.blocks = "1*(space) 1*(time) 1*(joint)"

    def gradient(devices, **mesh):
        config.mesh.update(**mesh)
        run, rng = build(config, jax.devices()[:devices]), np.random.default_rng(0)

        def loss(params, batch):
            examples = draw_examples(config, run.denoiser, batch, jax.random.key(0))
            return loss_by_noise(config, run.denoiser, params, examples)[0].sum()

        def place(x):
            return jax.device_put(rng.normal(scale=0.2, size=x.shape).astype(x.dtype), x.sharding)

        with jax.set_mesh(run.mesh):
            batch = jax.device_put(clips, rules.batch_sharding(run.mesh))
            return jax.jit(jax.grad(loss))(jax.tree.map(place, run.params), batch)

    def assert_close(a, b):
        assert np.linalg.norm(a - b) <= 1e-5 * np.linalg.norm(b)

    one, eight = gradient(1), gradient(8, data=4, tensor=2)
    jax.tree.map(assert_close, *jax.tree.map(np.asarray, (eight, one)))


def assert_equal(sharded, alone):
    (state, losses, start), (expected, its_losses, its_start) = sharded, alone
    jax.tree.map(np.testing.assert_array_equal, start, its_start)
    np.testing.assert_allclose(losses, its_losses, rtol=1e-5)
    for name in ("params", "ema"):
        trees = getattr(state, name), getattr(expected, name), start
        for a, b, c in zip(*map(jax.tree.leaves, trees), strict=True):
            a, b = np.asarray(a), np.asarray(b)
            bounds = 1e-5 * max(np.linalg.norm(b), 1e-3), 3e-5 * np.linalg.norm(b - c)
            assert np.linalg.norm(a - b) <= min(bounds)


def test_fsdp_spreads_parameters_average_and_optimizer_state(config):
    def bytes_per_device(**mesh):
        config.mesh.update(**mesh)
        return rules.bytes_of_part(build(config).state)

    assert bytes_per_device(data=1, fsdp=8) < 0.2 * bytes_per_device(data=8, fsdp=1)
