"""The settings and inputs that all mixers share, and their registry."""

import dataclasses
import re
from collections.abc import Callable
from typing import Any, TypeVar

import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from jaxvid.models import grammar
from jaxvid.models.attention import EINSUM, Implementation
from jaxvid.models.devices import SPLIT_OF

MIXERS: dict[str, type[nn.Module]] = {}
M = TypeVar("M", bound=type[nn.Module])


@dataclasses.dataclass(frozen=True)
class MixerConfig:
    """The settings that the mixers of a network share.

    Attributes:
      heads, mlp_ratio, dtype: as in `SpaceTimeTransformer`.
      causal: whether a frame sees only itself and earlier frames.
      memory: frames before the window that causal `time` and `joint` still see when streaming.
      attention: the implementation of attention, see `models/attention.py`.
    """

    heads: int
    mlp_ratio: int
    dtype: jnp.dtype
    causal: bool = False
    memory: int = 0
    attention: Implementation = EINSUM


@struct.dataclass
class Context:
    """The inputs of a mixer besides the tokens.

    Attributes:
      seconds: time of each frame, float32 [B,T].
      turns: output of `embeddings.rotary` by what tokens differ in, "space", "time" or "both"; {}
        without rotary positions.
      text, text_lengths: text tokens [B,L,D] and how many are valid, int [B], or None.
      repeat: index of this repeat of the line, int32 [].
      grid: rows and columns of tokens.
      split: how the tokens are divided among devices, see `models/devices.py`.
    """

    seconds: Any = None
    turns: Any = struct.field(default_factory=dict)
    text: Any = None
    text_lengths: Any = None
    repeat: Any = 0
    grid: tuple[int, int] = struct.field(pytree_node=False, default=(1, 1))
    split: str = struct.field(pytree_node=False, default="frames")


def over_of(word: str) -> str:
    """Between which tokens a word mixes, see `models/detail.py`; "" if it does not say."""
    return getattr(MIXERS[word], "over", "")


def split_of(word: str) -> str | None:
    """How devices must divide the tokens of a word, see `models/devices.py`; None for any way."""
    return None if getattr(MIXERS[word], "spans", False) else SPLIT_OF.get(over_of(word))


def mixer(word: str) -> Callable[[M], M]:
    """Registers a module as a word of the grammar.

        @mixer("shift")
        class Shift(nn.Module):
            config: MixerConfig
            frames: int = 1

            @nn.compact
            def __call__(self, x: Float[Array, "B T N D"], context: Context) -> Array:
                return jnp.roll(x, self.frames, axis=1)

    The module has the field `config`, and returns an update of the shape of `x`. Its other fields
    are the arguments of the word, `shift(frames=2)`; `argument(default, rule)` declares one that
    must obey a rule. A class attribute `needs` names a condition that the word requires, and `over`
    says between which tokens it mixes, see `models/detail.py`. If `spans` is true, devices may
    divide the tokens between which it mixes.

    Raises ValueError for a word that another class has, or that the grammar cannot read, and
    TypeError for a field that cannot be an argument.
    """
    if not re.fullmatch(r"[A-Za-z]\w*", word):
        raise ValueError(f"a word of the grammar has letters, digits and _ only, not {word!r}")

    def register(module: M) -> M:
        grammar.arguments(module)
        other = MIXERS.setdefault(word, module)
        if (other.__module__, other.__qualname__) != (module.__module__, module.__qualname__):
            raise ValueError(
                f"the word '{word}' is {other.__module__}.{other.__qualname__} already"
            )
        MIXERS[word] = module
        return module

    return register
