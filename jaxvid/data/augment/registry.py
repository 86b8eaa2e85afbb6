"""The registered augmentations, and how they are applied.

A sample is what `jaxvid.data.clips.sample_clip` returns. An augmentation makes the same change to
all its frames, and to what goes with them: `position` holds (x, y) in [0,1] image coordinates and
`action` a velocity, (x, y) in sides of the picture per second.

    @augmentation(falsifies=("action",), flip=key(False, FLAG, "mirror half of the clips"))
    def flip(sample: Sample, rng: np.random.Generator, config: ConfigDict) -> Sample: ...
"""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
from ml_collections import ConfigDict

from jaxvid.config import Key, declare
from jaxvid.errors import InputError

Sample = dict[str, np.ndarray]
Apply = Callable[[Sample, np.random.Generator, ConfigDict], Sample]


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """One registered change.

    Attributes:
      apply: (sample, the record's own generator, the `data` part of a config) -> the sample.
      keys: its keys in `data`. With all at their defaults it is off.
      order: augmentations are applied from the lowest to the highest, then by name.
      falsifies: arrays of a batch that it does not change along with the video, although it would
        have to: "text_bytes" (captions), "text" (embedded captions), "action".
    """

    apply: Apply
    keys: Mapping[str, Key]
    order: int
    falsifies: tuple[str, ...]

    def is_on(self, config: ConfigDict) -> bool:
        """Whether the `data` part of a config asks for it."""
        return any(config[name] != key.default for name, key in self.keys.items())


AUGMENTATIONS: dict[str, Augmentation] = {}


def augmentation(
    *, order: int = 100, falsifies: tuple[str, ...] = (), **keys: Key
) -> Callable[[Apply], Apply]:
    """Declares the keys of an augmentation in `data`, and registers it by its function's name.

    See `Augmentation` for the arguments. The function is called only where it is on.
    """

    def register(apply: Apply) -> Apply:
        declare("data", **keys)
        AUGMENTATIONS[apply.__name__] = Augmentation(apply, keys, order, falsifies)
        return apply

    return register


def active(config: ConfigDict) -> tuple[Apply, ...]:
    """Those that the `data` part of a config asks for, in the order in which they are applied."""
    ordered = sorted(AUGMENTATIONS.items(), key=lambda item: (item[1].order, item[0]))
    return tuple(change.apply for _, change in ordered if change.is_on(config))


def check_truth(config: ConfigDict, used: Mapping[str, str]) -> None:
    """Raises InputError, naming all, if augmentations that are on falsify what the model is given.

    Args:
      config: the `data` part of a config.
      used: arrays of a batch that condition the model, and what they are called in the message.
    """
    mistakes = []
    for array, words in used.items():
        keys = [
            f"data.{name}={config[name]}"
            for change in AUGMENTATIONS.values()
            if array in change.falsifies and change.is_on(config)
            for name in change.keys
        ]
        if keys:
            mistakes.append(f"{' and '.join(keys)} would make the clips' {words} false")
    if mistakes:
        raise InputError(f"{'; '.join(mistakes)}: turn that off, or train without these")
