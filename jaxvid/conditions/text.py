"""Captions, as bytes for an encoder that is trained with the network, or as embeddings.

Any outside encoder can make the embeddings (`jaxvid.data.text` describes their layout on disk). The
word `text` of the block grammar attends to the tokens, and their mean is added to every frame.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import linen as nn
from jaxtyping import Array, Float, Int
from ml_collections import ConfigDict

from jaxvid.conditions.condition import Condition, condition
from jaxvid.config import FRACTION, NATURAL, POSITIVE, declare, key, requirement
from jaxvid.data import text
from jaxvid.data.clips import Clip
from jaxvid.data.sources import Source
from jaxvid.errors import InputError
from jaxvid.files import to_path
from jaxvid.models import embeddings
from jaxvid.models.attention import Lengths, attention
from jaxvid.models.conditioning import Entry, Setting, Table, vector
from jaxvid.models.layers import Scale, dense, layer_norm, rms_norm, squared_relu

declare(
    "conditions.text",
    length=key(
        0, NATURAL, "length of captions in bytes or tokens; 0 is off", was="data.text_length"
    ),
    dim=key(0, NATURAL, "features of an outside embedding", was="data.text_dim"),
    depth=key(2, POSITIVE, "blocks of the byte encoder", was="model.text_depth"),
    reach=key(3, NATURAL, "bytes on each side that a byte sees before these blocks", before=0),
    dropout=key(
        0.0, FRACTION, "extra share of clips that train without a caption", was="model.text_dropout"
    ),
)

# These resolve neighbouring bytes, and places up to a few thousand bytes apart.
FREQUENCIES = (1.0, 1e-3)


@condition("text")
@dataclasses.dataclass(frozen=True)
class Text(Condition):
    """A caption: `bytes` uint8 [B,L] in UTF-8, or `embedding` float16 [B,L,E].

    `mask` bool [B,L] marks the valid tokens, which come first. A caption without tokens is null.

    Attributes:
      length: L, the largest number of tokens.
      dim: E, the features of an embedding, or 0 for bytes.
      depth: blocks of the byte encoder.
      reach: bytes on each side that a byte sees before these blocks; with 0 the blocks are those of
        the first version, which do not normalise queries and keys.
      dropout: share of clips that train without a caption.
    """

    flag: ClassVar[str] = "caption"
    flag_help: ClassVar[str] = (
        "Caption of all clips; for a model of outside embeddings, a file NAME.npy of shape [n,E]."
    )

    length: int
    dim: int = 0
    depth: int = 2
    dropout: float = 0.0
    reach: int = 3

    @classmethod
    def from_config(cls, config: ConfigDict) -> "Text | None":
        """The condition, or None if `length` is 0."""
        c = config.conditions.text
        dim = c.dim if config.data.text_embeddings else 0
        return cls(c.length, dim, c.depth, c.dropout, c.reach) if c.length else None

    def encode(self, sample: Mapping[str, np.ndarray], clip: Clip | None) -> dict[str, np.ndarray]:
        """The embedding of the clip, or the bytes of its caption after augmentation.

        Raises InputError if an embedding does not have `dim` features.
        """
        if not self.dim:
            caption, mask = text.to_bytes(str(sample["caption"]), self.length)
            return {"bytes": caption, "mask": mask}
        tokens = clip.text if clip is not None else None
        if tokens is None or not len(tokens):
            tokens = np.zeros((0, self.dim), np.float16)
        return self._padded(tokens)

    def _padded(self, tokens: Float[np.ndarray, "n E"]) -> dict[str, np.ndarray]:
        if tokens.shape[1] != self.dim:
            raise InputError(
                f"config.conditions.text.dim={self.dim}, but the embeddings have "
                f"{tokens.shape[1]} features: set config.conditions.text.dim={tokens.shape[1]}"
            )
        tokens, mask = text.pad(tokens, self.length)
        return {"embedding": tokens, "mask": mask}

    def check(self, source: Source, clips: Sequence[Clip]) -> None:
        """Raises InputError if no clip has a caption, or embeddings do not have `dim` features."""
        if not self.dim:
            if not any(clip.caption for clip in clips):
                raise InputError(
                    f"config.conditions.text.length={self.length}, but the clips have no captions: "
                    "put NAME.txt next to each NAME.mp4 and prepare them again, or set it to 0"
                )
            return
        found = [clip.text for clip in clips if clip.text is not None and len(clip.text)]
        if not found:
            raise InputError(
                "config.data.text_embeddings: the clips have no embeddings; write them with "
                "jaxvid.data.text.write_embeddings, or set it to '' to use the captions as bytes"
            )
        for tokens in found:
            self._padded(tokens)

    def truths(self) -> dict[str, str]:
        """Captions."""
        return {"text": "embedded captions"} if self.dim else {"text_bytes": "captions"}

    def parse(self, value: str, frames: int) -> dict[str, np.ndarray]:
        """A caption, or the embedding in a .npy file; raises InputError for an invalid file."""
        if not self.dim:
            caption, mask = text.to_bytes(value, self.length)
            return {"bytes": caption, "mask": mask}
        try:
            with to_path(value, "--caption").open("rb") as file:
                tokens = np.lib.format.read_array(file, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise InputError(
                f"--caption={value}: the model takes the embeddings of an outside encoder; give a "
                f".npy file ({error})"
            ) from error
        if tokens.ndim != 2 or not np.issubdtype(tokens.dtype, np.floating):
            raise InputError(
                f"--caption={value}: the file holds {tokens.dtype} of shape {tokens.shape}; give "
                f"floats of shape (tokens, {self.dim})"
            )
        with np.errstate(over="ignore"):
            tokens = tokens.astype(np.float16)
        if not np.isfinite(tokens).all():
            raise InputError(f"--caption={value}: its numbers are not finite in float16")
        return self._padded(tokens)

    def describe(self, arrays: Mapping[str, np.ndarray]) -> str:
        """The caption; an embedding has none."""
        return text.from_bytes(arrays["bytes"], arrays["mask"]) if "bytes" in arrays else ""

    def null(self, arrays: Mapping[str, Any]) -> dict[str, Any]:
        """The arrays without a valid token."""
        return {**arrays, "mask": jnp.zeros_like(arrays["mask"])}

    def embed(self, arrays: Mapping[str, Array], setting: Setting) -> Entry:
        """Tokens, and their mean for all frames."""
        return TextEmbedding(self.depth, self.reach, setting, name=self.name)(arrays)


@requirement
def _check_text(config: ConfigDict) -> None:
    c, name = config.conditions.text, config.data.text_embeddings
    if name and not (c.length and c.dim):
        raise InputError(
            f"config.data.text_embeddings={name}: set config.conditions.text.length, in tokens, "
            "and config.conditions.text.dim, the width of a token, above 0"
        )


class TextEmbedding(nn.Module):
    """Embeds bytes by a small bidirectional transformer, and outside embeddings by one layer.

    A byte says little. So each first sees its neighbours, as in a convolution, which finds words at
    any place; attention alone learns them slowly (docs/benchmarks.md).

    A clip without a caption has one learned null token.
    """

    depth: int
    reach: int
    setting: Setting

    @nn.compact
    def __call__(self, arrays: Mapping[str, Array]) -> Entry:
        width, dtype, mask = self.setting.width, self.setting.dtype, arrays["mask"]
        outside = "embedding" in arrays
        if outside:
            x = dense(width, dtype, (None, "embed"), "embeddings")(arrays["embedding"])
        else:
            x = Table(256, 1.0, self.setting, name="bytes")(arrays["bytes"])
        first = jnp.arange(mask.shape[1]) == 0
        is_null = first & ~mask.any(axis=1, keepdims=True)
        x = jnp.where(is_null[..., None], vector(self, "null", self.setting), x)
        mask = mask | is_null
        lengths = mask.sum(axis=1)
        if not outside:
            freqs = embeddings.frequencies(*FREQUENCIES, width // 2)
            places = jnp.arange(mask.shape[1], dtype=jnp.float32)
            if self.reach:
                near = neighbours(x * mask[..., None], self.reach)
                x += dense(width, dtype, (None, "embed"), "near")(near)
            x += embeddings.sinusoidal(places, freqs).astype(dtype)
            for i in range(self.depth):
                block = TextBlock(self.setting.heads, dtype, self.reach > 0, name=f"block_{i}")
                x = block(x, lengths)
        x = layer_norm(x, dtype)
        mean = x.mean(axis=1, where=mask[..., None])
        frame = dense(width, dtype, (None, "embed"), "mean")(mean)[:, None]
        return Entry(frame=frame, tokens=x, lengths=lengths)


def neighbours(x: Float[Array, "B L D"], reach: int) -> Float[Array, "B L E"]:
    """The features of each token and of `reach` tokens on each side, zero beyond the ends."""
    L = x.shape[1]
    padded = jnp.pad(x, ((0, 0), (reach, reach), (0, 0)))
    return jnp.concatenate([padded[:, i : i + L] for i in range(2 * reach + 1)], axis=-1)


class TextBlock(nn.Module):
    """Pre-norm attention over all tokens, then a pre-norm two-layer perceptron."""

    heads: int
    dtype: jnp.dtype
    normalise: bool

    @nn.compact
    def __call__(
        self, x: Float[Array, "B L D"], lengths: Int[Array, " B"]
    ) -> Float[Array, "B L D"]:
        D = x.shape[-1]
        qkv = dense(3 * D, self.dtype, ("embed", None), "qkv")(layer_norm(x, self.dtype))
        query, key, value = rearrange(qkv, "b l (q k d) -> q b l k d", q=3, k=self.heads)
        if self.normalise:
            d = D // self.heads
            query = rms_norm(query, Scale(name="query_norm")(d))
            key = rms_norm(key, Scale(name="key_norm")(d))
        y = rearrange(attention(query, key, value, Lengths(lengths)), "b l k d -> b l (k d)")
        x += dense(D, self.dtype, (None, "embed"), "out")(y)
        h = dense(4 * D, self.dtype, ("embed", "mlp"), "up")(layer_norm(x, self.dtype))
        return x + dense(D, self.dtype, ("mlp", "embed"), "down")(squared_relu(h))
