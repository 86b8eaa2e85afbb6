"""Cross-attention of every token to a text."""

from einops import rearrange
from flax import linen as nn
from jaxtyping import Array, Float

from jaxvid.errors import InputError
from jaxvid.models.attention import attention
from jaxvid.models.mixers.attention import heads_of, joined
from jaxvid.models.mixers.base import Context, MixerConfig, mixer


@mixer("text")
class CrossAttention(nn.Module):
    """Attention of every token to the text."""

    needs = "text"

    config: MixerConfig

    @nn.compact
    def __call__(self, x: Float[Array, "B T N D"], context: Context) -> Float[Array, "B T N D"]:
        if context.text is None:
            raise InputError(
                "config.model.blocks: 'text' needs captions: set config.conditions.text.length"
            )
        (query,) = heads_of(self.config, x, 1, "query")
        key, value = heads_of(self.config, context.text[:, None], 2, "key_value")
        y = attention(
            rearrange(query, "b t n k d -> b (t n) k d"),
            key[:, 0],
            value[:, 0],
            context.text_mask[:, None, None],
        )
        return joined(self.config, rearrange(y, "b (t n) k d -> b t n k d", t=x.shape[1]))
