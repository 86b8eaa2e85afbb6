"""The network: a video, the time and noise level of each frame, a condition -> a prediction.

Latte (Ma et al. 2024, arXiv 2401.03048) is the nearest published architecture; adaLN-zero is DiT's
(Peebles & Xie 2022, arXiv 2212.09748), here with one modulation per frame.
"""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn
from flax import struct
from jaxtyping import Array, Float, Float32

from jaxvid.models import embeddings, grammar
from jaxvid.models.layers import dense, layer_norm, modulation
from jaxvid.models.mixers import MIXERS

REMAT_POLICIES = {
    "none": None,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}
NOISE_FREQUENCIES = embeddings.frequencies(1000.0, 0.1, 64)


@struct.dataclass
class Condition:
    """What a clip is asked to be. Every field is optional.

    Attributes:
      label: class index, int32 [B]; -1 is the learned null, used for classifier-free guidance.
    """

    label: Any = None


class Block(nn.Module):
    """One line of the grammar: residual sub-layers, each modulated by the frame's embedding."""

    line: tuple[tuple[str, ...], ...]
    heads: int
    mlp_ratio: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T N D"],
        frame: Float[Array, "B T D"],
        turn: Float32[Array, "2 B T N F"],
    ) -> tuple[Float[Array, "B T N D"], None]:
        number = itertools.count()
        for words in self.line:
            updates = []
            for word in words:
                name = f"{word}_{next(number)}"
                shift, scale, gate = modulation(3, self.dtype, f"{name}_modulation")(frame)
                h = layer_norm(x, self.dtype) * (1 + scale) + shift
                mixer = MIXERS[word](self.heads, self.mlp_ratio, self.dtype, name)
                updates.append(gate * mixer(h, turn))
            x = x + sum(updates)
        return nn.with_logical_constraint(x, ("batch", "frames", "tokens", "width")), None


class SpaceTimeTransformer(nn.Module):
    """A transformer over space and time whose depth is written in the block grammar.

    Attributes:
      blocks: a line of the grammar, repeated `depth` times by a scan.
      depth, width, heads, mlp_ratio: the usual sizes; width is a multiple of 2 * heads.
      patch: (frames, rows, columns) of a patch; they divide the video.
      labels: number of classes, 0 for none.
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
    labels: int = 0
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
          condition: what the clip should be.
        """
        *_, H, W, C = video.shape
        per_patch, rows, columns = self.patch
        grid = embeddings.grid(H // rows, W // columns)
        seconds = rearrange(time, "b (t p) -> b t p", p=per_patch).mean(-1)
        turn = embeddings.rotary(seconds, grid, self.width // self.heads)
        x = dense(self.width, self.dtype, ("patch", "embed"), "patches")(
            embeddings.patchify(video, self.patch)
        )
        x += self.place_embedding(grid)
        x = nn.with_logical_constraint(x, ("batch", "frames", "tokens", "width"))
        frame = self.frame_embedding(noise, condition)

        block = Block
        if self.remat != "none":
            block = nn.remat(block, prevent_cse=False, policy=REMAT_POLICIES[self.remat])
        x, _ = nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(nn.broadcast, nn.broadcast),
            length=self.depth,
            unroll=self.unroll,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )(
            grammar.parse(self.blocks, MIXERS), self.heads, self.mlp_ratio, self.dtype,
            name="blocks",
        )(x, frame, turn)  # fmt: skip

        shift, scale = modulation(2, self.dtype, "modulation")(frame)
        x = layer_norm(x, self.dtype) * (1 + scale) + shift
        size = per_patch * rows * columns * C
        x = dense(size, self.dtype, ("embed", "patch"), "pixels", scale=0.0)(x)
        return embeddings.unpatchify(x, self.patch, (H, W)).astype(jnp.float32)

    def place_embedding(self, grid: Float32[Array, "N 2"]) -> Float[Array, "N D"]:
        """The patch grid as fixed sines and cosines.

        Rotary attention sees differences only; this tells where in the frame a patch is.
        """
        freqs = embeddings.frequencies(*embeddings.GRID_FREQUENCIES, self.width // 4)
        return embeddings.sinusoidal(grid, freqs).reshape(len(grid), -1).astype(self.dtype)

    def frame_embedding(
        self, noise: Float[Array, "B T"], condition: Condition | None
    ) -> Float[Array, "B t D"]:
        """One vector per frame from its noise level and the condition, past its last SiLU."""
        h = embeddings.sinusoidal(noise, NOISE_FREQUENCIES)
        h = rearrange(h, "b (t p) f -> b t (p f)", p=self.patch[0]).astype(self.dtype)
        h = dense(self.width, self.dtype, (None, "embed"), "noise_in")(h)
        h = dense(self.width, self.dtype, ("embed", None), "noise_out")(nn.silu(h))
        if self.labels:
            label = condition.label
            table = nn.Embed(
                self.labels + 1,
                self.width,
                dtype=self.dtype,
                embedding_init=nn.with_logical_partitioning(
                    nn.initializers.normal(0.02), (None, "embed")
                ),
                name="label",
            )
            h += table(jnp.where(label < 0, self.labels, label))[:, None]
        return nn.silu(h)
