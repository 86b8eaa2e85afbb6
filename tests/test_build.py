import math

import jax
import numpy as np
import pytest

from jaxvid.build import build, check_training, default_config
from jaxvid.data.pipeline import make_dataset
from jaxvid.data.sources import make_source
from jaxvid.errors import InputError
from jaxvid.parallel import rules


def test_what_is_abstract_is_what_is_made(config):
    config.ema.widths = (0.05, 0.1)
    config.mesh.update(data=2, fsdp=4)
    run = build(config)
    state = run.init()
    assert jax.tree.structure(state) == jax.tree.structure(run.state)
    for made, abstract in zip(jax.tree.leaves(state), jax.tree.leaves(run.state), strict=True):
        assert (made.shape, made.dtype) == (abstract.shape, abstract.dtype)
        assert made.sharding.is_equivalent_to(abstract.sharding, made.ndim)
    assert len(state.profiles) == 2
    for average in (state.ema, *state.profiles):
        jax.tree.map(np.testing.assert_array_equal, average, state.params)


def test_parameters_do_not_depend_on_the_devices(config):
    config.mesh.update(data=1, fsdp=8)
    spread = build(config).init().params
    config.mesh.fsdp = 1
    alone = build(config, jax.devices()[:1]).init().params
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(spread), jax.device_get(alone))
    config.seed = 1
    other = build(config, jax.devices()[:1]).init().params
    kernels = (x["patches"]["kernel"] for x in (alone, other))
    assert np.any(next(kernels) != next(kernels))


def test_each_device_paints_its_own_clips(config):
    config.mesh.update(data=2, fsdp=4)
    run, source = build(config), make_source(config.data)
    pixels, scenes = (
        run.put(
            make_dataset(source, config.data, run.encode, seed=0, batch_size=8, scenes=scenes)[0]
        )
        for scenes in (False, True)
    )
    assert jax.tree.structure(scenes) == jax.tree.structure(pixels)
    assert scenes["video"].sharding == pixels["video"].sharding
    np.testing.assert_allclose(*(np.float32(x["video"]) for x in (scenes, pixels)), atol=1)


def test_sampling_needs_no_optimizer(config):
    """A run whose optimizer came with a plugin that is not there is sampled all the same."""
    config.optimizer.name = "of_another_lab"
    run = build(config)
    shapes = {x.shape for x in jax.tree.leaves(run.params)}
    assert len(shapes) > 3
    assert all(x.sharding.mesh == run.mesh for x in jax.tree.leaves(run.params))
    assert "optimizer" not in vars(run)


@pytest.mark.parametrize(
    ("mesh", "changes", "line"),
    [
        (dict(data=8), dict(batch_size=12), r"batch_size=12 .* multiple of 8$"),
        (dict(data=8), {"optimizer.accumulate": 2}, r"batch_size=8 .* multiple of 16$"),
        (
            dict(data=1, fsdp=8),
            {"model.width": 20},
            r"model\.width=20 .*mesh\.fsdp=8: make",
        ),
        (dict(data=1, tensor=8), {}, r"config\.model\.heads=2 .*mesh\.tensor=8: make"),
        (
            dict(data=1, tensor=3),
            {"model.blocks": "swiglu", "model.heads": 3, "model.width": 30},
            r"config\.mesh\.tensor=3: a side of 40 of .*/down/kernel does not divide",
        ),
        (dict(data=1, context=8), {}, r"config\.mesh\.context=8: it must divide the 4 frames"),
    ],
)
def test_what_does_not_divide_over_the_mesh_is_named(config, mesh, changes, line):
    config.mesh.update(mesh)
    for name, value in changes.items():
        config.update_from_flattened_dict({name: value})
    with pytest.raises(InputError, match=line) as caught:
        check_training(build(config, jax.devices()[: math.prod(mesh.values())]))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("mesh", [dict(data=-1), dict(data=2, fsdp=4), dict(data=4, tensor=2)])
def test_what_divides_is_let_through(config, mesh):
    config.mesh.update(mesh)
    check_training(build(config))
    assert rules.batch_parts(build(config).mesh) in (4, 8)


def test_defaults_are_of_a_config_of_ones_own():
    default_config().seed = 7
    assert default_config().seed == 0
