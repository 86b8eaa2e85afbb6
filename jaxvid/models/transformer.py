"""The network: maps a video, its times, noise levels and conditions to a prediction.

The closest published architecture is Latte (Ma et al. 2024, arXiv 2401.03048). adaLN-zero is from
DiT (Peebles & Xie 2022, arXiv 2212.09748); here every frame has its own modulation.
"""

import itertools
from collections.abc import Mapping
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
from jaxvid.errors import InputError
from jaxvid.models import embeddings, grammar
from jaxvid.models.attention import CHOICES, choose
from jaxvid.models.conditioning import NOISE_FREQUENCIES, Setting, concat_channels
from jaxvid.models.layers import dense, layer_norm, modulation
from jaxvid.models.mixers import MIXERS, Context, MixerConfig


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
        one_of(REMAT_POLICIES),
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
    block adds a learned offset (Chen et al. 2023, arXiv 2310.00426, section 2.3).
    """

    line: grammar.Line
    mixer: MixerConfig
    shared: bool

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T N D"],
        frame: Float[Array, "..."],
        context: Context,
        repeat: Int[Array, ""],
    ) -> tuple[Float[Array, "B T N D"], None]:
        dtype, number = self.mixer.dtype, itertools.count()
        context = context.replace(repeat=repeat)
        for words in self.line:
            updates = []
            for word in words:
                i = next(number)
                name = f"{word.name}_{i}"
                if self.shared:
                    shift, scale, gate = frame[i] + self.offset(f"{name}_offset", x.shape[-1])
                else:
                    shift, scale, gate = modulation(3, dtype, f"{name}_modulation")(frame)
                h = layer_norm(x, dtype) * (1 + scale) + shift
                arguments = dict(word.arguments)
                mix = MIXERS[word.name](config=self.mixer, name=name, **arguments)
                updates.append(gate * mix(h, context))
            x = x + sum(updates)
        return nn.with_logical_constraint(x, ("batch", "frames", "tokens", "width")), None

    def offset(self, name: str, width: int) -> Float[Array, "3 1 1 1 D"]:
        init = nn.with_logical_partitioning(nn.initializers.zeros, (None, "width"))
        offset = self.param(name, init, (3, width)).astype(self.mixer.dtype)
        return offset[:, None, None, None]


class SpaceTimeTransformer(nn.Module):
    """A transformer over space and time; the block grammar defines its layers.

    Attributes:
      blocks: the architecture, in the block grammar. Repeats are scans.
      depth: repeats of the words that `blocks` does not repeat.
      width, heads, mlp_ratio: the usual sizes; width must be a multiple of 2 * heads.
      patch: (frames, rows, columns) of a patch; they must divide the video.
      causal: whether a frame sees only itself and earlier frames.
      memory: earlier frames that causal `time` and `joint` still see in a stream.
      positions: "rotary" rotates queries and keys by seconds, row and column, and adds fixed sines
        and cosines of the patch grid. "sincos" adds fixed sines and cosines of all three. "learned"
        adds tables of the patch grid and the frame number, which fix the number of frames and
        their size (see `embeddings.interpolate`).
      adaln: "block": each word of each block has its own modulation layer. "shared": all repeats
        share one modulation, plus a learned offset.
      conditions: the conditions of the network; see `conditioning`.
      remat: what the backward pass recomputes: "none", all but matrix products ("dots"), "full".
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
    ) -> Float32[Array, "B T H W C"]:
        """The prediction for a noisy video, in its shape and in float32.

        Args:
          video: noisy frames.
          noise: noise level of each frame in [0, 1]; 0 is clean.
          time: presentation time of each frame in seconds.
          given: the arrays of each of the `conditions`, by its name.
        """
        *_, H, W, C = video.shape
        per_patch, rows, columns = self.patch
        place = embeddings.grid(H // rows, W // columns)
        seconds = rearrange(time, "b (t p) -> b t p", p=per_patch).mean(-1)
        context = Context(seconds, grid=(H // rows, W // columns))
        setting = Setting(self.width, self.heads, per_patch, self.dtype)
        conditioning = 0.0
        for condition in self.conditions:
            entry = condition.embed(given[condition.name], setting)
            conditioning += entry.frame
            if entry.channels is not None:
                video = concat_channels(video, entry.channels)
            if entry.tokens is not None:
                context = context.replace(text=entry.tokens, text_lengths=entry.lengths)
        frame = nn.silu(self.noise_embedding(noise) + conditioning)
        x = dense(self.width, self.dtype, ("patch", "embed"), "patches")(
            embeddings.patchify(video, self.patch)
        )
        if self.positions == "rotary":
            x += embeddings.sincos(self.width, place).astype(self.dtype)
            d = self.width // self.heads
            turns = {
                "space": embeddings.rotary(d, place=place),
                "time": embeddings.rotary(d, seconds),
                "both": embeddings.rotary(d, seconds, place),
            }
            context = context.replace(turns=turns)
        elif self.positions == "sincos":
            x += embeddings.sincos(self.width, place, seconds).astype(self.dtype)
        else:
            x += embeddings.Learned(self.width, name="positions")(x.shape[1:3]).astype(self.dtype)
        x = nn.with_logical_constraint(x, ("batch", "frames", "tokens", "width"))

        for i, (line, depth) in enumerate(stacks(self.blocks, self.depth)):
            x = self.stack(f"blocks_{i}", line, depth, x, frame, context)

        shift, scale = modulation(2, self.dtype, "modulation")(frame)
        x = layer_norm(x, self.dtype) * (1 + scale) + shift
        size = per_patch * rows * columns * C
        x = dense(size, self.dtype, ("embed", "patch"), "pixels", scale=0.0)(x)
        return embeddings.unpatchify(x, self.patch, (H, W)).astype(jnp.float32)

    def stack(
        self,
        name: str,
        line: grammar.Line,
        depth: int,
        x: Float[Array, "B T N D"],
        frame: Float[Array, "B T D"],
        context: Context,
    ) -> Float[Array, "B T N D"]:
        """Applies a line `depth` times, as one scan."""
        shared = self.adaln == "shared"
        if shared:
            count = sum(map(len, line))
            parts = modulation(3 * count, self.dtype, f"{name}_modulation")(frame)
            frame = jnp.stack(parts).reshape(count, 3, *parts[0].shape)
        implementation = choose(self.attention, self.platform)
        mixer = MixerConfig(
            self.heads, self.mlp_ratio, self.dtype, self.causal, self.memory, implementation
        )
        block = Block
        if self.remat != "none":
            block = nn.remat(block, prevent_cse=False, policy=REMAT_POLICIES[self.remat])
        x, _ = nn.scan(
            block,
            variable_axes={"params": 0, "cache": 0},
            split_rngs={"params": True},
            in_axes=(nn.broadcast, nn.broadcast, 0),
            length=depth,
            unroll=min(self.unroll, depth),
            metadata_params={nn.PARTITION_NAME: "layers"},
        )(line, mixer, shared, name=name)(x, frame, context, jnp.arange(depth))
        return x

    def noise_embedding(self, noise: Float[Array, "B T"]) -> Float[Array, "B t D"]:
        """A vector for each patch of frames, from their noise levels."""
        h = embeddings.sinusoidal(noise, NOISE_FREQUENCIES)
        h = rearrange(h, "b (t p) f -> b t (p f)", p=self.patch[0]).astype(self.dtype)
        h = dense(self.width, self.dtype, (None, "embed"), "noise_in")(h)
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
        ("size", data.size, model.patch[2]),
    ):
        if size % patch:
            raise InputError(
                f"config.data.{name}={size} does not divide into patches of {patch} "
                f"(config.model.patch={tuple(model.patch)}): choose a multiple or another patch"
            )
    repeats = max(repeats for _, repeats in stacks(model.blocks, model.depth))
    if model.remat != "none" and 1 < repeats < 2 * model.unroll:
        # The compiler finds what is recomputed among what it has, and keeps that.
        raise InputError(
            f"config.model.remat={model.remat} needs a loop over depth, and saves nothing with "
            f"config.model.unroll={model.unroll} of {repeats} repeats: set model.unroll=1 "
            "or model.remat=none"
        )
