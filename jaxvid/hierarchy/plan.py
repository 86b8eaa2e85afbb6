"""Plans: which frames of a long video each call of the network draws, and which it sees.

A network that was trained on windows of T frames draws a video of any length in several calls. A
plan is the list of these calls. Frames are numbered from 0; a call whose window reaches beyond the
end of the video draws frames that nobody keeps. The schemes:

    sliding     each call goes on from the last frames, and sees only these
    long_range  the same, and half of what it sees is spread over all earlier frames
    geometric   the same, and what it sees lies 1, 2, 4, 8, … frames back: recent frames are dense
                and far ones sparse (compare FramePack, Zhang & Agrawala 2025, arXiv 2504.12626)
    key_frames  key frames far apart, one window after another; then, level by level, the frames
                between them, each call between frames that exist, and all calls of a level at once
    hierarchy_2 key frames, then the frames between from left to right, which see the last frames
                and the next key frames (Harvey et al. 2022, arXiv 2205.11495)
    streaming   adjacent windows, for a causal network that remembers the last frames
    overlapping windows that see nothing of one another; the frames that two of them draw are
                blended (compare Bar-Tal et al. 2024, arXiv 2401.12945). For super-resolution

Frames that are given are the first ones of the video. key_frames also takes others, such as every
fourth frame: they are its key frames.

A plan is data. `Plan.rounds` says which calls can run side by side, and `check` proves that every
frame is drawn, once but for blends, and seen only after that.
"""

import bisect
import dataclasses
import inspect
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int, Shaped

from jaxvid.config import parse_call
from jaxvid.errors import InputError, nearest

KINDS = ("outline", "onwards", "between")


class Call(NamedTuple):
    """One call of the network: the frames that it sees, and those that it draws, both in order."""

    sees: tuple[int, ...]
    draws: tuple[int, ...]

    @property
    def frames(self) -> Int[np.ndarray, " T"]:
        """The frames of its window in order."""
        return np.sort(np.array(self.sees + self.draws))

    @property
    def observed(self) -> Bool[np.ndarray, " T"]:
        """Which frames of its window it sees."""
        return np.isin(self.frames, self.sees)

    @property
    def kind(self) -> str:
        """What it is for; see `kind_of`."""
        return kind_of(self.observed)

    @property
    def weights(self) -> Int[np.ndarray, " T"]:
        """How much each frame of its window counts where another call draws it too.

        1, 3, 5, … from either end: where windows overlap by half or less, the share of one rises
        linearly as that of the other falls, from the edge of the first frame to that of the last.
        Then the step where a window begins or ends changes no more than those inside the overlap.
        """
        rising = 2 * np.arange(len(self.frames)) + 1
        return np.minimum(rising, rising[::-1])


@dataclasses.dataclass(frozen=True)
class Plan:
    """The calls that draw a video.

    Attributes:
      scheme: name of the scheme.
      frames: length of the video.
      window: most frames of a call.
      given: the frames that are there before the first call, in order.
      calls: the calls; each sees only frames that are given, or that an earlier call draws.
    """

    scheme: str
    frames: int
    window: int
    given: tuple[int, ...]
    calls: tuple[Call, ...]

    def __str__(self) -> str:
        rounds = self.rounds()
        return (
            f"{self.scheme}: {self.frames} frames in {len(self.calls)} calls of up to "
            f"{self.window} frames, {len(rounds)} after one another"
        )

    @property
    def blends(self) -> bool:
        """Whether frames that several calls draw are blended."""
        return self.scheme == "overlapping"

    @property
    def start(self) -> int:
        """The number of given frames before the first that is drawn."""
        return next(i for i in itertools.count() if i not in self.given)

    def rounds(self) -> list[list[Call]]:
        """The calls in rounds. Those of one round see nothing that another of them draws."""
        drawn_in = dict.fromkeys(self.given, -1)
        rounds: list[list[Call]] = []
        for call in self.calls:
            number = 1 + max((drawn_in[i] for i in call.sees), default=-1)
            drawn_in |= dict.fromkeys(call.draws, number)
            if number == len(rounds):
                rounds.append([])
            rounds[number].append(call)
        return rounds

    def looks_ahead(self) -> bool:
        """Whether a call sees a frame that comes after one that it draws."""
        return any(call.kind == "between" for call in self.calls)

    def check(self) -> None:
        """Raises InputError, which says why, unless the calls draw the whole video.

        That is: every frame is drawn, and once unless the plan blends; none is seen before it is
        there, and no call has more than `window` frames.
        """
        there = set(self.given)
        for number, call in enumerate(self.calls):
            if len(call.frames) > self.window:
                raise self._wrong(f"call {number} has {len(call.frames)} frames")
            if early := set(call.sees) - there:
                raise self._wrong(f"call {number} sees frame {min(early)}, which is not drawn yet")
            if (again := set(call.draws) & there) and not self.blends:
                raise self._wrong(f"call {number} draws frame {min(again)} again")
            there |= set(call.draws)
        if missing := set(range(self.frames)) - there:
            raise self._wrong(f"no call draws frame {min(missing)}")

    def _wrong(self, why: str) -> InputError:
        return InputError(f"the plan {self.scheme} for windows of {self.window} frames: {why}")


def kind_of(observed: Bool[np.ndarray, " T"]) -> str:
    """What a call that sees the `observed` frames of its window is for, one of `KINDS`.

    It draws an "outline" if it sees nothing, goes "onwards" from what it sees, or draws frames
    "between" others.
    """
    if not observed.any():
        return "outline"
    return "between" if np.any(~observed[: np.flatnonzero(observed)[-1]]) else "onwards"


def by_importance(
    time: Shaped[np.ndarray, " T"], observed: Bool[np.ndarray, " T"]
) -> Int[np.ndarray, " T"]:
    """The frames of a window in the order in which they deserve detail.

    Of a call that goes onwards, first those that it draws, then those that it sees, the nearest
    first. Of one that draws frames between others, first those that it sees, the nearest first,
    then those that it draws, the farthest from these first. Of an outline, as they come.

    Args:
      time: times of the frames, in any unit.
      observed: the frames that the call sees.
    """
    kind = kind_of(observed)
    if kind == "outline":
        return np.arange(len(time))
    apart = np.abs(time[:, None] - time)
    to_others = np.where(observed[:, None] != observed, apart, np.inf).min(1)
    if kind == "onwards":
        return np.lexsort((np.where(observed, to_others, 0), observed))
    return np.lexsort((np.where(observed, to_others, -to_others), ~observed))


Scheme = Callable[..., Iterable[Call]]
SCHEMES: dict[str, Scheme] = {}


def scheme(function: Scheme) -> Scheme:
    """Registers a scheme: a function of `frames, window, given, overlap` and options of its own."""
    SCHEMES[function.__name__] = function
    return function


def make_plan(
    text: str,
    window: int,
    frames: int | None = None,
    given: int | Sequence[int] | None = None,
    overlap: int | None = None,
) -> Plan:
    """The plan that a text describes, checked.

    Args:
      text: a scheme, with options or without: "key_frames" or "key_frames(spacings=(9,3))".
        "frames" is an option where `frames` is not given, and "every" where `given` is not:
        "key_frames(frames=61, every=4)" is given every fourth frame.
      window: frames of a call.
      frames: length of the video.
      given: frames that are there, in order, or the number of those at the start.
      overlap: earlier frames that a call sees, unless the text says so; by default half the window.

    Raises:
      InputError: the text is not valid, or the options do not fit.
    """
    name, chosen = _parse(text)
    parameters = inspect.signature(SCHEMES[name]).parameters
    takes = list(parameters)[3:]
    allowed = [*takes, *["frames"] * (frames is None), *["every"] * (given is None)]
    for option, value in chosen.items():
        if option not in allowed:
            hint = nearest(option, allowed)
            raise InputError(f"plan {text!r}: {hint}{name} takes {', '.join(allowed)}")
        several = option in parameters and isinstance(parameters[option].default, tuple)
        values = _as_tuple(value) if several else [value]
        if not all(isinstance(v, int) and v > 0 for v in values):
            more = ", or several" * several
            raise InputError(f"plan {text!r}: {option} must be an integer of at least 1{more}")
    frames = chosen.pop("frames", frames)
    if frames is None:
        raise InputError(f"plan {text!r}: say how long the video is, such as {name}(frames=64)")
    overlap = chosen.pop("overlap", window // 2 if overlap is None else overlap)
    if not 1 <= overlap < window:
        raise InputError(f"--overlap={overlap}: it must be from 1 to {window - 1} frames")
    if "every" in chosen:
        given = range(0, frames, chosen.pop("every"))
    given = tuple(given if isinstance(given, Sequence) else range(given or 0))
    if frames <= len(given):
        raise InputError(f"--frames={frames}: {len(given)} of them are given; ask for more frames")
    if _at_start(given):
        if len(given) >= window:
            raise InputError(f"{len(given)} frames are given: it must be from 0 to {window - 1}")
    elif name != "key_frames":
        raise InputError(
            f"plan {name}: it goes on from the first frames of a video, but others are given: "
            "choose key_frames"
        )
    calls = SCHEMES[name](frames, window, given, overlap, **chosen)
    plan = Plan(name, frames, window, given, tuple(calls))
    plan.check()
    return plan


def _parse(text: str) -> tuple[str, dict[str, Any]]:
    """The name of a scheme and its options."""
    try:
        name, options = parse_call(text)
    except ValueError:
        raise InputError(
            f"plan {text!r}: write it as key_frames or as key_frames(spacings=(9,3))"
        ) from None
    if name not in SCHEMES:
        raise InputError(
            f"plan {text!r}: {nearest(name, SCHEMES)}choose one of {', '.join(SCHEMES)}"
        )
    return name, options


def _at_start(given: tuple[int, ...]) -> bool:
    """Whether the frames that are given are the first ones, or none."""
    return given == tuple(range(len(given)))


def _as_tuple(value: Any) -> tuple:
    return value if isinstance(value, tuple) else (value,)


@scheme
def sliding(frames: int, window: int, given: tuple[int, ...], overlap: int) -> Iterable[Call]:
    """Each call sees the last `overlap` frames; the first sees those that are given."""
    return _onwards(range(frames + window), frames, window, given, overlap, lambda past: past)


@scheme
def long_range(frames: int, window: int, given: tuple[int, ...], overlap: int) -> Iterable[Call]:
    """As sliding, but half of the `overlap` frames are evenly spread over all earlier frames."""

    def choose(past: Sequence[int]) -> Sequence[int]:
        near = (overlap + 1) // 2
        early = past[: len(past) - near]
        spread = np.linspace(0, len(early) - 1, overlap - near).round().astype(int)
        return [*(early[i] for i in spread), *past[len(past) - near :]]

    return _onwards(range(frames + window), frames, window, given, overlap, choose)


@scheme
def geometric(frames: int, window: int, given: tuple[int, ...], overlap: int) -> Iterable[Call]:
    """As sliding, but the `overlap` frames lie 1, 2, 4, 8, … frames back, where there are any."""

    def choose(past: Sequence[int]) -> Sequence[int]:
        back = [2**i for i in range(overlap) if 2**i <= len(past)]
        others = (i for i in range(1, len(past) + 1) if i not in back)
        back = [*back, *itertools.islice(others, overlap - len(back))]
        return [past[-i] for i in sorted(back, reverse=True)]

    return _onwards(range(frames + window), frames, window, given, overlap, choose)


@scheme
def key_frames(
    frames: int,
    window: int,
    given: tuple[int, ...],
    overlap: int,
    spacings: int | tuple[int, ...] = (),
) -> Iterable[Call]:
    """Key frames `spacings[0]` apart, then those between, `spacings[1]` apart, down to 1.

    By default one call draws all key frames, and the spacings fall by equal factors. Given frames
    that are not the first ones are the key frames, from the first frame to the last.
    """
    if _at_start(given):
        spacings = _as_tuple(spacings) or _spacings(_beyond(frames, given), window)
        calls = _keys(frames, window, given, overlap, spacings[0])
    elif (given[0], given[-1]) != (0, frames - 1):
        raise InputError(
            f"plan key_frames: of {frames} frames, {given[0]} to {given[-1]} are given: give the "
            f"first and the last, or ask for {given[-1] - given[0] + 1} frames"
        )
    else:
        spacings = _as_tuple(spacings) or _falling(int(np.diff(given).max()), window)
        calls = []
    if list(spacings) != sorted(set(spacings), reverse=True):
        raise InputError(f"plan key_frames: the spacings {spacings} must fall from one to the next")
    there = sorted({*given, *(i for call in calls for i in call.draws)})
    for spacing in [*spacings, 1]:
        level = _between(there, frames, window, spacing)
        calls += level
        there = sorted({*there, *(i for call in level for i in call.draws)})
    if (least := min(len(call.frames) for call in calls)) < window:
        raise InputError(
            f"plan key_frames: a call has {least} frames, but the network draws {window} at once: "
            f"plan a longer video, give closer frames, or train on data.frames={least}"
        )
    return calls


@scheme
def hierarchy_2(
    frames: int, window: int, given: tuple[int, ...], overlap: int, spacing: int = 0
) -> Iterable[Call]:
    """Key frames `spacing` apart, then from left to right the frames between them.

    A call of the second level sees, of the frames that are there, as many before those that it
    draws as after them. By default one call draws all key frames.
    """
    spacing = spacing or _spacings(_beyond(frames, given), window)[0]
    calls = _keys(frames, window, given, overlap, spacing)
    keys, first = [i for call in calls for i in call.draws], len(given)
    while first < frames:  # all frames before it are there
        if first in keys:
            first += 1
            continue
        inside = range(first, first + window - overlap)
        draws = tuple(i for i in inside if i not in keys)
        ahead = keys[bisect.bisect(keys, inside[-1]) :][:overlap]
        behind = range(max(0, first - max(overlap // 2, overlap - len(ahead))), first)
        sees = [*behind, *(i for i in inside if i in keys), *ahead[: overlap - len(behind)]]
        calls.append(Call(tuple(sees), draws))
        first += len(inside)
    return calls


@scheme
def streaming(frames: int, window: int, given: tuple[int, ...], overlap: int) -> Iterable[Call]:
    """Adjacent calls for a network that remembers `overlap` frames; the first sees the given."""
    calls = [Call(given, ())] if given else []
    starts = range(len(given), frames, window - overlap)
    return calls + [Call((), tuple(range(i, i + window - overlap))) for i in starts]


@scheme
def overlapping(frames: int, window: int, given: tuple[int, ...], overlap: int) -> Iterable[Call]:
    """Windows that share `overlap` frames, and see nothing: their calls run side by side."""
    if given:
        raise InputError("plan overlapping: its calls see no given frames: choose sliding")
    if overlap > window // 2:
        raise InputError(
            f"plan overlapping: overlap={overlap} must be at most half of the {window} frames of "
            "a window, so that no more than two draw a frame"
        )
    starts = range(0, max(1, frames - overlap), window - overlap)
    return [Call((), tuple(range(i, i + window))) for i in starts]


def _onwards(
    positions: Sequence[int],
    frames: int,
    window: int,
    given: tuple[int, ...],
    overlap: int,
    choose: Callable[[Sequence[int]], Sequence[int]],
) -> list[Call]:
    """Calls that draw `positions` from the first that is not given on, until `frames` are covered.

    `choose` picks what a call sees, of all positions so far in order; the last `overlap` are used.
    The first call sees what is given, the first of the positions.
    """
    calls = [Call(given, tuple(positions[len(given) : window]))]
    done = window
    while positions[done - 1] < frames - 1:
        sees = tuple(choose(positions[:done])[-overlap:])
        calls.append(Call(sees, tuple(positions[done : done + window - overlap])))
        done += window - overlap
    return calls


def _keys(
    frames: int, window: int, given: tuple[int, ...], overlap: int, spacing: int
) -> list[Call]:
    """Calls that draw every `spacing`-th frame, from the first, or from the last given one, on."""
    last = given[-1] if given else 0
    onwards = range(last, frames + 2 * window * spacing, spacing)
    positions = [*range(last), *onwards]
    return _onwards(positions, frames, window, given, overlap, lambda past: past)


def _between(there: Sequence[int], frames: int, window: int, spacing: int) -> list[Call]:
    """Calls that draw every `spacing`-th frame between two that are there; each fills its window.

    A call takes as many successive gaps as fit, and sees the frames at their ends and the nearest
    others.
    """
    calls, span, draws = [], [], []

    def close() -> None:
        if draws:
            room = window - len(span) - len(draws)
            ends = bisect.bisect_left(there, span[0]), bisect.bisect(there, span[-1])
            others = there[max(0, ends[0] - room) : ends[1] + room]
            others = [i for i in others if i not in span]
            near = sorted(others, key=lambda i: (max(span[0] - i, i - span[-1]), i))[:room]
            calls.append(Call(tuple(sorted([*span, *near])), tuple(draws)))

    for a, b in itertools.pairwise(there):
        inside = list(range(a + spacing, b, spacing)) if a < frames - 1 else []
        if not inside:
            continue
        if len(inside) + 2 > window:
            raise InputError(
                f"plan key_frames: {len(inside)} frames lie between two that are {b - a} apart, "
                f"but a window of {window} draws at most {max(0, window - 2)} between two: give "
                "closer spacings, or more of them"
            )
        more = [i for i in (a, b) if i not in span]
        if len(span) + len(draws) + len(more) + len(inside) > window:
            close()
            span, draws, more = [], [], [a, b]
        span, draws = [*span, *more], [*draws, *inside]
    close()
    return calls


def _beyond(frames: int, given: tuple[int, ...]) -> int:
    """The number of frames from the last one given on."""
    return frames - (given[-1] if given else 0)


def _spacings(frames: int, window: int) -> tuple[int, ...]:
    """The spacing at which `window` frames cover `frames`, and those that lead from it to 1."""
    return _falling(max(1, -(-(frames - 1) // max(1, window - 1))), window)


def _falling(first: int, window: int) -> tuple[int, ...]:
    """The spacing `first`, and those that lead from it to 1 by equal factors."""
    if first == 1:
        return (1,)
    if window < 4:
        raise InputError(
            f"windows of {window} frames draw too little between two: train on 4 or more"
        )
    levels = math.ceil(math.log(first) / math.log(window - 1) - 1e-9)
    return tuple(math.ceil(first ** ((levels - k) / levels) - 1e-9) for k in range(levels))
