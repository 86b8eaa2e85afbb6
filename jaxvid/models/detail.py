"""Levels of detail: frames with tokens of several sizes in one network.

Key frames have small patches, the frames between them larger ones, and far frames larger still. The
tokens of a level are an array [B,T,N,D], and the network carries one for each level. A word says in
its class attribute `over` between which tokens it mixes:

    token  none: the word sees one level after another
    frame  tokens of a frame, one level after another
    cell   tokens of a place: of all that lie in a cell of the coarsest grid, at any level and time
    clip   all tokens
    place  tokens of a place, of one level only
    window tokens near by, of one level only

With one level, the tokens are those of a network without levels, and any word will do.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import linen as nn
from flax import struct
from jaxtyping import Array, Bool, Float, Float32, Int, Shaped
from ml_collections import ConfigDict, FrozenConfigDict

from jaxvid.config import FRACTION, NATURAL, POSITIVE, Rule, declare, is_sequence, key, requirement
from jaxvid.errors import InputError
from jaxvid.models import embeddings, grammar
from jaxvid.models.devices import locally, move, names_of, parts_of
from jaxvid.models.mixers import MIXERS, Context, over_of

Tokens = tuple[Float[Array, "B _ _ D"], ...]

PLACES, CHOSEN = names_of("places"), ("batch", None)  # of tokens, and of frames among them
ABLE = ("token", "frame", "cell", "clip")  # what words of several levels are over

LEVELS = Rule("levels, such as (0,1,1,1)", lambda v: is_sequence(v, NATURAL.holds))
PAIR = Rule("(rows, columns)", lambda v: is_sequence(v, POSITIVE.holds, 2))
declare(
    "model",
    patches=key(
        (),
        Rule("pairs (rows, columns)", lambda v: is_sequence(v, PAIR.holds)),
        "rows and columns of pixels in a token of the coarser levels of detail, fine to coarse",
    ),
    detail=key(
        (0,),
        LEVELS,
        "level of each frame, repeated over the clip: 0 for `patch`, then those of `patches`",
    ),
    detail_onwards=key(
        (),
        LEVELS,
        "level of each frame in calls of plans that go on from frames that they see: first those "
        "that they draw, then those that they see, the nearest first; the last level is that of "
        "all others; () for `detail`",
    ),
    detail_between=key(
        (),
        LEVELS,
        "the same for calls that draw frames between others: first those that they see, the "
        "nearest first, then those that they draw, the farthest from these first",
    ),
    skip=key(
        0.0,
        FRACTION,
        "share of the frames above level 0 that skip the middle lines of `blocks` in training",
    ),
)


class Level(NamedTuple):
    """The frames with patches of one size; there may be none.

    Attributes:
      frames: their indices in the clip.
      patch: rows and columns of pixels in a token.
      scale: rows and columns of finest tokens in a token.
    """

    frames: tuple[int, ...]
    patch: tuple[int, int]
    scale: tuple[float, float]

    def grid(self, area: Sequence[int]) -> tuple[int, int]:
        """Rows and columns of tokens in an area of (rows, columns) of pixels."""
        return area[0] // self.patch[0], area[1] // self.patch[1]

    def places(self, area: Sequence[int]) -> Float32[Array, "N 2"]:
        """(row, column) of its tokens from the middle of an area, counted in finest tokens."""
        return embeddings.grid(*self.grid(area)) * np.array(self.scale, np.float32)

    def of(self, x: Shaped[Array, "B T *S"]) -> Shaped[Array, "B _ *S"]:
        """Its frames of a clip."""
        return x if len(self.frames) == x.shape[1] else x[:, np.array(self.frames)]


def levels_of(
    patches: Sequence[tuple[int, int]], detail: Sequence[int], frames: int
) -> tuple[Level, ...]:
    """The levels of a clip, fine to coarse. Levels with patches of the same size are one.

    Args:
      patches: rows and columns of pixels of the patches of all levels.
      detail: level of each frame, repeated over the clip.
      frames: length of the clip.
    """
    of_frame = [patches[level] for level in np.resize(detail, frames)]
    return tuple(
        Level(
            frames=tuple(i for i, other in enumerate(of_frame) if other == patch),
            patch=patch,
            scale=tuple(n / finest for n, finest in zip(patch, patches[0], strict=True)),
        )
        for patch in dict.fromkeys(patches)
    )


def by_kind(model: ConfigDict | FrozenConfigDict, frames: int) -> dict[str, tuple[int, ...]]:
    """The level of each frame by the kind of a call, by importance; {} for one pattern for all.

    `hierarchy.plan` has the kinds of calls, and the importance of frames.

    Args:
      model: the `model` section of a config.
      frames: length of a clip.
    """
    if not model.detail_between:
        return {}

    def whole(detail: Sequence[int]) -> tuple[int, ...]:
        return (*detail, *[detail[-1]] * frames)[:frames]

    return {
        "outline": tuple(model.detail),
        "onwards": whole(model.detail_onwards),
        "between": whole(model.detail_between),
    }


def chosen(
    level: Level, detail: Sequence[int], share: float, lots: Float[Array, "B T"]
) -> Int[Array, "B _"]:
    """The frames of a level that do not skip, as indices among its frames, in order.

    Args:
      level: the level.
      detail: level of each frame, repeated over the clip. Key frames, of level 0, do not skip.
      share: share of the other frames that skip, rounded down.
      lots: a random number in [0,1) of each frame; those with the lowest skip.
    """
    skip = len(level.frames) - kept(level, detail, share, lots.shape[1])
    order = jnp.argsort(
        jnp.where(_between(level, detail, lots.shape[1]), level.of(lots), 1), axis=1
    )
    return jnp.sort(order[:, skip:], axis=1)


def kept(level: Level, detail: Sequence[int], share: float, frames: int) -> int:
    """How many frames of a level do not skip, in a clip of `frames` frames."""
    return len(level.frames) - int(share * _between(level, detail, frames).sum())


def _between(level: Level, detail: Sequence[int], frames: int) -> Bool[np.ndarray, " t"]:
    """Which frames of a level are no key frames."""
    return np.resize(detail, frames)[list(level.frames)] > 0


def pick(
    parts: Sequence[Shaped[Array, "B _ ..."]], frames: Sequence[Int[Array, "B _"]]
) -> tuple[Shaped[Array, "B _ ..."], ...]:
    """Some frames of each level."""
    return tuple(jax.vmap(lambda x, i: x[i])(x, i) for x, i in zip(parts, frames, strict=True))


def pick_tokens(x: Tokens, frames: Sequence[Int[Array, "B _"]]) -> Tokens:
    """`pick` for tokens that devices divide by frames: they move to places and back."""
    x = tuple(move(level, "frames", "places") for level in x)
    pick_one = jax.vmap(lambda x, i: x[i])
    few = (
        locally(pick_one, (PLACES, CHOSEN), PLACES, *each) for each in zip(x, frames, strict=True)
    )
    return tuple(move(level, "places", "frames") for level in few)


def put_tokens(x: Tokens, frames: Sequence[Int[Array, "B _"]], new: Tokens) -> Tokens:
    """The inverse of `pick_tokens`: the tokens of each level, some of whose frames are new."""
    x, new = (tuple(move(level, "frames", "places") for level in each) for each in (x, new))
    put_one = jax.vmap(lambda x, i, y: x.at[i].set(y))
    whole = (
        locally(put_one, (PLACES, CHOSEN, PLACES), PLACES, *each)
        for each in zip(x, frames, new, strict=True)
    )
    return tuple(move(level, "places", "frames") for level in whole)


def in_order(parts: Sequence[Shaped[Array, "B _ ..."]], levels: Sequence[Level]) -> Array:
    """The frames of all levels in the order of the clip."""
    order = np.argsort(np.concatenate([level.frames for level in levels]))
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=1)[:, order]


@struct.dataclass
class Layout:
    """What the words of a network see besides the tokens.

    Attributes:
      level: the inputs of words over a "token" or a "frame", for each level.
      cell, clip: those of words over a "cell" and over the "clip".
      parts: for each level, the rows and columns of tokens in a cell.
    """

    level: tuple[Context, ...]
    cell: Context
    clip: Context
    parts: tuple[tuple[int, int], ...] = struct.field(pytree_node=False)

    def mix(
        self, word: nn.Module, x: Tokens, repeat: Int[Array, ""], split: str = "frames"
    ) -> Tokens:
        """The updates of a word in repeat number `repeat` of its line.

        `split` says how devices divide the tokens, see `models/devices.py`.
        """
        over = getattr(word, "over", "")  # what has one level only needs none
        if len(x) == 1 or over not in ("cell", "clip"):
            contexts = (context.replace(repeat=repeat, split=split) for context in self.level)
            return tuple(word(part, c) for part, c in zip(x, contexts, strict=True))
        if over == "clip":
            return self._over_clip(word, x, repeat, split)
        flat, per_cell = "b t (h p w q) d", "b (t p q) (h w) d"
        sizes = [self._sizes(i) for i in range(len(x))]
        joined = [
            rearrange(part, f"{flat} -> {per_cell}", **size)
            for part, size in zip(x, sizes, strict=True)
        ]
        y = word(jnp.concatenate(joined, axis=1), self.cell.replace(repeat=repeat, split=split))
        ends = np.cumsum([part.shape[1] for part in joined])[:-1]
        return tuple(
            rearrange(part, f"{per_cell} -> {flat}", **size)
            for part, size in zip(jnp.split(y, ends, axis=1), sizes, strict=True)
        )

    def _over_clip(self, word: nn.Module, x: Tokens, repeat: Int[Array, ""], split: str) -> Tokens:
        """`mix` among all tokens: each device joins its own, so none moves before the word."""

        def join(*x: Array) -> Array:
            return jnp.concatenate([rearrange(a, "b t n d -> b (t n) 1 d") for a in x], axis=1)

        def part(y: Array, *x: Array) -> Tokens:
            ends = np.cumsum([a.shape[1] * a.shape[2] for a in x])[:-1]
            parts = zip(jnp.split(y, ends, axis=1), x, strict=True)
            return tuple(rearrange(y, "b (t n) 1 d -> b t n d", t=a.shape[1]) for y, a in parts)

        turns = self.clip.turns
        if (devices := parts_of("frames")) > 1:
            order = _order([level.shape[1:3] for level in x], devices, split)
            turns = {name: turn[:, :, order] for name, turn in turns.items()}
        context = self.clip.replace(turns=turns, repeat=repeat, split="frames")
        own, joined = [names_of(split)] * len(x), names_of("frames")
        y = word(locally(join, own, joined, *x), context)
        return locally(part, [joined, *own], own[0], y, *x)

    def _sizes(self, i: int) -> dict[str, int]:
        """Rows of cells and of tokens in a cell, and the same of columns."""
        (rows, columns), (p, q) = self.level[i].grid, self.parts[i]
        return {"h": rows // p, "p": p, "w": columns // q, "q": q}


def _order(shapes: Sequence[tuple[int, int]], devices: int, split: str) -> Int[np.ndarray, " S"]:
    """The tokens of all levels, of (frames, places) each, device by device."""
    counts = [T * N for T, N in shapes]
    first = np.cumsum([0, *counts])
    parts = [
        np.split((start + np.arange(T * N)).reshape(T, N), devices, axis=split == "places")
        for start, (T, N) in zip(first, shapes, strict=False)
    ]
    return np.concatenate([part[i].ravel() for i in range(devices) for part in parts])


def make_layout(
    levels: Sequence[Level],
    seconds: Sequence[Float[Array, "B _"]],
    size: tuple[int, int],
    context: Context,
    head_dim: int,
) -> Layout:
    """The layout of the tokens of frames of `size` (height, width).

    Args:
      levels: those that have frames.
      seconds: times of the frames of each level.
      size: height and width of a frame in pixels.
      context: what all tokens see, such as text.
      head_dim: features of a head, whose pairs get rotary positions; 0 for none.
    """
    coarsest = levels[-1].patch

    def of_level(level: Level, time: Array) -> Context:
        at = level.places(size)
        turns = {
            "space": embeddings.rotary(head_dim, place=at),
            "time": embeddings.rotary(head_dim, time),
            "both": embeddings.rotary(head_dim, time, at),
        }
        return context.replace(seconds=time, turns=turns if head_dim else {}, grid=level.grid(size))

    def of_all(area: Sequence[int]) -> Context:
        each = [(time, level.places(area)) for time, level in zip(seconds, levels, strict=True)]
        time = jnp.concatenate([jnp.repeat(time, len(at), axis=1) for time, at in each], axis=1)
        at = jnp.concatenate([jnp.tile(at, (time.shape[1], 1)) for time, at in each])
        turn = embeddings.rotary(head_dim, time, at[:, None])
        return context.replace(seconds=time, turns={"time": turn, "both": turn} if head_dim else {})

    return Layout(
        level=tuple(map(of_level, levels, seconds)),
        cell=of_all(coarsest),
        clip=of_all(size),
        parts=tuple(level.grid(coarsest) for level in levels),
    )


@requirement
def _check_levels(config: ConfigDict) -> None:
    model = config.model
    per_frame, *fine = model.patch
    if not model.detail:
        raise InputError("config.model.detail is empty: give a level for each frame, such as (0,)")
    for name in ("model.detail", "model.detail_onwards", "model.detail_between", "sampler.detail"):
        section, _, last = name.partition(".")
        if max(detail := tuple(config[section][last]), default=0) > len(model.patches):
            raise InputError(
                f"config.{name}={detail}: there is no level {max(detail)}; levels above 0 are "
                f"those of config.model.patches={tuple(map(tuple, model.patches))}"
            )
    if bool(model.detail_onwards) != bool(model.detail_between):
        raise InputError(
            "config.model.detail_onwards and config.model.detail_between: give both, or none; "
            "(0,) has all details"
        )
    if model.detail_between and not config.data.plans:
        raise InputError(
            "config.model.detail_between: the network must train on such calls: name a plan, such "
            'as config.data.plans=("key_frames(frames=64)",)'
        )
    if model.detail_between and config.sampler.lag:
        raise InputError(
            f"config.sampler.lag={config.sampler.lag}: frames that follow one another do not go "
            "with config.model.detail_between, which orders them by importance: set lag to 0"
        )
    lines = grammar.parse(model.blocks, MIXERS)
    if model.skip and (not model.patches or len(lines) < 3):
        raise InputError(
            f"config.model.skip={model.skip:g}: it needs levels of detail, see "
            "config.model.patches, and at least three lines in config.model.blocks, such as "
            "1*(space mlp time mlp) 2*(space mlp time mlp) 1*(space mlp time mlp)"
        )
    if not model.patches:
        return
    frame = (config.data.size, config.data.width or config.data.size)
    chain = [tuple(fine), *map(tuple, model.patches), frame]
    for (p, q), (r, s) in itertools.pairwise(chain):
        if r % p or s % q:
            raise InputError(
                f"config.model.patches: patches of {p}x{q} pixels do not nest in {r}x{s}: give "
                "multiples of config.model.patch, fine to coarse, that divide config.data.size"
            )
    for wrong, instead in (
        (per_frame > 1, f"patch=(1, {fine[0]}, {fine[1]})"),
        (model.causal, "causal=False"),
        (model.positions == "learned", "positions=rotary or sincos"),
    ):
        if wrong:
            raise InputError(f"config.model.patches: levels of detail need config.model.{instead}")
    words = (word for line, _ in lines for group in line for word in group)
    for word in words:
        if over_of(word.name) not in ABLE:
            able = ", ".join(name for name in MIXERS if over_of(name) in ABLE)
            raise InputError(
                f"config.model.blocks: '{word.name}' needs tokens of one size, so it cannot mix "
                f"those of config.model.patches; {able} can"
            )
