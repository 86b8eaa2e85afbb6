"""Random changes to a sampled clip: the same for all its frames, and the truth follows.

A sample is what `jaxvid.data.clips.sample_clip` returns. Only `video`, `time`, `caption` and the
arrays with a row per frame are changed; of those, `position` holds (x, y) in [0,1] image
coordinates and `action` a velocity, (x, y) in sides of the picture per second.
"""

import re

import cv2
import numpy as np

from jaxvid.config import FLAG, SCALE, UNIT, declare, key

Sample = dict[str, np.ndarray]


declare(
    "data",
    flip=key(False, FLAG, "mirror half of the clips"),
    crop=key(1.0, SCALE, "smallest side of the window that is cut out; 1 is off"),
    reverse=key(False, FLAG, "play half of the clips backwards"),
    brightness=key(0.0, UNIT, "largest shift of the brightness"),
    contrast=key(0.0, UNIT, "largest relative change of the contrast"),
)

_SIDES = re.compile(r"\b(left|right)(?=\b|most|ward)", re.IGNORECASE)


def augment(
    sample: Sample,
    rng: np.random.Generator,
    *,
    flip: bool = False,
    crop: float = 1.0,
    reverse: bool = False,
    brightness: float = 0.0,
    contrast: float = 0.0,
) -> Sample:
    """Draws and applies each change; one at its default draws nothing and changes nothing.

    Args:
      sample: `video` uint8 [T,H,W,3] and what goes with it.
      rng: the record's own generator.
      flip: mirror half of the clips, and exchange left and right in their captions.
      crop: smallest side of the window that is cut out, as a fraction of the picture's, in (0,1].
      reverse: play half of the clips backwards.
      brightness: largest shift, as a fraction of the range of values.
      contrast: largest relative change of the distance to the clip's mean value.
    """
    if flip and rng.random() < 0.5:
        sample = mirror(sample)
    if crop < 1:
        side = rng.uniform(crop, 1)
        sample = window(sample, side, *rng.uniform(0, 1, 2))
    if reverse and rng.random() < 0.5:
        sample = backwards(sample)
    if brightness or contrast:
        shift = rng.uniform(-brightness, brightness)
        sample = relight(sample, shift, 1 + rng.uniform(-contrast, contrast))
    return sample


def mirror(sample: Sample) -> Sample:
    """Left becomes right, in the caption too."""
    changed = {"video": np.ascontiguousarray(sample["video"][:, :, ::-1])}
    if "position" in sample:
        changed["position"] = sample["position"] * np.float32([-1, 1]) + np.float32([1, 0])
    if "action" in sample:
        changed["action"] = sample["action"] * np.float32([-1, 1])
    if "caption" in sample:
        changed["caption"] = np.array(_SIDES.sub(_other_side, str(sample["caption"])))
    return sample | changed


def window(sample: Sample, side: float, left: float, top: float) -> Sample:
    """Cuts out a window and enlarges it to the old size; positions outside it leave [0,1].

    Args:
      sample: the clip.
      side: of the window, as a fraction of the picture's.
      left: where the window lies in the room it has: 0 is the left edge, 1 the right.
      top: the same downwards.
    """
    height, width = sample["video"].shape[1:3]
    size = np.maximum(np.rint(np.array([width, height]) * side), 1).astype(int)
    x, y = np.rint((np.array([width, height]) - size) * [left, top]).astype(int)
    cut = sample["video"][:, y : y + size[1], x : x + size[0]]
    resized = [cv2.resize(frame, (width, height), interpolation=cv2.INTER_LINEAR) for frame in cut]
    changed = {"video": np.stack(resized)}
    if "position" in sample:
        pixels = sample["position"] * np.float32([width, height])
        changed["position"] = (pixels - np.float32([x, y])) / size.astype(np.float32)
    if "action" in sample:
        changed["action"] = sample["action"] * np.float32([width, height] / size)
    return sample | changed


def backwards(sample: Sample) -> Sample:
    """Plays the clip from its end: time still rises from 0, by the same gaps in reverse order."""
    changed = {name: rows[::-1].copy() for name, rows in sample.items() if np.ndim(rows)}
    changed["time"] = sample["time"][-1] - changed["time"]
    if "action" in sample:
        changed["action"] = -changed["action"]
    return sample | changed


def relight(sample: Sample, brightness: float, contrast: float) -> Sample:
    """Scales the distance to the clip's mean by `contrast`, then adds `brightness` (1 = white)."""
    mean = sample["video"].mean()
    table = mean + contrast * (np.arange(256) - mean) + 255 * brightness
    return sample | {"video": np.rint(table).clip(0, 255).astype(np.uint8)[sample["video"]]}


def _other_side(match: re.Match[str]) -> str:
    word = match.group()
    other = "right" if word.lower() == "left" else "left"
    return other.capitalize() if word[0].isupper() else other
