import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvid.build import build
from jaxvid.conditions.low_res import LowRes
from jaxvid.data.pipeline import make_dataset
from jaxvid.data.pixels import to_float
from jaxvid.data.sources import make_source
from jaxvid.data.video import write_video
from jaxvid.diffusion.process import PROCESSES, SIGMA_DATA
from jaxvid.errors import InputError
from tests.conditions.cases import LOW_RES, B, T, network, seen


def test_it_is_the_mean_of_the_very_frames_that_are_shown(config):
    config.conditions.low_res.factor = 4
    config.data.update(size=16, augment=("crop(least=0.5)", "colour"))
    encode = build(config).encode
    batch = make_dataset(make_source(config.data), config.data, encode, seed=0, batch_size=4)[0]
    mean = batch["video"].reshape(4, 4, 4, 4, 4, 4, 3).mean((3, 5))
    video = batch["given"]["low_res"]["video"]
    assert video.dtype == np.uint8
    assert mean.std() > 10
    np.testing.assert_allclose(video, mean, atol=0.5)


@pytest.mark.parametrize("process", PROCESSES)
def test_it_goes_from_itself_to_noise_at_the_scale_of_the_networks_input(process):
    pixels = np.random.default_rng(0).integers(0, 256, (1, 8, 16, 16, 3), np.uint8)
    arrays = {"video": jnp.asarray(pixels)}

    def prepared(level):
        c = dataclasses.replace(LOW_RES, process=process, noise=level)
        out = c.prepare(arrays, jax.random.key(0), training=False)
        again = c.prepare(out, jax.random.key(1), training=False)
        jax.tree.map(np.testing.assert_array_equal, again, out)
        np.testing.assert_array_equal(out["noise"], [level])
        return np.asarray(out["video"])

    clean, noise = prepared(0.0), prepared(1.0)
    scale = 1 / SIGMA_DATA if process == "edm" else 1
    np.testing.assert_allclose(clean, scale * to_float(arrays["video"]), atol=1e-6)
    assert (noise.mean(), noise.std()) == pytest.approx((0, 1), abs=0.03)
    assert abs(np.corrcoef(noise.ravel(), pixels.ravel())[0, 1]) < 0.03


def test_a_video_file_becomes_it_and_a_short_or_missing_one_is_refused(tmp_path):
    c = LowRes(2, size=(16, 16), fps=8.0, process="rectified_flow")
    video = np.random.default_rng(0).integers(0, 256, (5, 1, 1, 3), np.uint8)
    video = np.broadcast_to(video, (5, 8, 8, 3))
    write_video(tmp_path / "a.mp4", video, 8)
    asked = c.parse(str(tmp_path / "a.mp4"), frames=5)["video"]
    assert (asked.shape, asked.dtype) == ((5, 8, 8, 3), np.uint8)
    assert np.abs(asked.astype(int) - video).mean() < 12
    with pytest.raises(InputError, match=r"a\.mp4"):
        c.parse(str(tmp_path / "a.mp4"), frames=9)
    with pytest.raises(InputError, match="cannot be read"):
        c.parse(str(tmp_path / "none.mp4"), frames=2)


def test_in_a_longer_video_it_is_that_of_its_frames_and_stands_still_past_its_end():
    video = np.random.default_rng(0).integers(0, 256, (2, 5, 2, 2, 3), np.uint8)
    part = LOW_RES.window({"video": video}, np.arange(3, 7))["video"]
    np.testing.assert_array_equal(part, video[:, [3, 4, 4, 4]])


def test_it_enters_as_channels_and_its_level_reaches_every_frame():
    apply, params = network(LOW_RES)
    arrays = seen((LOW_RES,))["low_res"]
    entry = apply(params, {"low_res": arrays})["low_res"]
    np.testing.assert_array_equal(entry.channels, arrays["video"])
    assert entry.channels.shape == (B, T, 2, 2, 3)
    louder = apply(params, {"low_res": arrays | {"noise": arrays["noise"] + 0.2}})["low_res"]
    assert (np.abs(louder.frame - entry.frame).max(axis=-1) > 1e-3).all()
