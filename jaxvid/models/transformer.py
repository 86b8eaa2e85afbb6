"""The network: maps a video, its times, noise levels and conditions to a prediction.

The closest published architecture is Latte (Ma et al. 2024, arXiv 2401.03048). adaLN-zero is from
DiT (Peebles & Xie 2022, arXiv 2212.09748); here every frame has its own modulation.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn
from jaxtyping import Array, Float, Float32, Int, PyTree
from ml_collections import ConfigDict

from jaxvid.config import (
    FLAG,
    POSITIVE,
    TEXT,
    Rule,
    declare,
    is_sequence,
    key,
    one_of,
    requirement,
)
from jaxvid.errors import InputError, nearest
from jaxvid.models import embeddings, grammar
from jaxvid.models.attention import CHOICES, choose
from jaxvid.models.conditioning import NOISE_FREQUENCIES, Setting, concat_channels
from jaxvid.models.detail import (
    Layout,
    Level,
    Tokens,
    chosen,
    in_order,
    kept,
    levels_of,
    make_layout,
    pick,
    pick_tokens,
    put_tokens,
)
from jaxvid.models.devices import BY_HEADS, constrain, move, per_frame
from jaxvid.models.layers import dense, layer_norm, modulation
from jaxvid.models.mixers import MIXERS, Context, MixerConfig, over_of, split_of


def _keeps_products(primitive: Any, *arguments: Any, **parameters: Any) -> bool:
    """The policy "dots": products of layers, and what layers name, such as attention's output.

    That of the fused kernel is not: to compute it again takes less time than to store it.
    """
    by_name = jax.checkpoint_policies.save_only_these_names("attention", "hidden", "statistics")
    return (
        primitive.name == "dot_product_attention_fwd_wrapper"  # of cuDNN, with its residuals
        or by_name(primitive, *arguments, **parameters)
        or jax.checkpoint_policies.dots_with_no_batch_dims_saveable(
            primitive, *arguments, **parameters
        )
    )


REMAT_POLICIES = {
    "none": None,
    "dots": _keeps_products,
    "full": jax.checkpoint_policies.nothing_saveable,
}


def remat_of(text: str) -> tuple[str, dict[str, str]]:
    """The policy in `model.remat`, and those of single words, as in "none mlp=full joint=dots".

    Raises ValueError for another form.
    """
    policy, *others = text.split()
    of_words = dict(other.split("=") for other in others)
    if unknown := {policy, *of_words.values()} - REMAT_POLICIES.keys():
        raise ValueError(unknown)
    return policy, of_words


def _is_remat(value: Any) -> bool:
    try:
        return isinstance(value, str) and bool(remat_of(value))
    except ValueError:
        return False


POSITIONS = ("rotary", "sincos", "learned")
ADALN = ("block", "shared")
TRIPLE = Rule("(frames, rows, columns)", lambda v: is_sequence(v, POSITIVE.holds, 3))

declare(
    "model",
    blocks=key("space mlp time mlp", TEXT, "architecture, in the block grammar"),
    depth=key(12, POSITIVE, "repeats of the words that `blocks` does not repeat"),
    width=key(384, POSITIVE, "features of a token"),
    heads=key(6, POSITIVE, "attention heads"),
    patch=key((1, 2, 2), TRIPLE, "frames, rows and columns of pixels in a token"),
    mlp_ratio=key(4, POSITIVE, "hidden width of the MLP divided by the width"),
    causal=key(False, FLAG, "whether a frame sees only itself and earlier frames"),
    positions=key("rotary", one_of(POSITIONS), "encoding of time, row and column of a token"),
    adaln=key("block", one_of(ADALN), "one modulation for each block, or one shared by all"),
    remat=key(
        "none",
        Rule(
            f'one of {", ".join(REMAT_POLICIES)}, then others for words, as in "none mlp=full"',
            _is_remat,
            REMAT_POLICIES,
        ),
        'what the backward pass recomputes to save memory; "dots" keeps products and attention',
        free=True,
    ),
    unroll=key(1, POSITIVE, "repeats per iteration of the scan over depth", free=True),
    attention=key(
        "auto",
        one_of(CHOICES),
        'implementation of attention; "auto" takes the fastest for the devices',
        free=True,
    ),
    dtype=key("float32", one_of(("float32", "bfloat16")), "type of the activations"),
)


class Block(nn.Module):
    """One line of the grammar: residual sub-layers, each modulated by the frame's embedding.

    With `shared`, `frame` holds the shift, scale and gate of each word, [words,3,B,T,1,D], and each
    block adds a learned offset (Chen et al. 2023, arXiv 2310.00426, section 2.3). `remat` has the
    policies of words that are recomputed by themselves.
    """

    line: grammar.Line
    mixer: MixerConfig
    shared: bool
    remat: Mapping[str, str]

    @nn.compact
    def __call__(
        self,
        x: Tokens,
        frame: tuple[Float[Array, "..."], ...],
        layout: Layout,
        repeat: Int[Array, ""],
    ) -> tuple[Tokens, None]:
        width, dtype, number = x[0].shape[-1], self.mixer.dtype, itertools.count()
        split = first = first_split(self.line)
        for words in self.line:
            last = split
            if len(wanted := splits_of(words)) == 1:
                (split,) = wanted
                x = tuple(move(level, last, split) for level in x)
            updates = []
            for word in words:
                i = next(number)
                name = f"{word.name}_{i}"
                if self.shared:
                    offset = self.offset(f"{name}_offset", width)
                    parts = [f[i] + offset for f in frame]
                else:
                    modulate = modulation(3, width, dtype, f"{name}_modulation")
                    parts = [modulate(per_frame(f, split)) for f in frame]
                parts = [[per_frame(part, split) for part in each] for each in parts]
                h = tuple(
                    layer_norm(level, dtype) * (1 + scale) + shift
                    for level, (shift, scale, _) in zip(x, parts, strict=True)
                )
                of_word = remat(MIXERS[word.name], self.remat.get(word.name, "none"))
                mixer = of_word(config=self.mixer, name=name, **dict(word.arguments))
                own = next(iter(splits_of([word])), split)
                h = tuple(move(level, split, own) for level in h)
                mixed = layout.mix(mixer, h, repeat, own)
                gated = zip(parts, mixed, strict=True)
                updates.append([gate * move(y, own, split) for (_, _, gate), y in gated])
            x = tuple(level + sum(new) for level, *new in zip(x, *updates, strict=True))
        x = tuple(move(level, split, first) for level in x)
        return tuple(constrain(level, first) for level in x), None

    def offset(self, name: str, width: int) -> Float[Array, "3 1 1 1 D"]:
        init = nn.with_logical_partitioning(nn.initializers.zeros, (None, "width"))
        offset = self.param(name, init, (3, width)).astype(self.mixer.dtype)
        return offset[:, None, None, None]


def remat(module: type[nn.Module], policy: str) -> type[nn.Module]:
    """A module whose backward pass recomputes what a policy says."""
    if policy == "none":
        return module
    return nn.remat(module, prevent_cse=False, policy=REMAT_POLICIES[policy])


def splits_of(words: Sequence[grammar.Word]) -> set[str]:
    """How devices must divide tokens for words side by side; empty if any way will do."""
    return {split for word in words if (split := split_of(word.name))}


def first_split(line: grammar.Line) -> str:
    """How devices divide tokens before and after a line, and outside of lines by frames."""
    return "places" if set().union(*map(splits_of, line)) == {"places"} else "frames"


class SpaceTimeTransformer(nn.Module):
    """A transformer over space and time; the block grammar defines its layers.

    Attributes:
      blocks: the architecture, in the block grammar. Repeats are scans.
      depth: repeats of the words that `blocks` does not repeat.
      width, heads, mlp_ratio: the usual sizes; width must be a multiple of 2 * heads.
      patch: (frames, rows, columns) of a patch; they must divide the video.
      patches, detail, skip: (rows, columns) of the coarser levels of detail, the level of each
        frame, and the share of the frames above level 0 that skip the middle lines in training;
        see `models/detail.py`.
      causal: whether a frame sees only itself and earlier frames.
      memory: earlier frames that causal `time` and `joint` still see in a stream.
      positions: "rotary" rotates queries and keys by seconds, row and column, and adds fixed sines
        and cosines of the patch grid. "sincos" adds fixed sines and cosines of all three. "learned"
        adds tables of the patch grid and the frame number, which fix the number of frames and
        their size (see `embeddings.interpolate`).
      adaln: "block": each word of each block has its own modulation layer. "shared": all repeats
        share one modulation, plus a learned offset.
      conditions: the conditions of the network; see `conditioning`.
      remat: what the backward pass recomputes: "none", all but matrix products ("dots"), "full";
        then what it recomputes of some words, in place of whole lines, as in "none mlp=full".
      unroll: repeats per iteration of the scan; `depth` is faster than a loop and compiles longer.
      attention: its implementation, one of `attention.CHOICES`.
      platform: the platform of the devices, "cpu", "gpu" or "tpu".
      dtype: the type of the activations; parameters are float32.
    """

    blocks: str = "space mlp time mlp"
    depth: int = 12
    width: int = 384
    heads: int = 6
    patch: tuple[int, int, int] = (1, 2, 2)
    patches: tuple[tuple[int, int], ...] = ()
    detail: tuple[int, ...] = (0,)
    skip: float = 0.0
    mlp_ratio: int = 4
    causal: bool = False
    memory: int = 0
    positions: str = "rotary"
    adaln: str = "block"
    conditions: tuple[Any, ...] = ()
    remat: str = "none"
    unroll: int = 1
    attention: str = "auto"
    platform: str = "cpu"
    dtype: jnp.dtype = jnp.dtype("float32")

    @nn.compact
    def __call__(
        self,
        video: Float[Array, "B T H W C"],
        noise: Float[Array, "B T"],
        time: Float[Array, "B T"],
        given: Mapping[str, PyTree] | None = None,
        lots: Float[Array, "B T"] | None = None,
    ) -> Float32[Array, "B T H W C"]:
        """The prediction for a noisy video, in its shape and in float32.

        Args:
          video: noisy frames.
          noise: noise level of each frame in [0, 1]; 0 is clean.
          time: presentation time of each frame in seconds.
          given: the arrays of each of the `conditions`, by its name.
          lots: random numbers in [0,1) by which some frames skip the middle lines; None for none.
        """
        video = per_frame(video, "frames")
        T, H, W, C = video.shape[1:]
        per_patch = self.patch[0]
        setting = Setting(self.width, self.heads, per_patch, self.dtype)
        context, conditioning = Context(), 0.0
        for condition in self.conditions:
            entry = condition.embed(given[condition.name], setting)
            conditioning += entry.frame
            if entry.channels is not None:
                video = concat_channels(video, entry.channels)
            if entry.tokens is not None:
                context = context.replace(text=entry.tokens, text_lengths=entry.lengths)
        frame = nn.silu(self.noise_embedding(noise) + conditioning)
        frame = nn.with_logical_constraint(frame, ("batch", None, "width"))
        seconds = rearrange(time, "b (t p) -> b t p", p=per_patch).mean(-1)

        levels = self.levels(T)
        layers = {level: self.patch_layers(level, C) for level in levels}
        for level in levels:
            if self.is_initializing() and not level.frames:  # it has parameters all the same
                into, out = layers[level]
                out(into(embeddings.patchify(video, (per_patch, *level.patch))))
        levels = [level for level in levels if level.frames]
        frames, times = ([level.of(array) for level in levels] for array in (frame, seconds))
        x = []
        for level, t in zip(levels, times, strict=True):
            patches = level.of(embeddings.patchify(video, (per_patch, *level.patch)))
            x.append(constrain(layers[level][0](patches) + self.place(level, t, (H, W)), "frames"))
        head_dim = self.width // self.heads * (self.positions == "rotary")

        def through(lines: Sequence, x: Tokens, frames: Sequence, times: Sequence) -> Tokens:
            layout = make_layout(levels, times, (H, W), context, head_dim)
            split = "frames"
            for name, line, depth in lines:
                first = first_split(line)
                x = tuple(move(level, split, first) for level in x)
                x, split = self.stack(name, line, depth, x, frames, layout), first
            return tuple(move(level, split, "frames") for level in x)

        lines = [(f"blocks_{i}", *stack) for i, stack in enumerate(stacks(self.blocks, self.depth))]
        if self.skip and lots is not None:
            own = [chosen(level, self.detail, self.skip, lots) for level in levels]
            x = through(lines[:1], tuple(x), frames, times)
            few = through(lines[1:-1], pick_tokens(x, own), pick(frames, own), pick(times, own))
            x = through(lines[-1:], put_tokens(x, own, few), frames, times)
        else:
            x = through(lines, tuple(x), frames, times)

        final, parts = modulation(2, self.width, self.dtype, "modulation"), []
        for level, tokens, vector in zip(levels, x, frames, strict=True):
            shift, scale = final(vector)
            pixels = layers[level][1](layer_norm(tokens, self.dtype) * (1 + scale) + shift)
            parts.append(embeddings.unpatchify(pixels, (per_patch, *level.patch), (H, W)))
        return in_order(parts, levels).astype(jnp.float32)

    def levels(self, frames: int) -> tuple[Level, ...]:
        """The levels of detail of a clip of `frames` frames, fine to coarse."""
        return levels_of((self.patch[1:], *self.patches), self.detail, frames // self.patch[0])

    def tokens(self, frames: int, size: tuple[int, int]) -> int:
        """The number of tokens of a clip with frames of `size` (height, width)."""
        return sum(len(level.frames) * math.prod(level.grid(size)) for level in self.levels(frames))

    def divided(
        self, frames: int, size: tuple[int, int], tensor: int = 1
    ) -> Iterator[tuple[str, int]]:
        """What the mesh axis `context` divides, and how many there are.

        Args:
          frames, size: of the clip, as in `tokens`.
          tensor: devices that divide the heads already.
        """
        lines = (line for line, _ in stacks(self.blocks, self.depth))
        words = {word.name for line in lines for words in line for word in words}
        levels = [level for level in self.levels(frames) if level.frames]
        for level in levels:
            patch = "x".join(map(str, (self.patch[0], *level.patch)))
            yield f"frames of tokens of {patch} pixels", len(level.frames)
            if self.skip:
                yield "frames that do not skip layers", kept(level, self.detail, self.skip, frames)
        rows, columns = levels[-1].grid(size)
        several = len(levels) > 1  # then places are rows of cells
        what = "rows of cells" if several else "places of a frame"
        places = rows if several else rows * columns
        if self.skip:
            yield f"{what}, for config.model.skip", places
        for word in sorted(words):
            if split_of(word) == "places":
                yield f"{what}, for '{word}'", places
            if over_of(word) in BY_HEADS:
                yield f"heads on a device, for '{word}'", self.heads // tensor

    def patch_layers(self, level: Level, channels: int) -> tuple[nn.Module, nn.Module]:
        """The layers from patches to tokens of a level, and from tokens to pixels."""
        rows, columns = level.patch
        suffix = "" if level.scale == (1, 1) else f"_{rows}x{columns}"
        size = self.patch[0] * rows * columns * channels
        return (
            dense(self.width, self.dtype, ("patch", "embed"), f"patches{suffix}"),
            dense(size, self.dtype, ("embed", "patch"), f"pixels{suffix}", scale=0.0),
        )

    def place(
        self, level: Level, seconds: Float[Array, "B T"], size: tuple[int, int]
    ) -> Float[Array, "... N D"]:
        """What is added to the tokens of a level for their positions."""
        if self.positions == "learned":
            rows, columns = level.grid(size)
            table = embeddings.Learned(self.width, name="positions")
            return table((seconds.shape[1], rows * columns)).astype(self.dtype)
        time = seconds if self.positions == "sincos" else None
        return embeddings.sincos(self.width, level.places(size), time).astype(self.dtype)

    def stack(
        self,
        name: str,
        line: grammar.Line,
        depth: int,
        x: Tokens,
        frames: Sequence[Float[Array, "B _ D"]],
        layout: Layout,
    ) -> Tokens:
        """Applies a line `depth` times, as one scan."""
        shared = self.adaln == "shared"
        if shared:
            count = sum(map(len, line))
            parts = modulation(3 * count, self.width, self.dtype, f"{name}_modulation")
            frames = [jnp.stack(parts(f)).reshape(count, 3, *f.shape[:2], 1, -1) for f in frames]
        implementation = choose(self.attention, self.platform)
        mixer = MixerConfig(
            self.heads, self.mlp_ratio, self.dtype, self.causal, self.memory, implementation
        )
        policy, of_words = remat_of(self.remat)
        if of_words:
            of_words = {w.name: of_words.get(w.name, policy) for words in line for w in words}
        x, _ = nn.scan(
            remat(Block, "none" if of_words else policy),
            variable_axes={"params": 0, "cache": 0},
            split_rngs={"params": True},
            in_axes=(nn.broadcast, nn.broadcast, 0),
            length=depth,
            unroll=min(self.unroll, depth),
            metadata_params={nn.PARTITION_NAME: "layers"},
        )(line, mixer, shared, of_words, name=name)(x, tuple(frames), layout, jnp.arange(depth))
        return x

    def noise_embedding(self, noise: Float[Array, "B T"]) -> Float[Array, "B t D"]:
        """A vector for each patch of frames, from their noise levels."""
        h = embeddings.sinusoidal(noise, NOISE_FREQUENCIES)
        h = rearrange(h, "b (t p) f -> b t (p f)", p=self.patch[0]).astype(self.dtype)
        h = dense(self.width, self.dtype, (None, "embed"), "noise_in")(h)
        h = nn.with_logical_constraint(h, ("batch", None, "width"))  # not as the kernel is divided
        return dense(self.width, self.dtype, ("embed", None), "noise_out")(nn.silu(h))


def stacks(blocks: str, depth: int) -> list[tuple[grammar.Line, int]]:
    """The lines of `blocks` and their repeats, by default `depth`."""
    return [(line, repeats or depth) for line, repeats in grammar.parse(blocks, MIXERS)]


@requirement
def _check_network(config: ConfigDict) -> None:
    model, data = config.model, config.data
    grammar.parse(model.blocks, MIXERS)  # raises InputError for an invalid line
    if model.width % (2 * model.heads) or model.width % 4:
        raise InputError(
            f"config.model.width={model.width} must be a multiple of 4 and of "
            f"2 * model.heads = {2 * model.heads}: rotary positions rotate pairs of features"
        )
    for name, size, patch in (
        ("frames", data.frames, model.patch[0]),
        ("size", data.size, model.patch[1]),
        ("width" if data.width else "size", data.width or data.size, model.patch[2]),
    ):
        if size % patch:
            raise InputError(
                f"config.data.{name}={size} does not divide into patches of {patch} "
                f"(config.model.patch={tuple(model.patch)}): choose a multiple or another patch"
            )
    for word in remat_of(model.remat)[1]:
        if word not in MIXERS:
            raise InputError(
                f"config.model.remat={model.remat}: there is no word {word!r}; "
                f"{nearest(word, MIXERS)}choose of {', '.join(MIXERS)}"
            )
    repeats = max(repeats for _, repeats in stacks(model.blocks, model.depth))
    if model.remat != "none" and 1 < repeats < 2 * model.unroll:
        # The compiler finds what is recomputed among what it has, and keeps that.
        raise InputError(
            f"config.model.remat={model.remat} needs a loop over depth, and saves nothing with "
            f"config.model.unroll={model.unroll} of {repeats} repeats: set model.unroll=1 "
            "or model.remat=none"
        )
