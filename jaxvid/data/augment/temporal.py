"""Augmentations of time, which choose other frames of the record; see `data.clips.Shown`."""

import numpy as np
from jaxtyping import Float32

from jaxvid.config import ABOVE_0, UNIT, key
from jaxvid.data.augment.registry import augmentation
from jaxvid.data.clips import Shown, stretch

Times = Float32[np.ndarray, " N"]
CAPTIONS_AND_ACTIONS = ("text_bytes", "text", "action")


@augmentation(p=0.5, temporal=True, falsifies=CAPTIONS_AND_ACTIONS)
def reverse(shown: Shown, time: Times, rng: np.random.Generator) -> Shown:
    """Plays a clip backwards; its times still rise from 0, with the gaps in reverse order."""
    index = shown.index[0] + shown.index[-1] - shown.index
    return Shown(index, time[index[0]] - time[index], -shown.rate[::-1])


@augmentation(
    temporal=True,
    falsifies=("action",),
    slowest=key(0.5, ABOVE_0, "slowest speed; 1 is that of the record"),
    fastest=key(2.0, ABOVE_0, "fastest speed"),
)
def speed(
    shown: Shown, time: Times, rng: np.random.Generator, slowest: float, fastest: float
) -> Shown:
    """Plays a clip faster, as far as the record reaches, or slower; its times do not change."""
    span = np.ptp(shown.index)
    fastest = min(fastest, (len(time) - 1) / max(span, 1))
    chosen = np.exp(rng.uniform(*np.log([min(slowest, fastest), fastest])))
    steps = np.rint(chosen * (shown.index - shown.index.min())).astype(int)
    start = min(shown.index.min(), len(time) - 1 - steps.max())
    return Shown(start + steps, shown.time, shown.rate * np.float32(chosen))


@augmentation(temporal=True, share=key(0.2, UNIT, "share of the frames that are left out"))
def drop(shown: Shown, time: Times, rng: np.random.Generator, share: float) -> Shown:
    """Leaves out frames, and goes on with later ones; their times are true."""
    steps = np.diff(shown.index)
    longer = np.where(rng.random(len(steps)) < share, 2, 1) * steps
    index = shown.index[0] + np.concatenate([[0], np.cumsum(longer)])
    if index.min() < 0 or index.max() >= len(time):
        return shown
    return Shown(index, stretch(shown.time, time[shown.index], time[index]), shown.rate)


@augmentation(
    p=0.2, temporal=True, falsifies=("action",),
    longest=key(0.5, UNIT, "longest pause, as a share of the clip"),
)  # fmt: skip
def pause(shown: Shown, time: Times, rng: np.random.Generator, longest: float) -> Shown:
    """Holds a frame for a while, then goes on from it; what follows comes later."""
    count = len(shown.index)
    length = int(rng.integers(1, max(1, int(longest * count)) + 1))
    first = int(rng.integers(count))
    position = np.arange(count)
    held = np.where(position < first, position, np.maximum(first, position - length))
    still = (position >= first) & (position < first + length)
    return Shown(shown.index[held], shown.time, np.where(still, np.float32(0), shown.rate[held]))
