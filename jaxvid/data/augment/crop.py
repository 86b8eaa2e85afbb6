"""Random crops, enlarged to the size of the clip."""

import cv2
import numpy as np
from ml_collections import ConfigDict

from jaxvid.config import SCALE, key
from jaxvid.data.augment.registry import Sample, augmentation, move


@augmentation(
    order=20,
    falsifies=("action",),
    crop=key(1.0, SCALE, "smallest side of a random crop, as a share of the frame's; 1 is off"),
)
def crop(sample: Sample, rng: np.random.Generator, config: ConfigDict) -> Sample:
    """Crops every clip to a window of random size and position."""
    side = rng.uniform(config.crop, 1)
    return window(sample, side, *rng.uniform(0, 1, 2))


def window(sample: Sample, side: float, left: float, top: float) -> Sample:
    """Crops to a window and enlarges it to the old size; positions outside it leave [0,1].

    Args:
      sample: the clip.
      side: side of the window, as a share of the frame's.
      left: horizontal position of the window: 0 is the left edge of the frame, 1 the right.
      top: vertical position: 0 is the top edge of the frame, 1 the bottom.
    """
    height, width = sample["video"].shape[1:3]
    size = np.maximum(np.rint(np.array([width, height]) * side), 1).astype(int)
    x, y = np.rint((np.array([width, height]) - size) * [left, top]).astype(int)
    cut = sample["video"][:, y : y + size[1], x : x + size[0]]
    resized = [cv2.resize(frame, (width, height), interpolation=cv2.INTER_LINEAR) for frame in cut]
    scale = np.array([width, height]) / size
    change = np.diag([*scale, 1])
    change[:2, 2] = -np.array([x, y]) / size
    return sample | {"video": np.stack(resized)} | move(sample, change)
