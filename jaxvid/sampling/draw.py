"""Drawing clips from a denoiser, on all devices."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float32, PyTree, UInt8
from ml_collections import ConfigDict, FrozenConfigDict

from jaxvid.conditions.condition import Condition, null, prepare
from jaxvid.config import (
    NATURAL,
    NUMBER,
    POSITIVE,
    UNIT,
    Rule,
    declare,
    is_sequence,
    key,
    one_of,
    requirement,
)
from jaxvid.data.clips import frame_shape
from jaxvid.data.pixels import to_float, to_uint8
from jaxvid.denoiser import Denoiser
from jaxvid.diffusion import guidance, process, sampler, schedule
from jaxvid.diffusion.keys import each, normal
from jaxvid.diffusion.noise import resolution_shift, shift
from jaxvid.diffusion.sampler import SAMPLERS
from jaxvid.diffusion.schedule import SPACINGS
from jaxvid.errors import InputError
from jaxvid.models.detail import LEVELS
from jaxvid.parallel import rules

Report = Callable[[int, int], None]
Draw = Callable[[Any, Array, dict[str, Any], Bool[np.ndarray, "*B T"]], UInt8[Array, "B T H W 3"]]

declare(
    "sampler",
    name=key("dpmpp_2m", one_of(SAMPLERS), "sampler", free=True),
    steps=key(32, POSITIVE, "sampling steps", free=True),
    steps_between=key(
        0, NATURAL, "steps of the calls that draw frames between others; 0 for `steps`", free=True
    ),
    spacing=key("uniform", one_of(SPACINGS), "spacing of the noise levels", free=True),
    lag=key(0, NATURAL, "steps by which each frame follows the frame before it", free=True),
    eta=key(0.0, UNIT, 'share of the noise that a step of "ddim" renews', free=True),
    cfg_scale=key(1.0, NUMBER, "scale of classifier-free guidance; 1 turns it off", free=True),
    cfg_interval=key(
        (0.0, 1.0),
        Rule(
            "(lowest, highest) noise level, from 0 to 1",
            lambda v: is_sequence(v, UNIT.holds, 2) and v[0] <= v[1],
        ),
        "noise levels at which guidance is on",
        free=True,
    ),
    cfg_rescale=key(
        0.0, UNIT, "how far the contrast of a guided frame is restored; 0 is off", free=True
    ),
    detail=key((), LEVELS, "level of detail of each frame; () for `model.detail`", free=True),
    observed_noise=key(0.0, UNIT, "noise level of observed frames in sampling", free=True),
    num=key(8, POSITIVE, "clips drawn during training", free=True),
    batch_size=key(16, NATURAL, "clips that a device draws at once; 0 for all", free=True),
)
declare(
    "diffusion",
    max_observed_noise=key(
        0.0,
        UNIT,
        "highest noise level of observed frames in training",
        was="diffusion.observed_noise",
    ),
)


def make_sampler(
    config: ConfigDict,
    denoiser: Denoiser,
    mesh: Mesh,
    report: Report | None = None,
) -> Draw:
    """Makes a jitted `(params, key, clips, observed) -> videos` with the settings of the config.

    `clips` is a batch: its `time` and `given` describe the clips to draw. The frames of its `video`
    that are `observed` are kept; the others are ignored. It is compiled once for all `observed`,
    unless `sampler.lag` makes the number of steps depend on them. With n keys, each is for an equal
    part of the clips, which are what they would be alone; then `observed` is bool [B,T]. A device
    draws `sampler.batch_size` clips at once. `report` is called with the number of sampling steps
    that are done and that of all steps. Equal arguments give the same function, so that it is
    compiled once.
    """
    return _make_sampler(FrozenConfigDict(config), denoiser, mesh, report)


@functools.lru_cache(maxsize=8)
def _make_sampler(
    config: FrozenConfigDict, denoiser: Denoiser, mesh: Mesh, report: Report | None
) -> Draw:
    lag, denoiser = config.sampler.lag, denoiser.at(tuple(config.sampler.detail))

    def run(params: Any, key: Array, clips: dict[str, Any], observed: Any) -> Array:
        observed = np.array(observed) if lag else observed
        variables = {"params": in_dtype(params, config.model.dtype)}
        groups = _groups(len(clips["video"]), config.sampler.batch_size, rules.batch_parts(mesh))

        def draw_group(number: Any, key: Array, clips: dict[str, Any], eps: Array) -> Array:
            def tell(done: Array, total: int) -> None:
                jax.debug.callback(report, number * total + done, groups * total)

            told = tell if report else None
            return draw(config, denoiser, variables, key, clips, observed, told, eps)

        eps = first_eps(key, clips)
        if groups == 1:
            return draw_group(0, key, clips, eps)
        # Every group takes clips from each device, so that no clip moves between devices.
        clips, eps = jax.tree.map(
            lambda x: rearrange(x, "(b n) ... -> n b ...", n=groups), (clips, eps)
        )
        numbered = (jnp.arange(groups), jax.random.split(key, groups), clips, eps)
        videos = jax.lax.map(lambda group: draw_group(*group), numbered)
        return rearrange(videos, "n b ... -> (b n) ...")

    by_clip = rules.batch_sharding(mesh)
    jitted = jax.jit(run, static_argnums=3 if lag else (), out_shardings=by_clip)
    return lambda params, key, clips, observed: jitted(
        params, key, clips, tuple(observed.tolist()) if lag else observed
    )


def _groups(clips: int, size: int, parts: int) -> int:
    """The fewest equal groups of at most `size` clips on each of `parts` devices; 0: one group."""
    each = clips // parts
    return next(n for n in range(1, each + 1) if each % n == 0 and each <= n * (size or each))


def in_dtype(params: Any, dtype: str) -> Any:
    """Parameters whose kernels and tables have the dtype of the activations, once for all steps."""

    def convert(path: tuple, x: Array) -> Array:
        return x.astype(dtype) if path[-1].key in ("kernel", "embedding") else x

    return jax.tree_util.tree_map_with_path(convert, params)


def draw(
    config: ConfigDict,
    denoiser: Denoiser,
    variables: Mapping[str, Any],
    key: Array,
    clips: dict[str, Any],
    observed: Bool[np.ndarray | Array, "#B T"] | Bool[np.ndarray | Array, " T"],
    report: Callable[[Array, int], None] | None = None,
    eps: Float32[Array, "B T H W 3"] | None = None,
) -> UInt8[Array, "B T H W 3"]:
    """Draws clips at once, for `make_sampler`; `variables` may also hold the cache of a stream.

    `eps` is the noise that they start from, by default `first_eps`; `report` is that of
    `sampler.sample`.
    """
    c = config.sampler

    def x0(x: Array, noise: Array, condition: tuple[Array, Any]) -> Float32[Array, "B T H W C"]:
        return denoiser.x0(variables, x, noise, *condition)

    kept = jnp.asarray(observed)[..., None, None, None]
    levels = shift(schedule.ladder(denoiser.process, c.steps, c.spacing), time_shift(config))
    rows = schedule.staggered(levels, observed, c.lag, c.observed_noise)
    step_key = each(lambda key: jax.random.split(key)[1], key)
    eps = first_eps(key, clips) if eps is None else eps
    first = jnp.broadcast_to(rows[0], clips["time"].shape)
    seen = process.corrupt(denoiser.process, to_float(clips["video"]), eps, first)
    x = sampler.sample(
        guidance.guide(
            x0, *_conditional_and_null(denoiser, key, clips), guidance_scale(config, denoiser),
            interval=tuple(c.cfg_interval), rescale=c.cfg_rescale, frames=~observed,
        ),
        denoiser.process,
        jnp.where(kept, seen, denoiser.process.sigma(jnp.ones(())) * eps),
        rows,
        c.name,
        eta=c.eta,
        key=step_key,
        report=report,
    )  # fmt: skip
    return jnp.where(kept, clips["video"], to_uint8(x))


def first_eps(key: Array, clips: dict[str, Any]) -> Float32[Array, "B T H W 3"]:
    """The noise that clips start from, unless it is there as `eps`; groups do not change it."""
    if "eps" in clips:
        return clips["eps"]
    eps_key = each(lambda key: jax.random.split(key)[0], key)
    return normal(eps_key, clips["video"].shape)


def remember(
    config: ConfigDict,
    denoiser: Denoiser,
    variables: Mapping[str, Any],
    key: Array,
    clips: dict[str, Any],
) -> Any:
    """The cache of a causal network after it has seen the frames of `clips` as observed frames.

    The `key` that drew the clips gives the same random draws for their conditions.
    """
    noise = jnp.full(clips["time"].shape, config.sampler.observed_noise)
    eps = jax.random.normal(jax.random.fold_in(key, 3), clips["video"].shape)
    seen = process.corrupt(denoiser.process, to_float(clips["video"]), eps, noise)
    inputs, null = ((seen, noise, *c) for c in _conditional_and_null(denoiser, key, clips))
    if guidance_scale(config, denoiser) != 1:
        inputs = guidance.pair(inputs, null)
    return denoiser.predict(variables, *inputs, mutable=["cache"])[1]


def time_shift(config: ConfigDict, shape: Sequence[int] = ()) -> float:
    """The time shift of the noise levels in training and sampling: `s` of `noise.shift`.

    `shape` is (T, H, W), by default that of `data`.
    """
    reference, data = config.diffusion.shift_reference, config.data
    if not reference:
        return 1.0
    return resolution_shift(tuple(shape) or (data.frames, *frame_shape(data)), reference)


def guidance_scale(config: ConfigDict, denoiser: Denoiser) -> float:
    """`sampler.cfg_scale`, or 1 for a network without conditions."""
    return float(config.sampler.cfg_scale) if denoiser.conditions else 1.0


def _conditional_and_null(
    denoiser: Denoiser, key: Array, clips: dict[str, Any]
) -> tuple[tuple[Array, Any], tuple[Array, Any]]:
    given = prepare(denoiser.conditions, clips["given"], key, training=False)
    return (clips["time"], given), (clips["time"], null(denoiser.conditions, given))


def padded(num: int, mesh: Mesh) -> int:
    """`num` rounded up to a multiple that divides over the mesh."""
    parts = rules.batch_parts(mesh)
    return -(-num // parts) * parts


def by_default(conditions: Sequence[Condition], given: Mapping[str, PyTree]) -> dict[str, PyTree]:
    """The default conditions of clips: all classes in turn, and null for the other conditions."""
    return {c.name: c.by_default(given[c.name]) for c in conditions}


@requirement
def _check_sampler(config: ConfigDict) -> None:
    c = config.sampler
    for name in ("steps", "steps_between"):
        if c.lag > c[name] and (name == "steps" or c[name]):
            raise InputError(
                f"config.sampler.lag={c.lag}: it must be at most config.sampler.{name}={c[name]}, "
                "which draws one frame after another"
            )
    if c.eta and c.name != "ddim":
        raise InputError(
            f"config.sampler.eta={c.eta}: only the sampler 'ddim' takes it, not {c.name!r}; set it "
            "to 0 or choose ddim"
        )
    highest = config.diffusion.max_observed_noise
    # A network trained with `per_frame` levels has seen all levels at every frame.
    if c.observed_noise > highest and not config.diffusion.per_frame:
        raise InputError(
            f"config.sampler.observed_noise={c.observed_noise}: it must be at most "
            f"config.diffusion.max_observed_noise={highest}, the highest level in training"
        )
