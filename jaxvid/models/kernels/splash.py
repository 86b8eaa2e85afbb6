"""Attention over many keys on a TPU, without the array of logits: JAX's Splash attention.

The kernel reads tiles of keys one after another (Dao et al. 2022, arXiv 2205.14135) and skips those
that a mask hides.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernel
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks
from jaxtyping import Array, Float

LANES = 128  # tiles are multiples of it
TILE = 1024  # of queries and of keys, at most
FEWEST = 512  # keys from which it is used; the logits of fewer fit into fast memory


class CausalFrames(masks.Mask):
    """Each frame of `tokens` tokens sees itself and the frames before it, up to `reach` in all."""

    def __init__(self, queries: int, keys: int, tokens: int, reach: int | None):
        self.numbers = queries, keys, tokens, reach

    @property
    def shape(self) -> tuple[int, int]:
        return self.numbers[:2]

    def __getitem__(self, index: tuple[slice, slice]) -> np.ndarray:
        queries, keys, tokens, reach = self.numbers
        at = (np.arange(queries)[index[0], None] + keys - queries) // tokens
        seen = np.arange(keys)[index[1]] // tokens
        return (seen <= at) & (True if reach is None else seen > at - reach)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CausalFrames) and self.numbers == other.numbers

    def __hash__(self) -> int:
        return hash(self.numbers)


def supports(queries: int, keys: int) -> bool:
    """Whether the kernel can run, and is worth it."""
    return keys >= FEWEST and not queries % LANES and not keys % LANES


def splash_attention(
    query: Float[Array, "G L K d"],
    key: Float[Array, "G S K d"],
    value: Float[Array, "G S K d"],
    causal: tuple[int, int | None] | None,
    interpret: bool,
) -> Float[Array, "G L K d"]:
    """softmax(q k / sqrt(d)) v; the softmax and the sums are in float32.

    Args:
      query, key, value: for which `supports` is true.
      causal: tokens and reach of `CausalFrames`, or None if all keys are seen.
      interpret: whether the kernel is interpreted, for tests without a TPU.
    """
    (_, L, K, d), S = query.shape, key.shape[1]
    mask = masks.FullMask((L, S)) if causal is None else CausalFrames(L, S, *causal)
    q, k = _tile(L), _tile(S)
    attend = kernel.make_splash_mha(
        masks.MultiHeadMask([mask] * K),
        block_sizes=kernel.BlockSizes(
            block_q=q, block_kv=k, block_kv_compute=k,
            block_q_dkv=q, block_kv_dkv=k, block_kv_dkv_compute=k, use_fused_bwd_kernel=True,
        ),
        head_shards=1,
        q_seq_shards=1,
        residual_checkpoint_name="attention",
        interpret=interpret,
    )  # fmt: skip
    by_head = (jnp.swapaxes(a, 1, 2) for a in (query * d**-0.5, key, value))
    return jnp.swapaxes(jax.vmap(attend)(*by_head), 1, 2)


def _tile(length: int) -> int:
    return max(n for n in range(LANES, min(TILE, length) + 1, LANES) if length % n == 0)
