"""The words of the block grammar: each maps tokens [B, T, N, D] to an update of the same shape.

All mixers take the same layout and choose which axes they mix. A new word is one decorated class
(see `mixer`), in any file that is imported.
"""

from jaxvid.models.grammar import argument
from jaxvid.models.mixers import attention, convolution, mlp, recurrence, text  # noqa: F401
from jaxvid.models.mixers.base import MIXERS, Context, MixerConfig, mixer, over_of, split_of

__all__ = ["MIXERS", "Context", "MixerConfig", "argument", "mixer", "over_of", "split_of"]
