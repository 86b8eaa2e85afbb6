"""Videos of any length from a network of a few frames: which frames each call draws, seeing which.

A plan is a list of calls, made by a pure function and carried out by `run_plan` or, for a causal
network that carries its state from window to window (`models/streaming.py`), by `stream`. Either
yields frames as they are drawn, and holds no more of a video than a window, so that its length
costs neither memory nor time per frame. Frames that are seen again have noise of the level
`sampler.observed_noise`, which keeps long videos from drifting.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, UInt8
from ml_collections import ConfigDict

from jaxvid.conditions.condition import window
from jaxvid.data import pipeline
from jaxvid.denoiser import Denoiser
from jaxvid.errors import InputError
from jaxvid.parallel import rules
from jaxvid.sampling.draw import draw, make_sampler, remember


class Call(NamedTuple):
    """One call of the network.

    Attributes:
      start: number of the first frame in the window.
      seen: how many frames from there on it observes, given or drawn before.
      drawn: how many it draws after those.
    """

    start: int
    seen: int
    drawn: int


def sliding(frames: int, window: int, overlap: int, given: int = 0) -> list[Call]:
    """Windows of `window` frames, of which each sees the last `overlap` of the one before.

    The first sees the `given` frames. The last may draw more than is needed. Raises InputError for
    an `overlap` or a `given` that is not below `window`.
    """
    _check(window, overlap, given)
    calls, end = [Call(0, given, window - given)], window
    while end < frames:
        calls.append(Call(end - overlap, overlap, window - overlap))
        end += window - overlap
    return calls


def streaming(frames: int, window: int, overlap: int, given: int = 0) -> list[Call]:
    """Windows side by side, for a network that remembers `overlap` frames by itself.

    A first call that draws nothing sees the `given` frames. Raises InputError as `sliding` does.
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
    """Whether a config's network carries its state on; learned positions fit one length only."""
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
    """Draws videos of `frames` frames, by the `sampler` part of the config.

    Args:
      config, denoiser, mesh, params: of the network, trained on `data.frames` frames T.
      key: of all that is random.
      clips: `time` and `given` say what to draw, and `video` holds the frames to start from. What
        is given frame by frame counts from the first frame on, and may have any length.
      given: how many frames to start from, 0 to T - 1.
      frames: of the videos.
      overlap: past frames that each window sees, 1 to T - 1. A recurrence sees all there were.

    Yields:
      The frames given, then those of each call, `frames` in all.

    Raises:
      InputError: `overlap` or `given` is out of its range.
    """
    if frames <= given:
        raise InputError(f"--frames={frames}: {given} of them are given, ask for more")
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
    """Carries out calls in which the frames seen are the last that were drawn."""
    samplers: dict[int, Any] = {}
    T, shown = config.data.frames, clips["video"]
    for number, call in enumerate(calls):
        if number:  # what this call sees comes first; the rest of its window is not looked at
            shown = np.roll(shown, call.seen, axis=1)
        if call.seen not in samplers:
            samplers[call.seen] = make_sampler(config, denoiser, mesh, np.arange(T) < call.seen)
        given = window(denoiser.conditions, clips["given"], call.start, T)
        batch = {"video": shown, "time": clips["time"], "given": given}
        batch = pipeline.put(batch, rules.batch_sharding(mesh))
        at = jax.random.fold_in(key, call.start + call.seen)
        shown = np.asarray(samplers[call.seen](params, at, batch))
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
    """Carries out the calls of `streaming`: after each, the network remembers what it drew."""
    drawn = calls[-1].drawn
    net = denoiser.net.clone(memory=config.data.frames - drawn)
    denoiser = Denoiser(net, denoiser.process, denoiser.prediction)

    @jax.jit
    def see(variables: Any, key: Array, window: dict[str, Any]) -> Any:
        return remember(config, denoiser, variables, key, window)

    @jax.jit
    def draw_and_remember(variables: Any, key: Array, window: dict[str, Any]) -> tuple:
        nothing = np.zeros(window["time"].shape[1], bool)
        drawn = draw(config, denoiser, variables, key, window, nothing)
        return drawn, remember(config, denoiser, variables, key, window | {"video": drawn})

    variables = {"params": params}
    for call in calls:
        length = call.seen + call.drawn
        batch = {
            "video": clips["video"][:, :length],
            "time": clips["time"][:, :length] + np.float32(call.start / config.data.fps),
            "given": window(denoiser.conditions, clips["given"], call.start, length),
        }
        batch = pipeline.put(batch, rules.batch_sharding(mesh))
        if not call.drawn:
            variables |= see(variables, key, batch)
            continue
        at = jax.random.fold_in(key, call.start)
        frames, cache = draw_and_remember(variables, at, batch)
        variables |= cache
        yield np.asarray(frames)
