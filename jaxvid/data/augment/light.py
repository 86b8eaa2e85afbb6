"""Brightness and contrast."""

import numpy as np
from ml_collections import ConfigDict

from jaxvid.config import UNIT, key
from jaxvid.data.augment.registry import Sample, augmentation


@augmentation(
    order=40,
    brightness=key(0.0, UNIT, "largest shift of the brightness, as a share of white"),
    contrast=key(0.0, UNIT, "largest relative change of the contrast"),
)
def light(sample: Sample, rng: np.random.Generator, config: ConfigDict) -> Sample:
    """Changes the brightness and the contrast of every clip."""
    shift = rng.uniform(-config.brightness, config.brightness)
    return relight(sample, shift, 1 + rng.uniform(-config.contrast, config.contrast))


def relight(sample: Sample, brightness: float, contrast: float) -> Sample:
    """Scales the distance to the clip's mean by `contrast`, then adds `brightness` (1 = white)."""
    mean = sample["video"].mean()
    table = mean + contrast * (np.arange(256) - mean) + 255 * brightness
    return sample | {"video": np.rint(table).clip(0, 255).astype(np.uint8)[sample["video"]]}
