import jax
import numpy as np
import pytest

from jaxvid.parallel.mesh import make_mesh
from jaxvid.sampling import draw as sampling
from jaxvid.sampling.tasks import observed_frames
from jaxvid.training.optimizer import make_optimizer
from jaxvid.training.state import make_init, make_network


@pytest.fixture
def params(config, one_device_mesh):
    init, _ = make_init(config, make_network(config), make_optimizer(config), one_device_mesh)
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: x + 0.1 * rng.normal(size=x.shape).astype(x.dtype), init().params)


def draw(config, params, clips, mesh, observed):
    with jax.set_mesh(mesh):
        sampler = sampling.make_sampler(config, make_network(config), mesh, observed)
        return np.asarray(sampler(params, jax.random.key(1), clips))


@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
def test_observed_frames_come_back_to_the_bit_and_decide_the_others_unless_they_are_all_noise(
    config, params, batch, one_device_mesh, level
):
    config.sampler.observed_noise = level
    observed = observed_frames("predict", config.data.frames, 2)
    videos = draw(config, params, batch, one_device_mesh, observed)
    np.testing.assert_array_equal(videos[:, :2], batch["video"][:, :2])
    other = batch | {"video": 255 - batch["video"]}
    changed = draw(config, params, other, one_device_mesh, observed)
    assert (changed[:, 2:] != videos[:, 2:]).any() == (level < 1)


def test_eight_devices_draw_what_one_draws(config, params, batch, one_device_mesh):
    config.mesh.data = 8
    nothing = observed_frames("generate", config.data.frames, 1)
    alone = draw(config, params, batch, one_device_mesh, nothing)
    params, batch = jax.device_get((params, batch))
    together = draw(config, params, batch, make_mesh(config.mesh), nothing)
    # A level of rounding may fall to either side.
    assert np.abs(alone.astype(int) - together).max() <= 1


def test_any_condition_can_be_guided_by(config):
    config.model.labels, config.sampler.cfg_scale = 0, 2.0
    assert sampling.guidance_scale(config) == 1
    for name, value in (("text_length", 8), ("action_dim", 2), ("low_res", 2)):
        config.data[name] = value
        assert sampling.guidance_scale(config) == 2
        config.data[name] = 0


def test_as_many_clips_as_divide_over_the_mesh_are_made(config):
    config.mesh.data = 8
    assert len(sampling.blank_clips(config, 9, make_mesh(config.mesh))["label"]) == 16
