"""The network: a video, the time and noise level of each frame, a condition -> a prediction.

Latte (Ma et al. 2024, arXiv 2401.03048) is the nearest published architecture; adaLN-zero is DiT's
(Peebles & Xie 2022, arXiv 2212.09748), here with one modulation per frame.
"""

import itertools

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn
from jaxtyping import Array, Float, Float32, Int
from ml_collections import ConfigDict

from jaxvid.config import (
    FLAG,
    FRACTION,
    NATURAL,
    POSITIVE,
    TEXT,
    Rule,
    declare,
    flatten,
    is_sequence,
    key,
    one_of,
    requirement,
)
from jaxvid.errors import InputError
from jaxvid.models import embeddings, grammar
from jaxvid.models.conditioning import (
    NOISE_FREQUENCIES,
    Condition,
    FrameCondition,
    TextEncoder,
    concat_low_res,
)
from jaxvid.models.layers import dense, layer_norm, modulation
from jaxvid.models.mixers import MIXERS, Context, MixerConfig

REMAT_POLICIES = {
    "none": None,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}
POSITIONS = ("rotary", "sincos", "learned")
ADALN = ("block", "shared")
# The key that gives clips a condition.
SWITCHES = {
    "label": "model.labels",
    "text": "data.text_length",
    "action": "data.action_dim",
    "low_res": "data.low_res",
}


TRIPLE = Rule("(frames, rows, columns)", lambda v: is_sequence(v, POSITIVE.holds, 3))

declare(
    "model",
    blocks=key("space mlp time mlp", TEXT, "the architecture, in the block grammar"),
    depth=key(12, POSITIVE, "repeats of what `blocks` does not repeat itself"),
    width=key(384, POSITIVE, "numbers per token"),
    heads=key(6, POSITIVE, "heads of the attention"),
    patch=key((1, 2, 2), TRIPLE, "frames, rows and columns of pixels in a token"),
    mlp_ratio=key(4, POSITIVE, "hidden width of the MLP, over the width"),
    causal=key(False, FLAG, "whether a frame sees only itself and those before it"),
    positions=key("rotary", one_of(POSITIONS), "how tokens know where and when they are"),
    adaln=key("block", one_of(ADALN), "whether each block has its own modulation"),
    labels=key(0, NATURAL, "classes; 0 is none"),
    text_depth=key(2, POSITIVE, "blocks of the encoder of captions"),
    label_dropout=key(0.1, FRACTION, "share of clips that train without their label"),
    text_dropout=key(0.1, FRACTION, "share of clips that train without their caption"),
    action_dropout=key(0.1, FRACTION, "share of clips that train without their actions"),
    low_res_dropout=key(0.1, FRACTION, "share that train without their low-resolution video"),
    remat=key("none", one_of(REMAT_POLICIES), "what the backward pass computes again", free=True),
    unroll=key(1, POSITIVE, "repeats per iteration of the loop over depth", free=True),
    dtype=key("float32", one_of(("float32", "bfloat16")), "what the network computes in"),
)


class Block(nn.Module):
    """One line of the grammar: residual sub-layers, each modulated by the frame's embedding.

    With `shared`, `frame` holds the shift, scale and gate of each word, [words,3,B,T,1,D], and a
    learned offset is the block's own (Chen et al. 2023, arXiv 2310.00426, section 2.3).
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
    """A transformer over space and time whose depth is written in the block grammar.

    Attributes:
      blocks: the architecture, in the block grammar. Repeats are scans.
      depth: repeats of what `blocks` does not repeat itself.
      width, heads, mlp_ratio: the usual sizes; width is a multiple of 2 * heads.
      patch: (frames, rows, columns) of a patch; they divide the video.
      causal: whether a frame sees only itself and those before it.
      memory: frames before the window that causal `time` and `joint` still see when streaming.
      positions: "rotary": attention turns by seconds, row and column, and fixed sines and cosines
        of the patch grid are added. "sincos": fixed sines and cosines of all three are added.
        "learned": tables of the patch grid and of frame numbers are added; for these alone the
        number of frames and their size are fixed (see `embeddings.interpolate`).
      adaln: "block": each word of each block makes its own modulation from the frame's embedding.
        "shared": all repeats share one, plus a learned offset.
      labels: number of classes, 0 for none.
      text_depth: blocks of the encoder of text, where the text comes as bytes.
      remat: what the backward pass recomputes: "none", all but matrix products ("dots"), "full".
      unroll: repeats per iteration of the scan; more can run faster, and compile longer.
      dtype: what the network computes in; parameters are float32.
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
    labels: int = 0
    text_depth: int = 2
    remat: str = "none"
    unroll: int = 1
    dtype: jnp.dtype = jnp.dtype("float32")

    @nn.compact
    def __call__(
        self,
        video: Float[Array, "B T H W C"],
        noise: Float[Array, "B T"],
        time: Float[Array, "B T"],
        condition: Condition | None = None,
    ) -> Float32[Array, "B T H W C"]:
        """Predicts what it was trained to predict, of the video's shape, in float32.

        Args:
          video: noisy frames.
          noise: level of each frame in [0, 1], 0 = clean.
          time: presentation time of each frame in seconds.
          condition: what the clip should be; the same fields as at `init`.
        """
        condition = condition or Condition()
        *_, H, W, C = video.shape
        per_patch, rows, columns = self.patch
        place = embeddings.grid(H // rows, W // columns)
        seconds = rearrange(time, "b (t p) -> b t p", p=per_patch).mean(-1)
        context = Context(seconds, grid=(H // rows, W // columns))
        x = dense(self.width, self.dtype, ("patch", "embed"), "patches")(
            embeddings.patchify(concat_low_res(video, condition), self.patch)
        )
        if self.positions == "rotary":
            x += embeddings.sincos(self.width, place).astype(self.dtype)
            turn = embeddings.rotary(seconds, place, self.width // self.heads)
            context = context.replace(turn=turn)
        elif self.positions == "sincos":
            x += embeddings.sincos(self.width, place, seconds).astype(self.dtype)
        else:
            x += embeddings.Learned(self.width, name="positions")(x.shape[1:3]).astype(self.dtype)
        x = nn.with_logical_constraint(x, ("batch", "frames", "tokens", "width"))
        if condition.text_mask is not None:
            text, mask = TextEncoder(
                self.width, self.text_depth, self.heads, self.dtype, name="text"
            )(condition)
            context = context.replace(text=text, text_mask=mask)
        frame = self.frame_embedding(noise, condition, context)

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
        """`depth` repeats of a line, as one scan."""
        shared = self.adaln == "shared"
        if shared:
            count = sum(map(len, line))
            parts = modulation(3 * count, self.dtype, f"{name}_modulation")(frame)
            frame = jnp.stack(parts).reshape(count, 3, *parts[0].shape)
        mixer = MixerConfig(self.heads, self.mlp_ratio, self.dtype, self.causal, self.memory)
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

    def frame_embedding(
        self, noise: Float[Array, "B T"], condition: Condition, context: Context
    ) -> Float[Array, "B t D"]:
        """One vector per frame from its noise level and the condition, past its last SiLU."""
        h = embeddings.sinusoidal(noise, NOISE_FREQUENCIES)
        h = rearrange(h, "b (t p) f -> b t (p f)", p=self.patch[0]).astype(self.dtype)
        h = dense(self.width, self.dtype, (None, "embed"), "noise_in")(h)
        h = dense(self.width, self.dtype, ("embed", None), "noise_out")(nn.silu(h))
        h += FrameCondition(self.width, self.labels, self.patch[0], self.dtype, name="condition")(
            condition, context.text, context.text_mask
        )
        return nn.silu(h)


def stacks(blocks: str, depth: int) -> list[tuple[grammar.Line, int]]:
    """The lines of `blocks` and their repeats; `depth` where it gives none."""
    return [(line, repeats or depth) for line, repeats in grammar.parse(blocks, MIXERS)]


@requirement
def _check_network(config: ConfigDict) -> None:
    model, data = config.model, config.data
    for line, depth in stacks(model.blocks, model.depth):
        if depth % min(model.unroll, depth):
            raise InputError(f"config.model.unroll={model.unroll} must divide depth={depth}")
        for word in (word.name for words in line for word in words):
            needs = getattr(MIXERS[word], "needs", None)
            if needs and not flatten(config)[SWITCHES[needs]]:
                raise InputError(
                    f"config.model.blocks: '{word}' needs the condition '{needs}', which is off: "
                    f"set config.{SWITCHES[needs]}"
                )
    if model.width % (2 * model.heads) or model.width % 4:
        raise InputError(
            f"config.model.width={model.width} must be a multiple of 4 and of "
            f"2 * model.heads = {2 * model.heads}: rotary positions turn pairs"
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
