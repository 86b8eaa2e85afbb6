import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvid.data.pixels import to_condition, to_float
from jaxvid.diffusion.process import PROCESSES, SIGMA_DATA


@pytest.mark.parametrize("process", PROCESSES)
def test_low_resolution_video_goes_from_itself_to_noise_at_the_scale_of_the_input(config, process):
    config.diffusion.process = process
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 16, 16, 3), np.uint8)
    batch, level = {"low_res": jnp.asarray(pixels)}, jnp.array([0.0, 1.0])
    condition = to_condition(config, batch, level, jax.random.key(0))
    np.testing.assert_array_equal(condition.low_res_noise, [0, 1])
    clean, noise = np.asarray(condition.low_res)
    scale = 1 / SIGMA_DATA if process == "edm" else 1
    np.testing.assert_allclose(clean, scale * to_float(batch["low_res"])[0], atol=1e-6)
    assert (noise.mean(), noise.std()) == pytest.approx((0, 1), abs=0.03)
    assert abs(np.corrcoef(noise.ravel(), pixels[1].ravel())[0, 1]) < 0.03


def test_what_is_not_low_resolution_video_stays_as_it_is(config, batch):
    condition = to_condition(config, batch, jnp.zeros(len(batch["label"])), jax.random.key(0))
    np.testing.assert_array_equal(condition.label, batch["label"])
    assert condition.low_res is None is condition.low_res_noise
