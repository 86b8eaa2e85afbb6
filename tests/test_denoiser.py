import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvid.build import build
from jaxvid.denoiser import Denoiser, make_denoiser
from jaxvid.diffusion.process import PREDICTIONS, PROCESSES, convert, input_scale
from tests import tiny


@pytest.fixture(scope="module")
def trained():
    """A denoiser, its parameters, and noisy frames with all that goes with them."""
    config = tiny.get_config()
    config.conditions.label.classes = 0
    config.model.update(blocks="space mlp", depth=1)
    keys = jax.random.split(jax.random.key(0), 2)
    x_t = jax.random.normal(keys[0], (2, 4, 8, 8, 3))
    noise = jax.random.uniform(keys[1], (2, 4), minval=0.2, maxval=0.8)
    time = jnp.tile(jnp.arange(4.0) / 8, (2, 1))
    run = build(config, jax.devices()[:1])
    return run.denoiser, {"params": tiny.trained(run)}, (x_t, noise, time, {})


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_clean_frames_are_those_that_the_prediction_stands_for(trained, prediction):
    denoiser, variables, inputs = trained
    denoiser = Denoiser(denoiser.net, denoiser.process, prediction)
    x0, output = (jax.jit(f)(variables, *inputs) for f in (denoiser.x0, denoiser.predict))
    x_t, noise, *_ = inputs
    assert np.abs(output).max() > 0.1
    np.testing.assert_allclose(
        convert(denoiser.process, x0, x_t, noise, "x0", prediction), output, atol=1e-3
    )


def test_the_network_sees_frames_at_the_scale_of_the_process(trained):
    """Of "edm", whose noise has a deviation of up to 80, as of a process at unit scale."""
    denoiser, variables, (x_t, noise, *rest) = trained
    edm = Denoiser(denoiser.net, PROCESSES["edm"], "x0")
    scale = input_scale(edm.process, noise)
    assert np.ptp(scale) > 0.1
    expected = jax.jit(denoiser.predict)(variables, x_t * scale, noise, *rest)
    found = jax.jit(edm.predict)(variables, x_t, noise, *rest)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_config_names_the_network_the_process_and_the_prediction():
    config = tiny.get_config()
    config.diffusion.update(process="vp_linear", prediction="v")
    config.model.dtype = "bfloat16"
    denoiser = make_denoiser(config)
    assert (denoiser.process, denoiser.prediction) == (PROCESSES["vp_linear"], "v")
    assert (denoiser.net.width, denoiser.net.patch) == (16, (1, 4, 4))
    assert denoiser.net.dtype == jnp.bfloat16
    assert [c.name for c in denoiser.conditions] == ["label"]
