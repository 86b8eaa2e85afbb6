"""Plans for videos of any length: which frames each call of the network draws, and which it sees.

A plan is a list of calls. `run_plan` carries it out; for a causal network, which carries its state
from window to window (`models/streaming.py`), `stream` does. Both yield frames as they are drawn
and hold one window of a video, so memory and time per frame do not depend on its length. Frames
that a window sees again get noise of level `sampler.observed_noise`, which reduces drift.
"""

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, UInt8
from ml_collections import ConfigDict, FrozenConfigDict

from jaxvid.conditions.condition import window
from jaxvid.data import pipeline
from jaxvid.denoiser import Denoiser
from jaxvid.errors import InputError
from jaxvid.parallel import rules
from jaxvid.sampling.draw import draw, in_dtype, make_sampler, remember


class Call(NamedTuple):
    """One call of the network.

    Attributes:
      start: index of the first frame in the window.
      seen: number of frames from `start` on that it observes, given or drawn before.
      drawn: number of frames that it draws after them.
    """

    start: int
    seen: int
    drawn: int


def sliding(frames: int, window: int, overlap: int, given: int = 0) -> list[Call]:
    """Windows of `window` frames, each of which sees the last `overlap` frames of the one before.

    The first window sees the `given` frames. The last may draw more frames than needed. Raises
    InputError if `overlap` or `given` is out of range.
    """
    _check(window, overlap, given)
    calls, end = [Call(0, given, window - given)], window
    while end < frames:
        calls.append(Call(end - overlap, overlap, window - overlap))
        end += window - overlap
    return calls


def streaming(frames: int, window: int, overlap: int, given: int = 0) -> list[Call]:
    """Adjacent windows, for a network that remembers the last `overlap` frames.

    If frames are given, a first call sees them and draws nothing. Raises InputError as `sliding`
    does.
    """
    _check(window, overlap, given)
    calls = [Call(0, given, 0)] if given else []
    starts = range(given, frames, window - overlap)
    return calls + [Call(start, 0, window - overlap) for start in starts]


def _check(window: int, overlap: int, given: int) -> None:
    if not 1 <= overlap < window:
        raise InputError(f"--overlap={overlap}: it must be from 1 to {window - 1} frames")
    if not 0 <= given < window:
        raise InputError(f"{given} frames are given: it must be from 0 to {window - 1}")


def streams(config: ConfigDict) -> bool:
    """Whether the network can stream: it is causal, and its positions fit any length."""
    return config.model.causal and config.model.positions != "learned"


def long_videos(
    config: ConfigDict,
    denoiser: Denoiser,
    mesh: Mesh,
    params: Any,
    key: Array,
    clips: dict[str, Any],
    given: int,
    frames: int,
    overlap: int,
) -> Iterator[UInt8[np.ndarray, "B n H W 3"]]:
    """Draws videos of `frames` frames with the settings of `config.sampler`.

    Args:
      config, denoiser, mesh, params: the network, trained on clips of T = `data.frames` frames.
      key: random key.
      clips: `time` and `given` describe the videos, and `video` holds the frames to start from.
        Conditions with a value per frame start at the first frame and may have any length.
      given: number of frames to start from, 0 to T - 1.
      frames: number of frames of the videos.
      overlap: earlier frames that each window sees, 1 to T - 1. A recurrence sees all of them.

    Yields:
      The given frames, then the frames of each call, `frames` in all.

    Raises:
      InputError: `frames`, `overlap` or `given` is out of range.
    """
    if frames <= given:
        raise InputError(f"--frames={frames}: {given} of them are given; ask for more frames")
    plan, carry_out = (streaming, stream) if streams(config) else (sliding, run_plan)
    calls = plan(frames, config.data.frames, overlap, given)
    parts = carry_out(config, denoiser, mesh, params, key, clips, calls)
    yield clips["video"][:, :given]
    done = given
    for part in parts:
        yield part[:, : frames - done]
        done += part.shape[1]


def run_plan(
    config: ConfigDict,
    denoiser: Denoiser,
    mesh: Mesh,
    params: Any,
    key: Array,
    clips: dict[str, Any],
    calls: list[Call],
) -> Iterator[UInt8[np.ndarray, "B n H W 3"]]:
    """Carries out the calls of `sliding`, each of which sees the last frames drawn."""
    T, shown = config.data.frames, clips["video"]
    sampler = make_sampler(config, denoiser, mesh)
    for number, call in enumerate(calls):
        if number:  # the frames that this call sees come first; the rest is ignored
            shown = np.roll(shown, call.seen, axis=1)
        given = window(denoiser.conditions, clips["given"], call.start, T)
        batch = {"video": shown, "time": clips["time"], "given": given}
        batch = pipeline.put_whole(batch, rules.batch_sharding(mesh))
        at = jax.random.fold_in(key, call.start + call.seen)
        shown = np.asarray(sampler(params, at, batch, np.arange(T) < call.seen))
        yield shown[:, call.seen :]


def stream(
    config: ConfigDict,
    denoiser: Denoiser,
    mesh: Mesh,
    params: Any,
    key: Array,
    clips: dict[str, Any],
    calls: list[Call],
) -> Iterator[UInt8[np.ndarray, "B n H W 3"]]:
    """Carries out the calls of `streaming`; after each, the network has seen what it drew."""
    net = denoiser.net.clone(memory=config.data.frames - calls[-1].drawn)
    see, draw_and_remember = _make_stream(
        FrozenConfigDict(config), Denoiser(net, denoiser.process, denoiser.prediction)
    )
    variables = {"params": jax.jit(in_dtype, static_argnums=1)(params, config.model.dtype)}
    for call in calls:
        length = call.seen + call.drawn
        batch = {
            "video": clips["video"][:, :length],
            "time": clips["time"][:, :length] + np.float32(call.start / config.data.fps),
            "given": window(denoiser.conditions, clips["given"], call.start, length),
        }
        batch = pipeline.put_whole(batch, rules.batch_sharding(mesh))
        if not call.drawn:
            variables |= see(variables, key, batch)
            continue
        at = jax.random.fold_in(key, call.start)
        frames, cache = draw_and_remember(variables, at, batch)
        variables |= cache
        yield np.asarray(frames)


@functools.lru_cache(maxsize=8)
def _make_stream(config: FrozenConfigDict, denoiser: Denoiser) -> tuple[Any, Any]:
    """Jits `(variables, key, clips)` to the cache after the clips, and to drawn clips and cache."""

    @jax.jit
    def see(variables: Any, key: Array, clips: dict[str, Any]) -> Any:
        return remember(config, denoiser, variables, key, clips)

    @jax.jit
    def draw_and_remember(variables: Any, key: Array, clips: dict[str, Any]) -> tuple:
        nothing = np.zeros(clips["time"].shape[1], bool)
        drawn = draw(config, denoiser, variables, key, clips, nothing)
        return drawn, remember(config, denoiser, variables, key, clips | {"video": drawn})

    return see, draw_and_remember
