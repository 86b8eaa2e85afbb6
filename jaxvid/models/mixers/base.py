"""What all mixers have in common, and the one place where they are registered."""

import dataclasses
import re
from collections.abc import Callable
from typing import Any, TypeVar

import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from jaxvid.models import grammar

MIXERS: dict[str, type[nn.Module]] = {}
M = TypeVar("M", bound=type[nn.Module])


@dataclasses.dataclass(frozen=True)
class MixerConfig:
    """The settings that the mixers of a network share.

    Attributes:
      heads, mlp_ratio, dtype: as in `SpaceTimeTransformer`.
      causal: whether a frame sees only itself and those before it.
      memory: frames before the window that causal `time` and `joint` still see when streaming.
    """

    heads: int
    mlp_ratio: int
    dtype: jnp.dtype
    causal: bool = False
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
    must obey a rule. A class attribute `needs` names the condition that the word cannot do without.

    Raises ValueError for a word that another class has, or that the grammar cannot read, and
    TypeError for a field that cannot be an argument.
    """
    if not re.fullmatch(r"[A-Za-z]\w*", word):
        raise ValueError(f"a word of the grammar is letters, digits and _, not {word!r}")

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
