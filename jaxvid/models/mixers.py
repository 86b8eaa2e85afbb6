"""The words of the block grammar: each maps tokens [B, T, N, D] to an update of the same shape.

Tokens stay in one layout; a mixer says along which axis it mixes. A word added to `MIXERS` is
known to the grammar.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from einops import rearrange, repeat
from flax import linen as nn
from flax import struct
from jaxtyping import Array, Bool, Float

from jaxvid.errors import InputError
from jaxvid.models import embeddings, windows
from jaxvid.models.attention import attention
from jaxvid.models.convolution import Convolution
from jaxvid.models.layers import kernel
from jaxvid.models.mlp import Mlp, SwiGlu
from jaxvid.models.recurrence import Recurrence
from jaxvid.models.streaming import carried, carry


@dataclasses.dataclass(frozen=True)
class MixerConfig:
    """What the mixers of a network have in common.

    Attributes:
      heads, mlp_ratio, dtype: as in `SpaceTimeTransformer`.
      causal: whether a frame sees only itself and those before it.
      window: (frames, rows, columns) of `window`, in tokens.
      memory: frames before the window that causal `time` and `joint` still see when streaming.
    """

    heads: int
    mlp_ratio: int
    dtype: jnp.dtype
    causal: bool = False
    window: tuple[int, int, int] = (4, 4, 4)
    memory: int = 0


@struct.dataclass
class Context:
    """What the tokens come with.

    Attributes:
      seconds: time of each frame, float32 [B,T].
      turn: rotary angles as `embeddings.rotary` gives them, or None.
      text, text_mask: text to attend to [B,L,D] and where it is, bool [B,L], or None.
      repeat: how often the line has been repeated before, int32 [].
      grid: rows and columns of tokens.
    """

    seconds: Any
    turn: Any = None
    text: Any = None
    text_mask: Any = None
    repeat: Any = 0
    grid: tuple[int, int] = struct.field(pytree_node=False, default=(1, 1))


class Attention(nn.Module):
    """Multi-head attention along `axis`, with normalised queries and keys and rotary positions.

    Query/key normalisation: Dehghani et al. 2023, arXiv 2302.05442. If it is causal, keys and
    values of past frames are carried from window to window when streaming.
    """

    config: MixerConfig
    axis: str

    @nn.compact
    def __call__(self, x: Float[Array, "B T N D"], context: Context) -> Float[Array, "B T N D"]:
        query, key, value = _projected(self, x, 3, "qkv")
        if context.turn is not None:
            query, key = (embeddings.rotate(a, context.turn) for a in (query, key))
        if self.axis == "space":
            y = _grouped(query, key, value, "b f n k d -> (b f) n k d")
        else:
            key, value, mask = self.past_and_present(key, value)
            if self.axis == "time":
                y = _grouped(query, key, value, "b f n k d -> (b n) f k d", mask)
            elif self.axis == "joint":
                N = x.shape[2]
                if mask is not None:
                    mask = repeat(mask, "t s -> (t n) (s m)", n=N, m=N)
                y = _grouped(query, key, value, "b f n k d -> b (f n) k d", mask)
            else:
                y = self.in_windows(query, key, value, mask, context)
        return _output(self, y)

    def past_and_present(
        self, key: Float[Array, "B T N K d"], value: Float[Array, "B T N K d"]
    ) -> tuple[Float[Array, "B S N K d"], Float[Array, "B S N K d"], Bool[Array, "T S"] | None]:
        """Keys and values of the frames that may be seen, and which frame sees which."""
        if not self.config.causal:
            return key, value, None
        T, reach = key.shape[1], self.config.window[0] if self.axis == "window" else None
        kept = self.config.memory if reach is None else reach - 1

        def nothing() -> tuple[Array, Array, Array]:
            empty = jnp.zeros((key.shape[0], kept, *key.shape[2:]), key.dtype)
            return empty, empty, jnp.zeros((), jnp.int32)

        past, length, count = carried(self, "past", nothing), 0, 0
        if past is not None:
            past_key, past_value, count = past.value
            key = jnp.concatenate([past_key, key], axis=1)
            value = jnp.concatenate([past_value, value], axis=1)
            length = kept
            carry(past, (key[:, T:], value[:, T:], jnp.minimum(count + T, kept)))
        at, seen = jnp.arange(T)[:, None] + length, jnp.arange(T + length)
        mask = (seen <= at) & (seen >= length - count)
        return key, value, mask if reach is None else mask & (seen > at - reach)

    def in_windows(
        self,
        query: Float[Array, "B T N K d"],
        key: Float[Array, "B S N K d"],
        value: Float[Array, "B S N K d"],
        mask: Bool[Array, "T S"] | None,
        context: Context,
    ) -> Float[Array, "B T N K d"]:
        """Attention within windows, shifted by half of one in every other repeat.

        Causal windows slide over time instead: each frame sees the `window[0]` up to its own.
        """
        (h, w), (frames, *sides) = context.grid, self.config.window
        sides = [min(side, n) for side, n in zip(sides, (h, w), strict=True)]
        T, S = query.shape[1], key.shape[1]
        shift = [
            context.repeat % 2 * (side // 2) if side < n else 0
            for side, n in zip((frames, *sides), (T, h, w), strict=True)
        ]
        if mask is not None:
            shift[0] = 0

        def cut(a: Array) -> Array:
            length = min(frames, a.shape[1]) if mask is None else a.shape[1]
            a = rearrange(a, "b t (h w) k d -> b t h w k d", h=h)
            return windows.partition(a, (length, *sides), tuple(shift))

        def numbers(length: int) -> Array:
            size = (min(frames, length) if mask is None else length, *sides)
            return windows.regions((length, h, w), size, tuple(shift))

        same = numbers(T)[:, :, None] == numbers(S)[:, None, :]
        if mask is not None:
            places = sides[0] * sides[1]
            same &= repeat(mask, "t s -> (t n) (s m)", n=places, m=places)
        B = len(query)
        groups = [rearrange(cut(a), "b m w k d -> (b m) w k d") for a in (query, key, value)]
        y = attention(*groups, repeat(same, "m q s -> (b m) 1 q s", b=B))
        y = rearrange(y, "(b m) w k d -> b m w k d", b=B)
        size = (min(frames, T) if mask is None else T, *sides)
        y = windows.merge(y, (T, h, w), size, tuple(shift))
        return rearrange(y, "b t h w k d -> b t (h w) k d")


class CrossAttention(nn.Module):
    """Attention of every token to the text."""

    config: MixerConfig

    @nn.compact
    def __call__(self, x: Float[Array, "B T N D"], context: Context) -> Float[Array, "B T N D"]:
        if context.text is None:
            raise InputError("model.blocks: 'text' needs a text: set model.text")
        (query,) = _projected(self, x, 1, "query")
        key, value = _projected(self, context.text[:, None], 2, "key_value")
        y = attention(
            rearrange(query, "b t n k d -> b (t n) k d"),
            key[:, 0],
            value[:, 0],
            context.text_mask[:, None, None],
        )
        return _output(self, rearrange(y, "b (t n) k d -> b t n k d", t=x.shape[1]))


def _projected(module: nn.Module, x: Float[Array, "B T N D"], parts: int, name: str) -> list[Array]:
    """Heads [B,T,N,K,d]: query; key and value; or all three. Queries and keys are normalised."""
    config, D = module.config, x.shape[-1]
    heads = nn.Einsum(
        (D, parts, config.heads, D // config.heads),
        "btnd,dpkh->btnpkh",
        use_bias=False,
        dtype=config.dtype,
        kernel_init=kernel("embed", None, "heads", None),
        name=name,
    )(x)
    norms = {1: ("query",), 2: ("key", None), 3: ("query", "key", None)}[parts]
    return [
        heads[:, :, :, i]
        if norm is None
        else nn.RMSNorm(
            dtype=config.dtype,
            scale_init=nn.with_logical_partitioning(nn.initializers.ones, (None,)),
            name=f"{norm}_norm",
        )(heads[:, :, :, i])
        for i, norm in enumerate(norms)
    ]


def _grouped(
    query: Float[Array, "B T N K d"],
    key: Float[Array, "B S N K d"],
    value: Float[Array, "B S N K d"],
    groups: str,
    mask: Bool[Array, "L M"] | None = None,
) -> Float[Array, "B T N K d"]:
    """Attention among the tokens that `groups`, a rearrangement, puts together."""
    B, T, N = query.shape[:3]
    y = attention(*(rearrange(a, groups) for a in (query, key, value)),
                  None if mask is None else mask[None, None])  # fmt: skip
    return rearrange(y, " -> ".join(reversed(groups.split(" -> "))), b=B, f=T, n=N)


def _output(module: nn.Module, y: Float[Array, "B T N K d"]) -> Float[Array, "B T N D"]:
    heads, head_dim = y.shape[-2:]
    return nn.Einsum(
        (heads, head_dim, heads * head_dim),
        "btnkh,khd->btnd",
        use_bias=False,
        dtype=module.config.dtype,
        kernel_init=kernel("heads", None, "embed", inputs=2),
        name="out",
    )(y)


# A word is called inside a block, with the name of its module there.
Mixer = Callable[[MixerConfig, str, Array, Context], Array]

MIXERS: dict[str, Mixer] = {
    "space": lambda config, name, x, c: Attention(config, "space", name=name)(x, c),
    "time": lambda config, name, x, c: Attention(config, "time", name=name)(x, c),
    "joint": lambda config, name, x, c: Attention(config, "joint", name=name)(x, c),
    "window": lambda config, name, x, c: Attention(config, "window", name=name)(x, c),
    "recur": lambda config, name, x, c: Recurrence(config.causal, config.dtype, name=name)(
        x, c.seconds
    ),
    "conv": lambda config, name, x, c: Convolution(config.causal, config.dtype, name=name)(
        x, c.seconds
    ),
    "text": lambda config, name, x, c: CrossAttention(config, name=name)(x, c),
    "mlp": lambda config, name, x, c: Mlp(config.mlp_ratio, config.dtype, name=name)(x),
    "swiglu": lambda config, name, x, c: SwiGlu(config.mlp_ratio, config.dtype, name=name)(x),
}
