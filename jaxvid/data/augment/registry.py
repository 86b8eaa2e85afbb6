"""The registered augmentations, and how they are applied.

A sample is what `jaxvid.data.clips.sample_clip` returns. An augmentation makes the same change to
all frames, and to the arrays that describe them, the truth (see `jaxvid.data.worlds.world`): `move`
does so if it is affine. `action` is a velocity.

    @augmentation(falsifies=("action",), flip=key(False, FLAG, "mirror half of the clips"))
    def flip(sample: Sample, rng: np.random.Generator, config: ConfigDict) -> Sample: ...
"""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

from jaxvid.config import Key, declare
from jaxvid.errors import InputError

Sample = dict[str, np.ndarray]
Apply = Callable[[Sample, np.random.Generator, ConfigDict], Sample]


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """A registered augmentation.

    Attributes:
      apply: maps (sample, the record's generator, the `data` section of a config) to a sample.
      keys: its keys in `data`; it is off if all have their defaults.
      order: augmentations are applied from the lowest to the highest, then by name.
      falsifies: arrays of a batch that it makes false, because it does not change them with the
        video: "text_bytes" (captions), "text" (embedded captions), "action".
    """

    apply: Apply
    keys: Mapping[str, Key]
    order: int
    falsifies: tuple[str, ...]

    def is_on(self, config: ConfigDict) -> bool:
        """Whether the `data` section of a config turns it on."""
        return any(config[name] != key.default for name, key in self.keys.items())


AUGMENTATIONS: dict[str, Augmentation] = {}


def augmentation(
    *, order: int = 100, falsifies: tuple[str, ...] = (), **keys: Key
) -> Callable[[Apply], Apply]:
    """Declares the keys of an augmentation in `data`, and registers it by its function's name.

    See `Augmentation` for the arguments. The function is called only if it is on.
    """

    def register(apply: Apply) -> Apply:
        declare("data", **keys)
        AUGMENTATIONS[apply.__name__] = Augmentation(apply, keys, order, falsifies)
        return apply

    return register


def move(sample: Sample, change: Float[np.ndarray, "3 3"]) -> Sample:
    """The truth of a clip whose pixels are moved by an affine change of homogeneous coordinates.

    Returns only the arrays that change.
    """
    linear, shift = change[:2, :2].astype(np.float32), change[:2, 2].astype(np.float32)
    moved = {k: sample[k] @ linear.T for k in ("position", "velocity", "action") if k in sample}
    if "position" in moved:
        moved["position"] += shift
    if "camera" in sample:
        moved["camera"] = change.astype(np.float32) @ sample["camera"]
    return moved


def active(config: ConfigDict) -> tuple[Apply, ...]:
    """The augmentations that the `data` section of a config turns on, in their order."""
    ordered = sorted(AUGMENTATIONS.items(), key=lambda item: (item[1].order, item[0]))
    return tuple(change.apply for _, change in ordered if change.is_on(config))


def check_truth(config: ConfigDict, used: Mapping[str, str]) -> None:
    """Raises InputError, naming all, if augmentations that are on falsify the model's conditions.

    Args:
      config: the `data` section of a config.
      used: arrays of a batch that condition the model, with their names for the message.
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
