import cv2
import numpy as np
import pytest

from jaxvid.data.sources.synthetic import SyntheticWorld
from jaxvid.errors import InputError
from jaxvid.metrics.similarity import psnr, ssim


def _clips(count=2):
    world = SyntheticWorld(seed=0, frames=3, size=32)
    return np.stack([world[i].decode(np.arange(3)) for i in range(count)])


# From scikit-image 0.26, for the frames p of `drawn` and q of `real`:
#   peak_signal_noise_ratio(q, p, data_range=255)
#   structural_similarity(p, q, gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
#                         data_range=255, channel_axis=-1)
@pytest.mark.parametrize(
    ("score", "expected"),
    [
        (psnr, [[19.953973766325337, 19.74799533359438], [15.545865415818355, 15.0847977891653]]),
        (ssim, [[0.8358598053594325, 0.8330824616514056], [0.6209525653006964, 0.613239515266082]]),
    ],
)
def test_scores_are_those_of_scikit_image(score, expected):
    n, t, y, x, c = np.ogrid[:2, :2, :40, :48, :3]
    real = (3 * x + 5 * y + x * y // 4 + 60 * c + 40 * t + 90 * n) % 256
    drawn = np.maximum(real - (x * y * (c + 1) + 20 * t) % (50 + 40 * n), 0)
    found = score(drawn.astype(np.uint8), real.astype(np.uint8))
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_uniform_frames_have_the_scores_of_the_equations():
    frames = np.zeros((1, 1, 11, 12, 3), np.uint8)
    a, b = 100.0, 103.0
    drawn, real = (frames + np.uint8(grey) for grey in (a, b))
    assert psnr(drawn, real)[0, 0] == pytest.approx(20 * np.log10(255 / 3))
    c1 = 2.55**2  # the variances are 0, so the second factor is 1
    assert ssim(drawn, real)[0, 0] == pytest.approx((2 * a * b + c1) / (a**2 + b**2 + c1))


def test_equal_frames_have_the_best_finite_scores():
    clips = _clips()
    np.testing.assert_array_equal(psnr(clips, clips), np.full((2, 3), 60.0))
    np.testing.assert_allclose(ssim(clips, clips), np.ones((2, 3)), rtol=1e-12)


@pytest.mark.parametrize("score", [psnr, ssim])
def test_more_noise_and_more_blur_are_worse_in_every_frame(score):
    clips = _clips()
    noise = np.random.default_rng(0).normal(size=clips.shape)
    noisy = [np.clip(clips + std * noise, 0, 255).astype(np.uint8) for std in (2, 8, 32)]
    blurred = [
        np.stack([[cv2.GaussianBlur(frame, (0, 0), std) for frame in clip] for clip in clips])
        for std in (0.5, 1, 2)
    ]
    for worse in (noisy, blurred):
        scores = np.stack([score(drawn, clips) for drawn in worse])
        assert (np.diff(scores, axis=0) < 0).all()


def test_frames_smaller_than_the_window_of_ssim_are_refused():
    small = np.zeros((1, 1, 10, 64, 3), np.uint8)
    with pytest.raises(InputError, match=r"10x64.*11x11"):
        ssim(small, small)
