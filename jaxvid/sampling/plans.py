"""Videos of any length from a network of a few frames, window after window.

A causal network streams: it carries its state from window to window (`models/streaming.py`), and
each window is all new. Any other network is shown the last frames of the window before, as observed
frames of the next. Either sees them at the level `sampler.observed_noise`, which keeps videos from
drifting. Actions and low-resolution video go along with the frames they belong to.
"""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, UInt8
from ml_collections import ConfigDict

from jaxvid.data import pipeline
from jaxvid.errors import InputError
from jaxvid.models.transformer import SpaceTimeTransformer
from jaxvid.parallel import rules
from jaxvid.sampling import draw as sampling


def rollout(
    config: ConfigDict,
    net: SpaceTimeTransformer,
    mesh: Mesh,
    params: Any,
    key: Array,
    clips: dict[str, np.ndarray],
    given: int,
    frames: int,
    overlap: int,
) -> UInt8[np.ndarray, "B {frames} H W 3"]:
    """Draws videos of `frames` frames, by the `sampler` part of the config.

    Args:
      config, net, mesh, params: of the network, which was trained on `data.frames` frames T.
      key: of all that is random.
      clips: the condition, and in `video` the frames to start from. Its actions and
        low-resolution video count from the first frame and may have any length: past their ends
        actions are unknown, and low-resolution video stands still.
      given: how many these are, 0 to T - 1.
      frames: of the videos.
      overlap: past frames that each window sees, 1 to T - 1. A recurrence sees all there were.

    Raises:
      InputError: `overlap` is out of its range.
    """
    T = config.data.frames
    if not 1 <= overlap < T:
        raise InputError(f"an overlap of {overlap} frames: it must be from 1 to {T - 1}")
    video = clips["video"][:, :given]
    if config.model.causal:
        return _stream(config, net, mesh, params, key, clips, video, frames, overlap)
    samplers = {}
    while video.shape[1] < frames:
        known = min(video.shape[1], overlap) if video.shape[1] > given else given
        if known not in samplers:
            samplers[known] = sampling.make_sampler(config, net, mesh, np.arange(T) < known)
        window = np.zeros_like(clips["video"])
        window[:, :known] = video[:, video.shape[1] - known :]
        seen = _conditions(clips, video.shape[1] - known, T) | {"video": window}
        batch = pipeline.put(seen, rules.batch_sharding(mesh))
        drawn = samplers[known](params, jax.random.fold_in(key, video.shape[1]), batch)
        video = np.concatenate([video, np.asarray(drawn)[:, known:]], axis=1)
    return video[:, :frames]


def _stream(
    config: ConfigDict,
    net: SpaceTimeTransformer,
    mesh: Mesh,
    params: Any,
    key: Array,
    clips: dict[str, np.ndarray],
    video: UInt8[np.ndarray, "B given H W 3"],
    frames: int,
    overlap: int,
) -> UInt8[np.ndarray, "B {frames} H W 3"]:
    net, T = net.clone(memory=overlap), config.data.frames

    @jax.jit
    def draw_and_remember(variables: Any, key: Array, window: dict[str, Array]) -> tuple:
        nothing = np.zeros(window["time"].shape[1], bool)
        drawn = sampling.draw(config, net, variables, key, window, nothing)
        cache = sampling.remember(config, net, variables, key, window | {"video": drawn})
        return drawn, cache

    def window(start: int, length: int) -> dict[str, Array]:
        cut = _conditions(clips, start, length)
        cut["video"] = clips["video"][:, :length]
        cut["time"] = clips["time"][:, :length] + np.float32(start / config.data.fps)
        return pipeline.put(cut, rules.batch_sharding(mesh))

    variables = {"params": params}
    if given := video.shape[1]:
        seen = jax.jit(lambda v, k, w: sampling.remember(config, net, v, k, w))
        variables |= seen(variables, key, window(0, given))
    while video.shape[1] < frames:
        start = video.shape[1]
        batch = window(start, T - overlap)
        drawn, cache = draw_and_remember(variables, jax.random.fold_in(key, start), batch)
        variables |= cache
        video = np.concatenate([video, np.asarray(drawn)], axis=1)
    return video[:, :frames]


def _conditions(clips: dict[str, np.ndarray], start: int, length: int) -> dict[str, np.ndarray]:
    """The clips with what they are conditioned on at `length` frames from `start` on."""
    index, cut = np.arange(start, start + length), dict(clips)
    for name in ("action", "action_mask", "low_res"):
        if name in clips:
            cut[name] = clips[name].take(index, axis=1, mode="clip")
    if "action_mask" in clips:
        cut["action_mask"] &= index < clips["action_mask"].shape[1]
    return cut
