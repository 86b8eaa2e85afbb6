"""Softmax attention, which all mixers and encoders share."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def attention(
    query: Float[Array, "G L K d"],
    key: Float[Array, "G S K d"],
    value: Float[Array, "G S K d"],
    mask: Bool[Array, "#G #K #L S"] | None = None,
) -> Float[Array, "G L K d"]:
    """softmax(q k / sqrt(d)) v over S for each group and head; the softmax is in float32.

    A query does not see keys where `mask` is False; it must see at least one key.
    """
    query = query * query.shape[-1] ** -0.5
    logits = jnp.einsum("glkd,gskd->gkls", query, key, preferred_element_type=jnp.float32)
    if mask is not None:
        logits = jnp.where(mask, logits, -jnp.inf)
    weights = jax.nn.softmax(logits, axis=-1).astype(value.dtype)
    return jnp.einsum("gkls,gskd->glkd", weights, value)
