"""Horizontal flips."""

import re

import numpy as np

from jaxvid.data.augment.registry import Sample, augmentation, move

MIRROR = np.array([[-1.0, 0, 1], [0, 1, 0], [0, 0, 1]])
_SIDES = re.compile(r"\b(left|right)(?=\b|most|ward)", re.IGNORECASE)


@augmentation(p=0.5, falsifies=("text", "action"))
def flip(sample: Sample, rng: np.random.Generator) -> Sample:
    """Mirrors a clip."""
    return mirror(sample)


def mirror(sample: Sample) -> Sample:
    """Mirrors a clip from left to right, and swaps "left" and "right" in its caption."""
    changed = {"video": np.ascontiguousarray(sample["video"][:, :, ::-1])}
    changed |= move(sample, MIRROR)
    if "caption" in sample:
        changed["caption"] = np.array(_SIDES.sub(_other_side, str(sample["caption"])))
    return sample | changed


def _other_side(match: re.Match[str]) -> str:
    word = match.group()
    other = "right" if word.lower() == "left" else "left"
    return other.capitalize() if word[0].isupper() else other
