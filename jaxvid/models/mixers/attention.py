"""Self-attention: within frames, within places, among all tokens, and in local windows."""

import math
from typing import ClassVar

from einops import rearrange, repeat
from flax import linen as nn
from jax import numpy as jnp
from jaxtyping import Array, Float

from jaxvid.config import POSITIVE
from jaxvid.models import embeddings, windows
from jaxvid.models.attention import Causal, Dense, Mask, attention, dense, factorized
from jaxvid.models.devices import BY_HEADS, locally, move, names_of
from jaxvid.models.grammar import argument
from jaxvid.models.layers import Linear, Linears, Scale, kernel, rms_norm
from jaxvid.models.mixers.base import Context, MixerConfig, mixer
from jaxvid.models.streaming import carried, carry, streaming


class Attention(nn.Module):
    """Multi-head attention with normalised queries and keys, and rotary positions.

    A subclass defines which tokens attend to one another. Query/key normalisation: Dehghani et al.
    2023, arXiv 2302.05442. A causal subclass carries keys and values of past frames from window to
    window when streaming.
    """

    config: MixerConfig

    differ: ClassVar[str] = "both"  # in what tokens differ that attend to one another
    over: ClassVar[str]

    @nn.compact
    def __call__(self, x: Float[Array, "B T N D"], context: Context) -> Float[Array, "B T N D"]:
        parts = projections(self.config, x, 3, "qkv")
        d = x.shape[-1] // self.config.heads
        scales = [Scale(name=f"{of}_norm")(d) for of in ("query", "key")]
        turn = context.turns.get(self.differ)
        y = None
        if self.differ != "both" and not streaming(self):
            y = factorized(
                parts,
                scales,
                turn,
                over=self.differ,
                causal=self.config.causal,
                implementation=self.config.attention,
            )
        if y is None:
            query, key, value = (by_head(self.config, a) for a in parts)
            query, key = (rms_norm(a, s) for a, s in zip((query, key), scales, strict=True))
            if turn is not None:
                query, key = (embeddings.rotate(a, turn) for a in (query, key))
            if self.over in BY_HEADS:
                query, key, value = (move(a, context.split, "heads") for a in (query, key, value))
            y = self.attend(query, key, value, context)
            if self.over in BY_HEADS:
                y = move(y, "heads", context.split)
            y = rearrange(y, "b t n k d -> b t n (k d)")
        return joined(self.config, y)

    def past_and_present(
        self,
        key: Float[Array, "B T N K d"],
        value: Float[Array, "B T N K d"],
        tokens: int = 1,
        reach: int | None = None,
    ) -> tuple[Float[Array, "B S N K d"], Float[Array, "B S N K d"], Causal | None]:
        """Keys and values of the visible frames, and the mask for `tokens` tokens of each frame.

        A causal frame sees the last `reach` frames, including itself; all of them if None.
        """
        if not self.config.causal:
            return key, value, None
        T = key.shape[1]
        kept = self.config.memory if reach is None else reach - 1

        def nothing() -> tuple[Array, Array, Array]:
            empty = jnp.zeros((key.shape[0], kept, *key.shape[2:]), key.dtype)
            return empty, empty, jnp.zeros((), jnp.int32)

        past, first = carried(self, "past", nothing), 0
        if past is not None:
            past_key, past_value, count = past.value
            key = jnp.concatenate([past_key, key], axis=1)
            value = jnp.concatenate([past_value, value], axis=1)
            first = kept - count
            carry(past, (key[:, T:], value[:, T:], jnp.minimum(count + T, kept)))
        return key, value, Causal(tokens, reach, first)

    def within(
        self,
        groups: str,
        split: str,
        query: Float[Array, "B T N K d"],
        key: Float[Array, "B S N K d"],
        value: Float[Array, "B S N K d"],
        mask: Mask = None,
    ) -> Float[Array, "B T N K d"]:
        """Attention within groups of tokens.

        `groups` is the einops pattern that forms them. `split` says what devices divide, one of
        `devices.SPLITS`.
        """

        def attend(query: Array, key: Array, value: Array) -> Array:
            B, T, N = query.shape[:3]
            parts = (rearrange(a, groups) for a in (query, key, value))
            y = attention(*parts, mask, self.config.attention)
            return rearrange(y, " -> ".join(reversed(groups.split(" -> "))), b=B, f=T, n=N)

        if streaming(self):  # its mask varies
            return attend(query, key, value)
        names = names_of(split, 5)
        kernels = self.config.attention.name == "pallas"
        return locally(
            attend, [names] * 3, names, query, key, value, kernels=kernels, checked=False
        )


@mixer("space")
class Space(Attention):
    """Attention among the tokens of a frame."""

    differ, over = "space", "frame"

    def attend(
        self,
        query: Float[Array, "B T N K d"],
        key: Float[Array, "B T N K d"],
        value: Float[Array, "B T N K d"],
        context: Context,
    ) -> Float[Array, "B T N K d"]:
        return self.within("b f n k d -> (b f) n k d", "frames", query, key, value)


@mixer("time")
class Time(Attention):
    """Attention among the tokens of one place, over all frames."""

    differ, over = "time", "cell"

    def attend(
        self,
        query: Float[Array, "B T N K d"],
        key: Float[Array, "B T N K d"],
        value: Float[Array, "B T N K d"],
        context: Context,
    ) -> Float[Array, "B T N K d"]:
        key, value, mask = self.past_and_present(key, value)
        return self.within("b f n k d -> (b n) f k d", "places", query, key, value, mask)


@mixer("joint")
class Joint(Attention):
    """Attention among all tokens of the clip."""

    over = "clip"

    def attend(
        self,
        query: Float[Array, "B T N K d"],
        key: Float[Array, "B T N K d"],
        value: Float[Array, "B T N K d"],
        context: Context,
    ) -> Float[Array, "B T N K d"]:
        key, value, mask = self.past_and_present(key, value, tokens=query.shape[2])
        return self.within("b f n k d -> b (f n) k d", "heads", query, key, value, mask)


@mixer("window")
class Window(Attention):
    """Attention within local windows, shifted by half a window in every other repeat.

    Causal windows slide over time instead: each frame sees the last `frames`, including itself.

    Attributes:
      frames, rows, columns: the size of a window, in tokens.
    """

    over = "window"

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
        h, w = context.grid
        sides = [min(self.rows, h), min(self.columns, w)]
        key, value, mask = self.past_and_present(
            key, value, tokens=math.prod(sides), reach=self.frames
        )
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
            same &= dense(mask, *same.shape[1:])[0]
        B = len(query)
        groups = [rearrange(cut(a), "b m w k d -> (b m) w k d") for a in (query, key, value)]
        seen = Dense(repeat(same, "m q s -> (b m) 1 q s", b=B))
        y = attention(*groups, seen, self.config.attention)
        y = rearrange(y, "(b m) w k d -> b m w k d", b=B)
        size = (min(self.frames, T) if mask is None else T, *sides)
        y = windows.merge(y, (T, h, w), size, tuple(shift))
        return rearrange(y, "b t h w k d -> b t (h w) k d")


def projections(
    config: MixerConfig, x: Float[Array, "B T N D"], parts: int, name: str
) -> list[Float[Array, "B T N E"]]:
    """`parts` linear projections of x, such as queries, keys and values, with the heads joined."""
    features = (parts, config.heads, x.shape[-1] // config.heads)
    return Linears(features, config.dtype, ("embed", None, "heads", None), name=name)(x)


def by_head(config: MixerConfig, x: Float[Array, "B T N D"]) -> Float[Array, "B T N K d"]:
    """Splits the heads."""
    return rearrange(x, "b t n (k d) -> b t n k d", k=config.heads)


def joined(config: MixerConfig, y: Float[Array, "B T N D"]) -> Float[Array, "B T N D"]:
    """The output layer, which mixes the heads."""
    D = y.shape[-1]
    y = y.reshape(*y.shape[:-1], config.heads, D // config.heads)
    init = kernel("heads", None, "embed", inputs=2)
    return Linear((D,), config.dtype, init, inputs=2, name="out")(y)
