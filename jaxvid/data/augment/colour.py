"""Changes of light and colour, the same in all frames."""

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from jaxvid.config import UNIT, key
from jaxvid.data.augment.registry import Sample, augmentation

LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601


@augmentation(
    brightness=key(0.1, UNIT, "largest shift of the brightness, as a share of white"),
    contrast=key(0.1, UNIT, "largest relative change of the contrast"),
    saturation=key(0.1, UNIT, "largest relative change of the saturation"),
)
def colour(
    sample: Sample,
    rng: np.random.Generator,
    brightness: float,
    contrast: float,
    saturation: float,
) -> Sample:
    """Changes brightness, contrast and saturation, which keep the names of colours."""
    shift, scale, vivid = rng.uniform(-1, 1, 3) * [brightness, contrast, saturation]
    sample = relight(sample, shift, 1 + scale)
    grey = np.tile(LUMA, (3, 1))
    return mix(sample, grey + (1 + vivid) * (np.eye(3) - grey)) if vivid else sample


@augmentation(p=0.1, in_worlds=("text", "text_bytes"))
def grey(sample: Sample, rng: np.random.Generator) -> Sample:
    """Takes the colour away."""
    return mix(sample, np.tile(LUMA, (3, 1)))


@augmentation(
    in_worlds=("text", "text_bytes"),
    most=key(0.5, UNIT, "largest turn of the hue, as a share of half a circle"),
)
def hue(sample: Sample, rng: np.random.Generator, most: float) -> Sample:
    """Turns the colours around the grey axis."""
    angle = np.pi * rng.uniform(-most, most)
    axis = np.ones((3, 3)) / 3
    across = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / np.sqrt(3)
    return mix(sample, axis + np.cos(angle) * (np.eye(3) - axis) + np.sin(angle) * across)


def relight(sample: Sample, brightness: float, contrast: float) -> Sample:
    """Scales the distance to the clip's mean by `contrast`, then adds `brightness` (1 = white)."""
    rows = _rows(sample)
    mean = np.mean(cv2.mean(rows)[:3])
    table = mean + contrast * (np.arange(256) - mean) + 255 * brightness
    lit = cv2.LUT(rows, np.rint(table).clip(0, 255).astype(np.uint8))
    return sample | {"video": lit.reshape(sample["video"].shape)}


def mix(sample: Sample, matrix: Float[np.ndarray, "3 3"]) -> Sample:
    """Multiplies the RGB of every pixel by a matrix."""
    mixed = cv2.transform(_rows(sample), matrix)
    return sample | {"video": mixed.reshape(sample["video"].shape)}


def _rows(sample: Sample) -> UInt8[np.ndarray, "rows W 3"]:
    """The frames one below another, as one image."""
    video = np.ascontiguousarray(sample["video"])
    return video.reshape(-1, *video.shape[2:])
