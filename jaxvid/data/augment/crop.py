"""Random crops, enlarged to the size of the clip."""

import cv2
import numpy as np

from jaxvid.config import SCALE, key
from jaxvid.data.augment.registry import Sample, augmentation, move


@augmentation(
    falsifies=("action",),
    least=key(0.8, SCALE, "smallest side of the window, as a share of the frame's"),
)
def crop(sample: Sample, rng: np.random.Generator, least: float) -> Sample:
    """Crops to a window of random size and position, and enlarges it."""
    return window(sample, rng.uniform(least, 1), *rng.uniform(0, 1, 2))


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
    change = np.diag([*np.array([width, height]) / size, 1])
    change[:2, 2] = -np.array([x, y]) / size
    return sample | {"video": np.stack(resized)} | move(sample, change)
