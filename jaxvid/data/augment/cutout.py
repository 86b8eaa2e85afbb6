"""Cutout: a square of the mean colour in all frames (DeVries & Taylor 2017, arXiv 1708.04552)."""

import cv2
import numpy as np

from jaxvid.config import SCALE, key
from jaxvid.data.augment.registry import Sample, augmentation


@augmentation(p=0.2, most=key(0.4, SCALE, "largest side, as a share of the frame's"))
def cutout(sample: Sample, rng: np.random.Generator, most: float) -> Sample:
    """Hides a square, which may reach beyond the frame."""
    height, width = sample["video"].shape[1:3]
    half = rng.uniform(0, most) / 2 * np.array([height, width])
    centre = rng.uniform(0, 1, 2) * [height, width]
    top, left = np.rint((centre - half).clip(0)).astype(int)
    bottom, right = np.rint(centre + half).astype(int)
    video = sample["video"].copy()
    mean = cv2.mean(video.reshape(-1, *video.shape[2:]))[:3]
    video[:, top:bottom, left:right] = np.rint(mean).astype(np.uint8)
    return sample | {"video": video}
