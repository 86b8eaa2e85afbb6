"""Blur, as of a lens out of focus."""

import cv2
import numpy as np

from jaxvid.config import ABOVE_0, key
from jaxvid.data.augment.registry import Sample, augmentation


@augmentation(
    p=0.2, most=key(0.03, ABOVE_0, "largest standard deviation, as a share of the frame's side")
)
def blur(sample: Sample, rng: np.random.Generator, most: float) -> Sample:
    """Blurs a clip by a Gaussian filter."""
    sigma = rng.uniform(0, most) * min(sample["video"].shape[1:3])
    return defocus(sample, sigma)


def defocus(sample: Sample, sigma: float) -> Sample:
    """Blurs by a standard deviation in pixels."""
    if sigma < 0.05:
        return sample
    blurred = [
        cv2.GaussianBlur(frame, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)
        for frame in sample["video"]
    ]
    return sample | {"video": np.stack(blurred)}
