"""Self-attention: within frames, within places, among all tokens, and in local windows."""

from einops import rearrange, repeat
from flax import linen as nn
from jax import numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxvid.config import POSITIVE
from jaxvid.models import embeddings, windows
from jaxvid.models.attention import attention
from jaxvid.models.grammar import argument
from jaxvid.models.layers import kernel
from jaxvid.models.mixers.base import Context, MixerConfig, mixer
from jaxvid.models.streaming import carried, carry


class Attention(nn.Module):
    """Multi-head attention with normalised queries and keys, and rotary positions.

    A subclass defines which tokens attend to one another. Query/key normalisation: Dehghani et al.
    2023, arXiv 2302.05442. A causal subclass carries keys and values of past frames from window to
    window when streaming.
    """

    config: MixerConfig

    @nn.compact
    def __call__(self, x: Float[Array, "B T N D"], context: Context) -> Float[Array, "B T N D"]:
        query, key, value = heads_of(self.config, x, 3, "qkv")
        if context.turn is not None:
            query, key = (embeddings.rotate(a, context.turn) for a in (query, key))
        return joined(self.config, self.attend(query, key, value, context))

    def past_and_present(
        self,
        key: Float[Array, "B T N K d"],
        value: Float[Array, "B T N K d"],
        reach: int | None = None,
    ) -> tuple[Float[Array, "B S N K d"], Float[Array, "B S N K d"], Bool[Array, "T S"] | None]:
        """Keys and values of the visible frames, and the mask of which frame sees which.

        A causal frame sees the last `reach` frames, including itself; all of them if None.
        """
        if not self.config.causal:
            return key, value, None
        T = key.shape[1]
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


@mixer("space")
class Space(Attention):
    """Attention among the tokens of a frame."""

    def attend(
        self,
        query: Float[Array, "B T N K d"],
        key: Float[Array, "B T N K d"],
        value: Float[Array, "B T N K d"],
        context: Context,
    ) -> Float[Array, "B T N K d"]:
        return _grouped(query, key, value, "b f n k d -> (b f) n k d")


@mixer("time")
class Time(Attention):
    """Attention among the tokens of one place, over all frames."""

    def attend(
        self,
        query: Float[Array, "B T N K d"],
        key: Float[Array, "B T N K d"],
        value: Float[Array, "B T N K d"],
        context: Context,
    ) -> Float[Array, "B T N K d"]:
        key, value, mask = self.past_and_present(key, value)
        return _grouped(query, key, value, "b f n k d -> (b n) f k d", mask)


@mixer("joint")
class Joint(Attention):
    """Attention among all tokens of the clip."""

    def attend(
        self,
        query: Float[Array, "B T N K d"],
        key: Float[Array, "B T N K d"],
        value: Float[Array, "B T N K d"],
        context: Context,
    ) -> Float[Array, "B T N K d"]:
        key, value, mask = self.past_and_present(key, value)
        if mask is not None:
            N = query.shape[2]
            mask = repeat(mask, "t s -> (t n) (s m)", n=N, m=N)
        return _grouped(query, key, value, "b f n k d -> b (f n) k d", mask)


@mixer("window")
class Window(Attention):
    """Attention within local windows, shifted by half a window in every other repeat.

    Causal windows slide over time instead: each frame sees the last `frames`, including itself.

    Attributes:
      frames, rows, columns: the size of a window, in tokens.
    """

    frames: int = argument(4, POSITIVE)
    rows: int = argument(4, POSITIVE)
    columns: int = argument(4, POSITIVE)

    def attend(
        self,
        query: Float[Array, "B T N K d"],
        key: Float[Array, "B T N K d"],
        value: Float[Array, "B T N K d"],
        context: Context,
    ) -> Float[Array, "B T N K d"]:
        key, value, mask = self.past_and_present(key, value, reach=self.frames)
        h, w = context.grid
        sides = [min(self.rows, h), min(self.columns, w)]
        T, S = query.shape[1], key.shape[1]
        shift = [
            context.repeat % 2 * (side // 2) if side < n else 0
            for side, n in zip((self.frames, *sides), (T, h, w), strict=True)
        ]
        if mask is not None:
            shift[0] = 0

        def cut(a: Array) -> Array:
            length = min(self.frames, a.shape[1]) if mask is None else a.shape[1]
            a = rearrange(a, "b t (h w) k d -> b t h w k d", h=h)
            return windows.partition(a, (length, *sides), tuple(shift))

        def numbers(length: int) -> Array:
            size = (min(self.frames, length) if mask is None else length, *sides)
            return windows.regions((length, h, w), size, tuple(shift))

        same = numbers(T)[:, :, None] == numbers(S)[:, None, :]
        if mask is not None:
            places = sides[0] * sides[1]
            same &= repeat(mask, "t s -> (t n) (s m)", n=places, m=places)
        B = len(query)
        groups = [rearrange(cut(a), "b m w k d -> (b m) w k d") for a in (query, key, value)]
        y = attention(*groups, repeat(same, "m q s -> (b m) 1 q s", b=B))
        y = rearrange(y, "(b m) w k d -> b m w k d", b=B)
        size = (min(self.frames, T) if mask is None else T, *sides)
        y = windows.merge(y, (T, h, w), size, tuple(shift))
        return rearrange(y, "b t h w k d -> b t (h w) k d")


def heads_of(
    config: MixerConfig, x: Float[Array, "B T N D"], parts: int, name: str
) -> list[Float[Array, "B T N K d"]]:
    """Heads for `parts` = 1 (query), 2 (key, value) or 3 (all); queries and keys are normalised."""
    D = x.shape[-1]
    heads = nn.Einsum(
        (D, parts, config.heads, D // config.heads),
        "btnd,dpkh->btnpkh",
        use_bias=False,
        dtype=config.dtype,
        kernel_init=kernel("embed", None, "heads", None, stacked=(1,)),
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


def joined(config: MixerConfig, y: Float[Array, "B T N K d"]) -> Float[Array, "B T N D"]:
    """Joins the heads with the output layer."""
    heads, head_dim = y.shape[-2:]
    return nn.Einsum(
        (heads, head_dim, heads * head_dim),
        "btnkh,khd->btnd",
        use_bias=False,
        dtype=config.dtype,
        kernel_init=kernel("heads", None, "embed", inputs=2),
        name="out",
    )(y)


def _grouped(
    query: Float[Array, "B T N K d"],
    key: Float[Array, "B S N K d"],
    value: Float[Array, "B S N K d"],
    groups: str,
    mask: Bool[Array, "L M"] | None = None,
) -> Float[Array, "B T N K d"]:
    """Attention within groups of tokens; `groups` is the einops pattern that forms them."""
    B, T, N = query.shape[:3]
    y = attention(*(rearrange(a, groups) for a in (query, key, value)),
                  None if mask is None else mask[None, None])  # fmt: skip
    return rearrange(y, " -> ".join(reversed(groups.split(" -> "))), b=B, f=T, n=N)
