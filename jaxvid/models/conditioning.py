"""What a clip is asked to be, its learned nulls, and how each condition enters the network.

Label, actions and the text's mean become one vector per frame; the text's tokens are there to be
attended to; low-resolution video is concatenated on channels, with a noise level of its own (noise
conditioning augmentation, Ho et al. 2022, arXiv 2106.15282). For classifier-free guidance each
condition has a null, which `drop` puts in its place during training and `null` for sampling.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn
from flax import struct
from jaxtyping import Array, Bool, Float

from jaxvid.models import embeddings
from jaxvid.models.attention import attention
from jaxvid.models.layers import dense

NOISE_FREQUENCIES = embeddings.frequencies(1000.0, 0.1, 64)
# Neighbouring bytes are told apart, and places up to a few thousand bytes away.
TEXT_FREQUENCIES = (1.0, 1e-3)

# What stands in the fields of a condition that is dropped.
NULLS: dict[str, dict[str, Any]] = {
    "label": {"label": -1},
    "text": {"text_mask": False},
    "action": {"action_mask": False},
    "low_res": {"low_res": 0.0, "low_res_noise": 1.0},
}


@struct.dataclass
class Condition:
    """What a clip is asked to be. Every field is optional, and a network is given those it was
    initialised with; a clip that lacks one has its null.

    Attributes:
      label: class index, int32 [B]; -1 is null.
      text_bytes: UTF-8, uint8 [B,L], for the encoder that is trained jointly; or
      text: embeddings of an outside encoder, float [B,L,E].
      text_mask: which of the L are there, from the first on, bool [B,L]; all False is null.
      action: what is done at each frame, float32 [B,T,A].
      action_mask: frames whose action is known, bool [B,T]; False is null.
      low_res: the video at a lower resolution, float32 [B,T,h,w,C]; all 0 is null.
      low_res_noise: noise level of `low_res` in [0,1], float32 [B]; with null it is 1.
    """

    label: Any = None
    text_bytes: Any = None
    text: Any = None
    text_mask: Any = None
    action: Any = None
    action_mask: Any = None
    low_res: Any = None
    low_res_noise: Any = None


def of_batch(batch: Mapping[str, Array]) -> Condition:
    """The condition among the arrays of a batch, which bear the names of its fields."""
    return Condition(**{name: batch[name] for name in Condition.__annotations__ if name in batch})


def drop(condition: Condition, key: Array, rates: Mapping[str, float]) -> Condition:
    """Puts the null in place of each condition, clip by clip, independently of the others.

    Args:
      condition: what a batch is conditioned on.
      key: of this step.
      rates: probability for each of "label", "text", "action" and "low_res"; 0 where it is absent.
    """
    for i, (name, nulls) in enumerate(NULLS.items()):
        for field, value in nulls.items():
            x = getattr(condition, field)
            if x is not None:
                rate = rates.get(name, 0.0)
                dropped = jax.random.bernoulli(jax.random.fold_in(key, i), rate, x.shape[:1])
                kept = jnp.where(dropped.reshape(-1, *[1] * (x.ndim - 1)), value, x)
                condition = condition.replace(**{field: kept})
    return condition


def null(condition: Condition) -> Condition:
    """The same condition with everything dropped, in the same tree structure."""
    return drop(condition, jax.random.key(0), dict.fromkeys(NULLS, 1.0))


def concat_low_res(
    video: Float[Array, "B T H W C"], condition: Condition
) -> Float[Array, "B T H W c"]:
    """The video, with the low-resolution one enlarged (bilinear) behind it on channels."""
    if condition.low_res is None:
        return video
    shape = (*video.shape[:-1], condition.low_res.shape[-1])
    enlarged = jax.image.resize(condition.low_res.astype(video.dtype), shape, "bilinear")
    return jnp.concatenate([video, enlarged], axis=-1)


class FrameCondition(nn.Module):
    """The condition as one vector per frame, to be added to that of its noise level.

    Attributes:
      width: D.
      labels: number of classes, 0 for none.
      per_patch: frames that are joined in one patch, and so in one vector.
      dtype: what is computed in.
    """

    width: int
    labels: int
    per_patch: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self,
        condition: Condition,
        text: Float[Array, "B L D"] | None = None,
        text_mask: Bool[Array, "B L"] | None = None,
    ) -> Float[Array, "B #t D"] | float:
        """The sum over what is conditioned on, 0.0 if that is nothing.

        Args:
          condition: its label, action and low-resolution noise level enter here.
          text: tokens from `TextEncoder`, of which the mean enters.
          text_mask: which of the tokens are there.
        """
        total = 0.0
        if self.labels:
            label = condition.label
            table = _table(self.labels + 1, self.width, 0.02, self.dtype, "label")
            total += table(jnp.where(label < 0, self.labels, label))[:, None]
        if text is not None:
            mean = text.mean(axis=1, where=text_mask[..., None])
            total += dense(self.width, self.dtype, (None, "embed"), "text")(mean)[:, None]
        if condition.action is not None:
            total += self.action_embedding(condition.action, condition.action_mask)
        if condition.low_res is not None:
            h = embeddings.sinusoidal(condition.low_res_noise, NOISE_FREQUENCIES)
            h = dense(self.width, self.dtype, (None, "embed"), "low_res_in")(h)
            h = dense(self.width, self.dtype, ("embed", None), "low_res_out")(nn.silu(h))
            total += h[:, None]
        return total

    def action_embedding(
        self, action: Float[Array, "B T A"], mask: Bool[Array, "B T"]
    ) -> Float[Array, "B t D"]:
        """Two layers; the null is learned, and the frames of a patch are joined, between them."""
        h = dense(self.width, self.dtype, (None, "embed"), "action_in")(action)
        h = jnp.where(mask[..., None], h, _vector(self, "action_null", self.width))
        h = rearrange(nn.silu(h), "b (t p) d -> b t (p d)", p=self.per_patch)
        return dense(self.width, self.dtype, ("embed", None), "action_out")(h)


class TextEncoder(nn.Module):
    """Tokens of a text: bytes through a small bidirectional transformer, trained jointly, or the
    embeddings of an outside encoder through one layer. A dropped text is one learned null token.

    Attributes:
      width: D, a multiple of 2 and of `heads`.
      depth: blocks of the transformer.
      heads: its heads.
      dtype: what is computed in.
    """

    width: int
    depth: int = 2
    heads: int = 4
    dtype: jnp.dtype = jnp.dtype("float32")

    @nn.compact
    def __call__(self, condition: Condition) -> tuple[Float[Array, "B L D"], Bool[Array, "B L"]]:
        """Tokens, normalised, and which of them are there: one at least."""
        outside = condition.text is not None
        if outside:
            x = dense(self.width, self.dtype, (None, "embed"), "embeddings")(condition.text)
        else:
            x = _table(256, self.width, 1.0, self.dtype, "bytes")(condition.text_bytes)
        mask = condition.text_mask
        first = jnp.arange(mask.shape[1]) == 0
        is_null = first & ~mask.any(axis=1, keepdims=True)
        x = jnp.where(is_null[..., None], _vector(self, "null", self.width), x)
        mask = mask | is_null
        if not outside:
            x += _places(mask.shape[1], self.width).astype(self.dtype)
            for i in range(self.depth):
                x = TextBlock(self.heads, self.dtype, name=f"block_{i}")(x, mask)
        return _norm(x, self.dtype), mask


class TextBlock(nn.Module):
    """Attention to all tokens, then a two-layer perceptron, each after a normalisation."""

    heads: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Float[Array, "B L D"], mask: Bool[Array, "B L"]) -> Float[Array, "B L D"]:
        D = x.shape[-1]
        qkv = dense(3 * D, self.dtype, ("embed", None), "qkv")(_norm(x, self.dtype))
        query, key, value = rearrange(qkv, "b l (q k d) -> q b l k d", q=3, k=self.heads)
        y = rearrange(attention(query, key, value, mask[:, None, None]), "b l k d -> b l (k d)")
        x += dense(D, self.dtype, (None, "embed"), "out")(y)
        h = dense(4 * D, self.dtype, ("embed", "mlp"), "up")(_norm(x, self.dtype))
        return x + dense(D, self.dtype, ("mlp", "embed"), "down")(jnp.square(nn.relu(h)))


def _norm(x: Float[Array, "B L D"], dtype: jnp.dtype) -> Float[Array, "B L D"]:
    return nn.LayerNorm(use_bias=False, use_scale=False, dtype=dtype)(x)


def _table(rows: int, width: int, std: float, dtype: jnp.dtype, name: str) -> nn.Embed:
    init = nn.with_logical_partitioning(nn.initializers.normal(std), (None, "embed"))
    return nn.Embed(rows, width, dtype=dtype, embedding_init=init, name=name)


def _vector(module: nn.Module, name: str, width: int) -> Float[Array, "D"]:
    init = nn.with_logical_partitioning(nn.initializers.normal(1.0), ("embed",))
    return module.param(name, init, (width,)).astype(module.dtype)


def _places(length: int, width: int) -> Float[Array, "L D"]:
    freqs = embeddings.frequencies(*TEXT_FREQUENCIES, width // 2)
    return embeddings.sinusoidal(jnp.arange(length, dtype=jnp.float32), freqs)
