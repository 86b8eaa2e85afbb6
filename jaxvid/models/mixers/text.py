"""Cross-attention of every token to a text."""

from einops import rearrange
from flax import linen as nn
from jaxtyping import Array, Float

from jaxvid.errors import InputError
from jaxvid.models.attention import Lengths, attention
from jaxvid.models.devices import locally, names_of
from jaxvid.models.layers import Scale, rms_norm
from jaxvid.models.mixers.attention import by_head, joined, projections
from jaxvid.models.mixers.base import Context, MixerConfig, mixer


@mixer("text")
class CrossAttention(nn.Module):
    """Attention of every token to the text."""

    needs, over = "text", "token"

    config: MixerConfig

    @nn.compact
    def __call__(self, x: Float[Array, "B T N D"], context: Context) -> Float[Array, "B T N D"]:
        if context.text is None:
            raise InputError(
                "config.model.blocks: 'text' needs captions: set config.conditions.text.length"
            )
        (query,) = projections(self.config, x, 1, "query")
        key, value = projections(self.config, context.text[:, None], 2, "key_value")
        query, key, value = (by_head(self.config, a) for a in (query, key, value))
        d = query.shape[-1]

        def attend(query: Array, key: Array, value: Array, lengths: Array) -> Array:
            flat = rearrange(query, "b t n k d -> b (t n) k d")
            y = attention(flat, key, value, Lengths(lengths), self.config.attention)
            return rearrange(y, "b (t n) k d -> b t n k d", t=query.shape[1])

        tokens, words = names_of(context.split, 5), ("batch", None, "heads", None)
        y = locally(
            attend,
            (tokens, words, words, ("batch",)),
            tokens,
            rms_norm(query, Scale(name="query_norm")(d)),
            rms_norm(key, Scale(name="key_norm")(d))[:, 0],
            value[:, 0],
            context.text_lengths,
            checked=False,
        )
        return joined(self.config, rearrange(y, "b t n k d -> b t n (k d)"))
