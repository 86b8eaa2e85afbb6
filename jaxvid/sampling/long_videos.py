"""Videos of any length: the calls of a plan, carried out.

`run_plan` carries out any plan. The calls of a round run side by side, as one batch. For a causal
network, which carries its state from window to window (`models/streaming.py`), `stream` carries out
the plan "streaming". Both yield frames as they are drawn, and the devices hold what one batch
needs, so the length of a video does not matter to them. Frames that a call sees again get noise of
level `sampler.observed_noise`, which reduces drift. Frames that two calls draw are drawn from the
same noise, so that a deterministic sampler nearly agrees, and blended.
"""

import collections
import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax.sharding import Mesh
from jaxtyping import Array, Float32, Int, UInt8
from ml_collections import ConfigDict, FrozenConfigDict

from jaxvid.conditions.condition import prepare, window
from jaxvid.denoiser import Denoiser
from jaxvid.errors import InputError
from jaxvid.hierarchy.plan import KINDS, Call, Plan, by_importance, make_plan
from jaxvid.models.detail import by_kind
from jaxvid.parallel import rules
from jaxvid.parallel.hosts import put_whole, to_hosts
from jaxvid.sampling.draw import Report, draw, in_dtype, make_sampler, remember


def plan_for(
    config: ConfigDict,
    text: str | None,
    frames: int,
    given: int | Sequence[int] = 0,
    overlap: int | None = None,
) -> Plan:
    """The plan of a text (see `hierarchy.plan`), which the network of a config can carry out.

    By default it is "streaming" for a network that can stream: one that is causal and whose
    positions fit any length. For others it is "overlapping" if they enlarge a video and no frames
    are given, else "sliding".

    Raises:
      InputError: the plan is not valid, or the network cannot carry it out.
    """
    can_stream = config.model.causal and config.model.positions != "learned"
    enlarges = bool(config.conditions.low_res.factor)
    others = "overlapping" if enlarges and not given else "sliding"
    text = text or ("streaming" if can_stream else others)
    plan = make_plan(text, config.data.frames, frames, given, overlap=overlap)
    if plan.scheme == "streaming" and not can_stream:
        raise InputError(
            "plan streaming: the network cannot stream; that takes config.model.causal and "
            "config.model.positions other than learned. Choose sliding"
        )
    if plan.scheme == "overlapping" and not enlarges:
        raise InputError(
            "plan overlapping: without a low-resolution video (config.conditions.low_res) its "
            "windows would show unrelated videos: choose sliding"
        )
    if config.model.causal and plan.looks_ahead():
        raise InputError(
            f"plan {plan.scheme}: it sees frames after those that it draws, but the network is "
            "causal and sees only the past: choose streaming, sliding, long_range or geometric"
        )
    return plan


def long_videos(
    config: ConfigDict,
    denoiser: Denoiser,
    mesh: Mesh,
    params: Any,
    key: Array,
    clips: dict[str, Any],
    plan: Plan,
    report: Report = lambda done, total: None,
) -> Iterator[UInt8[np.ndarray, "B n H W 3"]]:
    """Draws videos by a plan, with the settings of `config.sampler`.

    Args:
      config, denoiser, mesh, params: the network, trained on clips of T = `data.frames` frames.
      key: random key. The noise of a call depends on it and on the first frame that it draws.
      clips: `given` describes the videos, and `video` begins with the frames that the plan is
        given. Conditions with a value per frame start at the first frame and may have any length.
        Unless `fills_devices`, their number divides over the mesh.
      plan: for windows of T frames, as `plan_for` makes it.
      report: called with the number of frames that are there, and that of all frames.

    Yields:
      All frames in order, as soon as they are there.
    """
    carry_out = stream if plan.scheme == "streaming" else run_plan
    yield clips["video"][:, : plan.start]
    yield from carry_out(config, denoiser, mesh, params, key, clips, plan, report)


def run_plan(
    config: ConfigDict,
    denoiser: Denoiser,
    mesh: Mesh,
    params: Any,
    key: Array,
    clips: dict[str, Any],
    plan: Plan,
    report: Report,
) -> Iterator[UInt8[np.ndarray, "B n H W 3"]]:
    """Carries out the calls of a plan; the host keeps frames until no call sees them any more."""
    rounds = _in_kinds(plan.rounds())
    samplers = {kind: make_sampler(_of_kind(config, kind), denoiser, mesh) for kind in KINDS}
    if plan.blends:  # a frame has the same noise in all windows
        given = jax.tree.map(jnp.asarray, clips["given"])
        given = prepare(denoiser.conditions, given, key, training=False)
        clips = clips | {"given": jax.tree.map(np.asarray, given)}
    there = {i: clips["video"][:, k] for k, i in enumerate(plan.given)}
    last_seen = {i: k for k, calls in enumerate(rounds) for call in calls for i in call.sees}
    draws = collections.Counter(i for call in plan.calls for i in call.draws)
    versions: dict[int, list[tuple[np.integer, np.ndarray]]] = collections.defaultdict(list)
    B, drawn, done = len(clips["video"]), len(plan.given), plan.start
    least, most = _side_by_side(config, mesh, B, max(map(len, rounds)))
    for k, calls in enumerate(rounds):
        sampler = samplers[calls[0].kind]
        # The sampler is compiled for these two sizes only.
        n = least if len(calls) <= least else most
        for first in range(0, len(calls), n):
            together = calls[first : first + n]
            filled = [*together, *together[-1:] * (n - len(together))]
            placed = rules.batch_sharding(mesh)
            windows = np.stack([_window(config, call) for call in filled])
            host_batch = _batch(config, denoiser, clips, there, windows)
            batch = put_whole(host_batch, placed)
            if plan.blends:
                eps = _eps_of_frames(key, windows, clips["video"][:, 0].shape)
                batch["eps"] = jax.device_put(eps, placed)
            keys = [jax.random.fold_in(key, call.draws[0]) for call in filled]
            seen = [np.isin(w, call.sees) for w, call in zip(windows, filled, strict=True)]
            observed = np.repeat(seen, B, axis=0)
            if n == 1:
                videos = sampler(params, keys[0], batch, observed[0])
            else:
                videos = sampler(params, jnp.stack(keys), batch, observed)
            parts = np.split(to_hosts(videos), n)
            for call, frames, video in zip(together, windows, parts, strict=False):
                weights = dict(zip(call.frames, call.weights, strict=True))
                for j in np.flatnonzero(np.isin(frames, call.draws)):
                    i = int(frames[j])
                    versions[i].append((weights[i], video[:, j]))
                    if len(versions[i]) == draws[i]:
                        there[i] = _blend(versions.pop(i))
                        drawn += i < plan.frames
            report(drawn, plan.frames)
            new = list(itertools.takewhile(there.__contains__, range(done, plan.frames)))
            if new:
                yield np.stack([there[i] for i in new], axis=1)
                done += len(new)
            there = {i: x for i, x in there.items() if i >= done or last_seen.get(i, -1) >= k}


def _in_kinds(rounds: list[list[Call]]) -> list[list[Call]]:
    """The rounds, divided into calls of one kind."""
    kinds = ([[call for call in calls if call.kind == kind] for kind in KINDS] for calls in rounds)
    return [calls for parts in kinds for calls in parts if calls]


def _of_kind(config: ConfigDict, kind: str) -> ConfigDict:
    """The config for calls of a kind: their number of steps, and levels of detail."""
    details = by_kind(config.model, config.data.frames)
    config = config.copy_and_resolve_references()
    if kind == "between" and config.sampler.steps_between:
        config.sampler.steps = config.sampler.steps_between
    config.sampler.detail = config.sampler.detail or details.get(kind, ())
    return config


def _window(config: ConfigDict, call: Call) -> Int[np.ndarray, " T"]:
    """The frames of a call's window in the order in which the network gets them."""
    if config.sampler.detail or not config.model.detail_between:
        return call.frames
    return call.frames[by_importance(call.frames, call.observed)]


def _blend(versions: Sequence[tuple[np.integer, np.ndarray]]) -> UInt8[np.ndarray, "B H W 3"]:
    """The mean of the versions of a frame, each with its weight."""
    weights, frames = zip(*versions, strict=True)
    if len(frames) == 1:
        return frames[0]
    return np.rint(np.average(frames, axis=0, weights=weights)).astype(np.uint8)


@functools.partial(jax.jit, static_argnums=2)
def _eps_of_frames(
    key: Array, frames: Int[Array, "n T"], shape: tuple[int, ...]
) -> Float32[Array, "windows T H W 3"]:
    """The noise that windows of `shape` [B,H,W,3] start from: that of a frame is its own."""
    eps_key = jax.random.split(key)[1]

    def of_frame(i: Array) -> Array:
        return jax.random.normal(jax.random.fold_in(eps_key, i), shape)

    return rearrange(jax.vmap(jax.vmap(of_frame))(frames), "n t b ... -> (n b) t ...")


def fills_devices(config: ConfigDict, plan: Plan, videos: int) -> bool:
    """Whether calls run side by side, so that any number of videos divides over the devices."""
    c = config.sampler
    return plan.scheme != "streaming" and not c.lag and videos <= (c.batch_size or videos)


def _side_by_side(config: ConfigDict, mesh: Mesh, videos: int, calls: int) -> tuple[int, int]:
    """The fewest and the most calls that run at once, of a round of up to `calls`.

    The fewest divide over the mesh. The most are what the devices draw at once, or all.
    """
    parts = rules.batch_parts(mesh)
    least = parts // math.gcd(parts, videos)
    if config.sampler.lag:  # the number of steps then depends on the frames that a call sees
        return least, least
    size = config.sampler.batch_size
    fit = max(1, size * parts // videos) if size else calls
    return least, max(least, min(fit // least, -(-calls // least)) * least)


def _batch(
    config: ConfigDict,
    denoiser: Denoiser,
    clips: dict[str, Any],
    there: dict[int, np.ndarray],
    windows: Int[np.ndarray, "n T"],
) -> dict[str, Any]:
    """Windows of all videos, one after another; frames that are not there yet are black."""
    video, parts = clips["video"], []
    for frames in windows:
        black = np.zeros_like(video[:, 0])
        time = (frames - frames.min()).astype(np.float32) / np.float32(config.data.fps)
        parts.append(
            {
                "video": np.stack([there.get(i, black) for i in frames], axis=1),
                "time": np.tile(time, (len(video), 1)),
                "given": window(denoiser.conditions, clips["given"], frames),
            }
        )
    return jax.tree.map(lambda *x: np.concatenate(x), *parts)


def stream(
    config: ConfigDict,
    denoiser: Denoiser,
    mesh: Mesh,
    params: Any,
    key: Array,
    clips: dict[str, Any],
    plan: Plan,
    report: Report,
) -> Iterator[UInt8[np.ndarray, "B n H W 3"]]:
    """Carries out "streaming"; after each call, the network has seen what it drew."""
    net = denoiser.net.clone(memory=plan.window - len(plan.calls[-1].draws))
    see, draw_and_remember = _make_stream(
        FrozenConfigDict(config), Denoiser(net, denoiser.process, denoiser.prediction)
    )
    variables = {"params": jax.jit(in_dtype, static_argnums=1)(params, config.model.dtype)}
    done = len(plan.given)
    for call in plan.calls:
        frames = call.frames
        time = frames.astype(np.float32) / np.float32(config.data.fps)
        batch = {
            "video": clips["video"][:, : len(frames)],
            "time": np.tile(time, (len(clips["video"]), 1)),
            "given": window(denoiser.conditions, clips["given"], frames),
        }
        batch = put_whole(batch, rules.batch_sharding(mesh))
        if not call.draws:
            variables |= see(variables, key, batch)
            continue
        drawn, cache = draw_and_remember(variables, jax.random.fold_in(key, call.draws[0]), batch)
        variables |= cache
        frames = to_hosts(drawn)[:, : plan.frames - done]
        done += frames.shape[1]
        report(done, plan.frames)
        yield frames


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
