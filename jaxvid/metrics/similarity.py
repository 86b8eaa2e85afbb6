"""PSNR and SSIM of predicted frames against the true ones."""

import cv2
import numpy as np
from jaxtyping import Float64

from jaxvid.errors import InputError
from jaxvid.metrics.metric import Clips, paired

Scores = Float64[np.ndarray, "N T"]

PEAK = 255.0
BEST_PSNR = 60.0  # dB
WINDOW = 11  # pixels


def psnr(drawn: Clips, real: Clips) -> Scores:
    """The peak signal-to-noise ratio of each frame of `drawn`, in dB; higher is better.

        10 log10(255^2 / MSE)

    MSE is the mean square of the differences over the pixels and channels of the frame. Equal
    frames would have an infinite ratio, and so would every mean that includes one. The highest
    score is therefore 60 dB, as in libvmaf: a difference of 1 in one value of 15.
    """
    pairs = zip(drawn, real, strict=True)
    mse = np.array([np.square(x.astype(np.float64) - y).mean(axis=(1, 2, 3)) for x, y in pairs])
    return 10 * np.log10(PEAK**2 / np.maximum(mse, PEAK**2 / 10 ** (BEST_PSNR / 10)))


def ssim(drawn: Clips, real: Clips) -> Scores:
    """The structural similarity of each frame of `drawn`; 1 for equal frames, higher is better.

        (2 mx my + C1) (2 sxy + C2) / ((mx^2 + my^2 + C1) (sx^2 + sy^2 + C2))

    (Wang et al. 2004), averaged over channels and pixels. The means m, variances s^2 and covariance
    are those in a Gaussian window of 11x11 pixels and a standard deviation of 1.5. Pixels whose
    window would leave the frame do not count. C1 = (0.01 255)^2 and C2 = (0.03 255)^2. Raises
    `InputError` for frames smaller than the window.
    """
    height, width = real.shape[2:4]
    if min(height, width) < WINDOW:
        raise InputError(
            f"SSIM of {height}x{width} pixels: its window is {WINDOW}x{WINDOW}; use larger frames "
            "or another metric"
        )
    pairs = zip(drawn, real, strict=True)
    return np.array([[_ssim(x, y) for x, y in zip(*pair, strict=True)] for pair in pairs])


def _ssim(x, y) -> float:
    x, y = x.astype(np.float64), y.astype(np.float64)
    edge = WINDOW // 2
    mx, my, mxx, myy, mxy = (
        cv2.GaussianBlur(image, (WINDOW, WINDOW), 1.5)[edge:-edge, edge:-edge]
        for image in (x, y, x * x, y * y, x * y)
    )
    c1, c2 = (0.01 * PEAK) ** 2, (0.03 * PEAK) ** 2
    light = (2 * mx * my + c1) / (mx**2 + my**2 + c1)
    structure = (2 * (mxy - mx * my) + c2) / (mxx - mx**2 + myy - my**2 + c2)
    return (light * structure).mean()


paired("psnr", version="1", better="higher")(lambda mesh: psnr)
paired("ssim", version="1", better="higher", size=WINDOW)(lambda mesh: ssim)
