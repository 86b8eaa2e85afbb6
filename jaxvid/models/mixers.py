"""The words of the block grammar: each maps tokens [B, T, N, D] to an update of the same shape.

Tokens stay in one layout; a mixer says along which axis it mixes. A word added to `MIXERS` is
known to the grammar.
"""

import functools
from collections.abc import Callable

import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn
from jaxtyping import Array, Float, Float32

from jaxvid.models import embeddings
from jaxvid.models.attention import attention
from jaxvid.models.layers import kernel

GROUPS = {
    "space": "b t n k d -> (b t) n k d",
    "time": "b t n k d -> (b n) t k d",
    "joint": "b t n k d -> b (t n) k d",
}


class Attention(nn.Module):
    """Multi-head attention along `axis`, with normalised queries and keys and rotary positions.

    Query/key normalisation: Dehghani et al. 2023, arXiv 2302.05442.
    """

    axis: str
    heads: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T N D"], turn: Float32[Array, "2 B T N F"]
    ) -> Float[Array, "B T N D"]:
        B, T, N, D = x.shape
        head_dim = D // self.heads
        project = functools.partial(nn.Einsum, use_bias=False, dtype=self.dtype)
        qkv = project(
            (D, 3, self.heads, head_dim),
            "btnd,dqkh->btnqkh",
            kernel_init=kernel("embed", None, "heads", None),
            name="qkv",
        )(x)
        query, key, value = (qkv[:, :, :, i] for i in range(3))
        norm = functools.partial(
            nn.RMSNorm,
            dtype=self.dtype,
            scale_init=nn.with_logical_partitioning(nn.initializers.ones, (None,)),
        )
        query = embeddings.rotate(norm(name="query_norm")(query), turn)
        key = embeddings.rotate(norm(name="key_norm")(key), turn)
        groups = GROUPS[self.axis]
        y = attention(*(rearrange(a, groups) for a in (query, key, value)))
        y = rearrange(y, " -> ".join(reversed(groups.split(" -> "))), b=B, t=T, n=N)
        return project(
            (self.heads, head_dim, D),
            "btnkh,khd->btnd",
            kernel_init=kernel("heads", None, "embed", inputs=2),
            name="out",
        )(y)


class Mlp(nn.Module):
    """Two layers with squared ReLU between (So et al. 2021, arXiv 2109.08668).

    It is as good as GELU and costs no transcendental function, which on a CPU takes longer than
    the matrix product before it.
    """

    ratio: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T N D"], turn: Float32[Array, "2 B T N F"]
    ) -> Float[Array, "B T N D"]:
        D = x.shape[-1]
        dense = functools.partial(nn.Dense, use_bias=False, dtype=self.dtype)
        h = dense(self.ratio * D, kernel_init=kernel("embed", "mlp"), name="up")(x)
        return dense(D, kernel_init=kernel("mlp", "embed"), name="down")(jnp.square(nn.relu(h)))


def _attention(axis: str) -> Callable[..., nn.Module]:
    return lambda heads, mlp_ratio, dtype, name: Attention(axis, heads, dtype, name=name)


def _mlp(heads: int, mlp_ratio: int, dtype: jnp.dtype, name: str) -> nn.Module:
    return Mlp(mlp_ratio, dtype, name=name)


MIXERS: dict[str, Callable[..., nn.Module]] = {
    "space": _attention("space"),
    "time": _attention("time"),
    "joint": _attention("joint"),
    "mlp": _mlp,
}
