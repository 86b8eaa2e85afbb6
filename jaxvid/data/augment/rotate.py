"""Small rotations, enlarged so that no corner is empty."""

import math

import cv2
import numpy as np

from jaxvid.config import Rule, is_number, key
from jaxvid.data.augment.registry import Sample, augmentation, move


@augmentation(
    falsifies=("action",),
    degrees=key(
        10.0,
        Rule("a number above 0 and at most 45", lambda v: is_number(v) and 0 < v <= 45),
        "largest angle",
    ),
)
def rotate(sample: Sample, rng: np.random.Generator, degrees: float) -> Sample:
    """Turns a clip about its middle."""
    return turn(sample, math.radians(rng.uniform(-degrees, degrees)))


def turn(sample: Sample, angle: float) -> Sample:
    """Turns a clip clockwise by an angle in radians, and enlarges it to fill the frame."""
    height, width = sample["video"].shape[1:3]
    aspect = max(width / height, height / width)
    scale = abs(math.cos(angle)) + aspect * abs(math.sin(angle))
    cos, sin = scale * math.cos(angle), scale * math.sin(angle)
    middle = np.array([(width - 1) / 2, (height - 1) / 2])
    linear = np.array([[cos, -sin], [sin, cos]])
    pixels = np.column_stack([linear, middle - linear @ middle])
    turned = [
        cv2.warpAffine(frame, pixels, (width, height), borderMode=cv2.BORDER_REPLICATE)
        for frame in sample["video"]
    ]
    sides = np.diag([width, height])
    change = np.eye(3)
    change[:2, :2] = np.linalg.inv(sides) @ linear @ sides
    change[:2, 2] = 0.5 - change[:2, :2] @ [0.5, 0.5]
    return sample | {"video": np.stack(turned)} | move(sample, change)
