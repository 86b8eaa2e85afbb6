"""The one way to attend."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def attention(
    query: Float[Array, "G L K d"], key: Float[Array, "G S K d"], value: Float[Array, "G S K d"]
) -> Float[Array, "G L K d"]:
    """softmax(q k / sqrt(d)) v over S for each group and head; the softmax is in float32."""
    query = query * query.shape[-1] ** -0.5
    logits = jnp.einsum("glkd,gskd->gkls", query, key, preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(logits, axis=-1).astype(value.dtype)
    return jnp.einsum("gkls,gskd->glkd", weights, value)
