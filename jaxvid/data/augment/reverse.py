"""Reversal of time."""

import numpy as np
from ml_collections import ConfigDict

from jaxvid.config import FLAG, key
from jaxvid.data.augment.registry import Sample, augmentation


@augmentation(
    order=30,
    falsifies=("text_bytes", "text", "action"),
    reverse=key(False, FLAG, "play half of the clips backwards"),
)
def reverse(sample: Sample, rng: np.random.Generator, config: ConfigDict) -> Sample:
    """Plays half of the clips backwards."""
    return backwards(sample) if rng.random() < 0.5 else sample


def backwards(sample: Sample) -> Sample:
    """Reverses a clip; its times still rise from 0, with the gaps in reverse order."""
    changed = {name: rows[::-1].copy() for name, rows in sample.items() if np.ndim(rows)}
    changed["time"] = sample["time"][-1] - changed["time"]
    return sample | changed | {k: -changed[k] for k in ("velocity", "action") if k in changed}
