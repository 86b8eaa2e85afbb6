"""A clip: a video whose frames are decoded on demand."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float16, Float32, Int, UInt8

from jaxvid.config import ABOVE_0, POSITIVE, Rule, declare, is_sequence, key
from jaxvid.errors import InputError

declare(
    "data",
    frames=key(16, POSITIVE, "frames of a training clip"),
    size=key(32, POSITIVE, "height and width in pixels"),
    fps=key(8.0, ABOVE_0, "frames per second"),
    strides=key(
        (1,),
        Rule("integers of at least 1", lambda v: bool(v) and is_sequence(v, POSITIVE.holds)),
        "strides between frames; each clip draws one of them",
    ),
)


@dataclasses.dataclass(frozen=True)
class Clip:
    """One record of a source: N frames that are not decoded yet.

    Attributes:
      time: presentation times in seconds, increasing.
      decode: maps frame indices in [0, N) to those frames, and decodes no others.
      label: class index, or -1 for none.
      truth: other arrays with one row per frame, such as ground-truth positions.
      caption: text that describes the video, or "" for none.
      text: the caption's embedding, n tokens from an outside encoder, or None.
      action: the action at each frame, A numbers, or None.
    """

    time: Float32[np.ndarray, " N"]
    decode: Callable[[Int[np.ndarray, " T"]], UInt8[np.ndarray, "T H W 3"]]
    label: int = -1
    truth: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    caption: str = ""
    text: Float16[np.ndarray, "n E"] | None = None
    action: Float32[np.ndarray, "N A"] | None = None


def span(frames: int, stride: int) -> int:
    """Number of frames of a record that a sample of `frames` frames at `stride` spans."""
    return (frames - 1) * stride + 1


def sample_clip(
    clip: Clip, frames: int, strides: Sequence[int], rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Draws a stride that fits and a start, and decodes only the sampled frames.

    Returns:
      `video` uint8 [T,H,W,3]; `time` float32 [T], seconds from the first sampled frame; `label`
      int32 []; `caption`, an array of one str; the sampled rows of `action`, if it is not None, and
      of every array in `clip.truth`.

    Raises:
      InputError: the clip is too short for the smallest stride.
    """
    fitting = [stride for stride in strides if span(frames, stride) <= len(clip.time)]
    if not fitting:
        raise InputError(
            f"a clip of {len(clip.time)} frames is too short for data.frames={frames} at stride "
            f"{min(strides)}, which needs {span(frames, min(strides))}: lower data.frames or "
            "data.strides, or prepare longer clips"
        )
    stride = int(rng.choice(fitting))
    start = rng.integers(len(clip.time) - span(frames, stride) + 1)
    index = start + stride * np.arange(frames)
    per_frame = dict(clip.truth)
    if clip.action is not None:
        per_frame["action"] = clip.action
    return {
        "video": clip.decode(index),
        "time": clip.time[index] - clip.time[start],
        "label": np.array(clip.label, np.int32),
        "caption": np.array(clip.caption),
        **{name: rows[index] for name, rows in per_frame.items()},
    }
