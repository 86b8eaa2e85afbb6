import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from jaxvid.build import build
from jaxvid.models.layers import kernel
from jaxvid.models.mixers import MIXERS
from jaxvid.parallel.mesh import AXES
from jaxvid.training.muon import is_matrix, matrices
from jaxvid.training.optimizer import OPTIMIZERS, make_optimizer


@pytest.fixture
def boxed(config):
    """Of a network with every word."""
    config.model.blocks = " ".join(MIXERS)
    config.conditions.text.length = 4
    return build(config).boxed_params


def leaves(tree):
    """By path, without numbers."""
    flat = jax.tree_util.tree_leaves_with_path(tree, is_leaf=is_matrix)
    return {"/".join(key.key for key in path): x for path, x in flat}


def test_matrices_of_the_blocks_are_what_their_layers_declare(boxed):
    found = {path: x[:2] for path, x in leaves(matrices(boxed)).items() if x is not None}
    shapes = leaves(nn.meta.unbox(boxed))
    # Axis 0 is the layers', and heads and what they hold are one side of a matrix.
    expected = {
        "qkv": ((1,), (3, 4)),
        "query": ((1,), (3, 4)),
        "key_value": ((1,), (3, 4)),
        "in": ((1,), (3,)),
    }
    for path, shape in shapes.items():
        *_, layer, last = ["", *path.split("/")]
        is_matrix = path.startswith("blocks") and last == "kernel" and "modulation" not in layer
        if not is_matrix:
            assert path not in found, path
        elif layer == "out" and len(shape.shape) == 4:
            assert found[path] == ((1, 2), (3,)), path
        else:
            assert found[path] == expected.get(layer, ((1,), (2,))), path


def test_a_matrix_keeps_its_axes_when_others_are_added_and_removed():
    box = kernel("embed", None, "heads", stacked=(1,))(jax.random.key(0), (4, 3, 2), jnp.float32)
    assert box.matrix == ((0,), (2,))
    for index, moved in enumerate([((1,), (3,)), ((0,), (3,)), ((0,), (3,)), ((0,), (2,))]):
        added = box.add_axis(index, {nn.PARTITION_NAME: "layers"})
        assert added.matrix == moved
        removed = added.remove_axis(index, {nn.PARTITION_NAME: "layers"})
        assert (removed.matrix, removed.names) == (box.matrix, box.names)


def random(params, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: rng.normal(size=x.shape).astype(x.dtype), params)


def by_path(tree):
    flat = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): x for path, x in flat}


def test_muon_is_that_of_optax(config, boxed):
    """Also its state, so that a run of either goes on with the other."""
    config.optimizer.update(name="muon", warmup=0, lr=0.1, clip=0.0, decay="constant")
    axes = jax.tree.map(
        lambda x: x and optax.contrib.MuonDimensionNumbers(*x[:2]),
        matrices(boxed),
        is_leaf=is_matrix,
    )
    theirs = optax.contrib.muon(
        optax.constant_schedule(0.1),
        adam_b2=config.optimizer.b2,
        muon_weight_dimension_numbers=axes,
        consistent_rms=0.2,
    )
    params, found = random(nn.meta.unbox(boxed)), []
    for tx in (make_optimizer(config, boxed), theirs):
        state = tx.init(params)
        for seed in (1, 2):
            updates, state = jax.jit(tx.update)(random(params, seed), state, params)
        found.append((updates, by_path(state)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), *found)


def updated(config, **sizes):
    """The updates of Muon and their FLOPs per device, on a mesh."""
    config.mesh.update(dict.fromkeys(AXES, 1) | sizes)
    run = build(config, jax.devices()[: math.prod(sizes.values())])
    with jax.set_mesh(run.mesh):
        update = jax.jit(run.optimizer.update, out_shardings=(of(run.params), None))
        step = update.lower(run.params, run.state.opt_state, run.params).compile()
        grads = jax.device_put(random(run.params), of(run.params))
        updates, _ = step(grads, run.init().opt_state, grads)
    return jax.device_get(updates), step.cost_analysis()["flops"]


def of(params):
    return jax.tree.map(lambda x: x.sharding, params)


def test_devices_divide_the_work_of_muon(config):
    config.optimizer.update(name="muon", warmup=0)
    config.model.update(blocks="8*(space mlp)", width=64, heads=4)
    expected, flops = updated(config, data=1)
    for sizes in ({"data": 8}, {"data": 2, "fsdp": 2, "tensor": 2}):
        found, part = updated(config, **sizes)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), found, expected
        )
        assert part < 1.5 * flops / 8, sizes  # what is not of matrices is small, but not divided


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_weight_decay_is_of_kernels_only(config, boxed, name):
    config.optimizer.update(name=name, weight_decay=0.1, warmup=0, lr=1.0)
    tx = make_optimizer(config, boxed)
    params = jax.tree.map(lambda x: jnp.ones(x.shape), nn.meta.unbox(boxed))
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = jax.jit(tx.update)(zeros, tx.init(params), params)
    for path, update in leaves(updates).items():
        expected = -0.1 if path.endswith("kernel") else 0.0
        np.testing.assert_allclose(update, expected, rtol=1e-6, err_msg=path)


def test_an_optimizer_from_outside_is_one_function(config, boxed, monkeypatch):
    monkeypatch.setitem(OPTIMIZERS, "sgd", lambda c, schedule, matrices, decayed: optax.sgd(c.lr))
    config.optimizer.update(name="sgd", lr=0.5, clip=0.0)
    tx = make_optimizer(config, boxed)
    ones = jax.tree.map(lambda x: jnp.ones(x.shape), nn.meta.unbox(boxed))
    updates, _ = tx.update(ones, tx.init(ones), ones)
    assert {float(x.max()) for x in jax.tree.leaves(updates)} == {-0.5}


def test_its_state_is_sharded_though_it_has_other_shapes_than_the_parameters(config, monkeypatch):
    def adafactor(c, schedule, matrices, decayed):
        return optax.adafactor(c.lr, min_dim_size_to_factor=8)

    monkeypatch.setitem(OPTIMIZERS, "adafactor", adafactor)
    config.optimizer.name = "adafactor"
    config.mesh.update(data=1, fsdp=8)
    run = build(config)
    shapes = {x.shape for x in jax.tree.leaves(run.params)}
    others = [x for x in jax.tree.leaves(run.state.opt_state) if x.shape not in shapes]
    spread = [x for x in others if any(side and side % 8 == 0 for side in x.shape)]
    assert len(spread) > 4
    for x in spread:
        assert 8 * math.prod(x.sharding.shard_shape(x.shape)) == x.size
