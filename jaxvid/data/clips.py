"""A clip: a video whose frames are decoded on demand."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float16, Float32, Int, UInt8
from ml_collections import ConfigDict

from jaxvid.config import (
    ABOVE_0,
    NATURAL,
    POSITIVE,
    TEXT,
    Rule,
    declare,
    is_sequence,
    key,
    one_of,
    requirement,
)
from jaxvid.errors import InputError
from jaxvid.hierarchy.plan import KINDS, by_importance, kind_of, make_plan

declare(
    "data",
    frames=key(16, POSITIVE, "frames of a training clip"),
    size=key(32, POSITIVE, "height in pixels, and width unless data.width says another"),
    width=key(0, NATURAL, "width in pixels; 0 is the height"),
    fps=key(8.0, ABOVE_0, "frames per second"),
    strides=key(
        (1,),
        Rule("integers of at least 1", lambda v: bool(v) and is_sequence(v, POSITIVE.holds)),
        "strides between frames; each clip draws one of them",
    ),
    start=key(
        "random",
        one_of(("random", "first")),
        "where a clip begins in a longer video: anywhere, or at its first frame",
    ),
    plans=key(
        (),
        Rule(
            'plans of long videos with their lengths, such as ("key_frames(frames=64)",)',
            lambda v: is_sequence(v, TEXT.holds),
        ),
        "plans from whose calls each clip draws the times of its frames, in place of strides; see "
        "docs/hierarchy.md",
    ),
)


def frame_shape(config: ConfigDict) -> tuple[int, int]:
    """Height and width in pixels, of a `data` section."""
    return config.size, config.width or config.size


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
      scene: maps frame indices to a tree of arrays, of the same shapes for all clips, from which
        the devices can paint those frames (`sources.registry.source`); or None.
      exact: maps frame indices to their presentation times in seconds, where only reading the
        frames tells them, and `time` is near them; or None.
    """

    time: Float32[np.ndarray, " N"]
    decode: Callable[[Int[np.ndarray, " T"]], UInt8[np.ndarray, "T H W 3"]]
    label: int = -1
    truth: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    caption: str = ""
    text: Float16[np.ndarray, "n E"] | None = None
    action: Float32[np.ndarray, "N A"] | None = None
    scene: Callable[[Int[np.ndarray, " T"]], Mapping[str, Any]] | None = None
    exact: Callable[[Int[np.ndarray, " T"]], Float[np.ndarray, " T"]] | None = None


class Window(NamedTuple):
    """Which frames of a record a training clip has.

    Attributes:
      frames: T frames in order, of which the first is 0.
      observed: those that a call of a plan sees; none without a plan.
      kind: what the call is for, see `hierarchy.plan.kind_of`.
    """

    frames: Int[np.ndarray, " T"]
    observed: Bool[np.ndarray, " T"]
    kind: str

    @property
    def span(self) -> int:
        """The number of frames that a record must have."""
        return int(self.frames[-1]) + 1


def windows(config: ConfigDict) -> tuple[tuple[Window, ...], ...]:
    """The windows that clips draw from, for a `data` section: of each plan, or of each stride.

    A plan has one for each of its calls that differs from the others. Raises InputError for a plan
    that is not valid.
    """
    return _windows(config.frames, tuple(config.strides), tuple(config.plans))


@functools.lru_cache
def _windows(
    frames: int, strides: tuple[int, ...], plans: tuple[str, ...]
) -> tuple[tuple[Window, ...], ...]:
    if not plans:
        nothing = np.zeros(frames, bool)
        return tuple(
            (Window(stride * np.arange(frames), nothing, kind_of(nothing)),) for stride in strides
        )
    different = []
    for plan in (make_plan(text, frames) for text in plans):
        calls = [call for call in plan.calls if len(call.frames) == frames]
        calls = {(tuple(c.frames - c.frames[0]), tuple(c.observed), c.kind) for c in calls}
        different.append(
            tuple(Window(np.array(i), np.array(seen), kind) for i, seen, kind in sorted(calls))
        )
    return tuple(different)


def kind_at(config: ConfigDict, seed: int, step: int) -> str:
    """What the calls are for whose windows all clips of a step have, one of `hierarchy.plan.KINDS`.

    Over many steps, windows are as frequent as if each clip drew its own.
    """
    of_plan = [[window.kind for window in group] for group in windows(config)]
    shares = [np.mean([kinds.count(kind) / len(kinds) for kinds in of_plan]) for kind in KINDS]
    return str(np.random.default_rng((seed, step)).choice(KINDS, p=shares))


def longest(config: ConfigDict) -> int:
    """The number of frames that fits all windows of a `data` section."""
    return max(window.span for group in windows(config) for window in group)


def shortest(config: ConfigDict) -> int:
    """The number of frames that fits its shortest window."""
    return min(window.span for group in windows(config) for window in group)


class Shown(NamedTuple):
    """Which frames of a record a clip shows, and when.

    Attributes:
      index: the frames.
      time: when they are shown, in seconds from the first.
      rate: how fast the record passes then: 1 as it is, 0 in a pause, below 0 backwards.
    """

    index: Int[np.ndarray, " T"]
    time: Float32[np.ndarray, " T"]
    rate: Float32[np.ndarray, " T"]


def stretch(
    time: Float32[np.ndarray, " T"],
    before: Float[np.ndarray, " T"],
    after: Float[np.ndarray, " T"],
) -> Float32[np.ndarray, " T"]:
    """The times of `Shown` whose frames change from the times `before` in the record to `after`.

    Gaps grow as those in the record do, so that a faster, reversed or paused clip stays so.
    """
    before, after = (np.abs(np.diff(times.astype(float))) for times in (before, after))
    gaps = np.diff(time) * np.where(before, after / np.where(before, before, 1), 1)
    return np.concatenate([[0], np.cumsum(gaps)]).astype(np.float32)


def sample_clip(
    clip: Clip,
    config: ConfigDict,
    rng: np.random.Generator,
    kind: str | None = None,
    retime: Sequence[Callable[[Shown, np.ndarray, np.random.Generator], Shown]] = (),
    as_scene: bool = False,
) -> dict[str, Any]:
    """Draws a window that fits and a start, and decodes only the sampled frames.

    First a stride or plan is drawn, then one of its windows. With a `kind`, this is repeated until
    the window is of that kind; if none is that fits, others will do. Then `retime`, the temporal
    augmentations, change which frames are shown. With a `kind`, frames are by importance
    (`hierarchy.plan.by_importance`), not in order.

    Returns:
      `video` uint8 [T,H,W,3], or with `as_scene` what `clip.scene` gives, `scene`; `time` float32
      [T], seconds from the first sampled frame; `observed` bool [T], what the call of a plan sees;
      `label` int32 []; `caption`, an array of one str; the sampled rows of `action`, if it is not
      None, and of every array in `clip.truth`.

    Raises:
      InputError: the clip is too short for all windows.
    """
    fitting = [[w for w in group if w.span <= len(clip.time)] for group in windows(config)]
    fitting = [group for group in fitting if group]
    if not fitting:
        raise InputError(
            f"a clip of {len(clip.time)} frames is too short for data.frames={config.frames} at "
            f"the smallest of data.strides, or of the spacings of data.plans, which needs "
            f"{shortest(config)}: lower them, or prepare longer clips"
        )
    wanted = kind in {window.kind for group in fitting for window in group}
    while True:
        group = fitting[rng.integers(len(fitting))]
        window = group[rng.integers(len(group))]
        if not wanted or window.kind == kind:
            break
    last = len(clip.time) - window.span if config.start == "random" else 0
    start = rng.integers(last + 1)
    index = start + window.frames
    shown = Shown(index, clip.time[index] - clip.time[start], np.ones(len(index), np.float32))
    for change in retime:
        shown = change(shown, clip.time, rng)
    if clip.exact:
        exact = clip.exact(shown.index)
        shown = shown._replace(time=stretch(shown.time, clip.time[shown.index], exact))
    observed = window.observed
    if kind:
        order = by_importance(shown.time, observed)
        shown, observed = Shown(*(rows[order] for rows in shown)), observed[order]
    per_frame = dict(clip.truth)
    if clip.action is not None:
        per_frame["action"] = clip.action
    rows = {name: values[shown.index] for name, values in per_frame.items()}
    for name in rows.keys() & {"velocity", "action"} if retime else ():
        rows[name] = rows[name] * shown.rate.reshape(-1, *[1] * (rows[name].ndim - 1))
    pixels = {"scene": clip.scene(shown.index)} if as_scene else {"video": clip.decode(shown.index)}
    return pixels | {
        "time": shown.time,
        "observed": observed,
        "label": np.array(clip.label, np.int32),
        "caption": np.array(clip.caption),
        **rows,
    }


@requirement
def _check_plans(config: ConfigDict) -> None:
    try:
        windows(config.data)
    except InputError as error:
        raise InputError(f"config.data.plans: {error}") from None
    if config.tasks.plan and not config.data.plans:
        raise InputError(
            f"config.tasks.plan={config.tasks.plan:g}: these clips observe what a call of a plan "
            'sees; name one, such as config.data.plans=("key_frames(frames=64)",)'
        )
