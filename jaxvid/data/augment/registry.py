"""The registered augmentations, and the list of those that a config asks for.

    config.data.augment = ("flip", "crop(least=0.8)", "colour(p=0.5, brightness=0.2)")

They are applied in this order, each to a share `p` of the clips. One is a function of a sample,
which is what `data.clips.sample_clip` returns:

    @augmentation(p=0.5, falsifies=("action",))
    def flip(sample: Sample, rng: np.random.Generator) -> Sample: ...

It makes the same change to all frames, and to the arrays that describe them, the truth (see
`data.worlds.world`); `move` does so if it is affine. `action` is a velocity. A temporal one changes
which frames are decoded, see `data.clips.Shown`; those come before the others.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

from jaxvid.config import TEXT, UNIT, Key, Rule, declare, is_sequence, key, parse_call, requirement
from jaxvid.errors import InputError, nearest

Sample = dict[str, np.ndarray]
Apply = Callable[..., Any]

declare(
    "data",
    augment=key(
        (),
        Rule(
            'a tuple of augmentations, such as ("flip", "crop(least=0.8)")',
            lambda v: is_sequence(v, TEXT.holds),
        ),
        "augmentations of the training clips, in order; see docs/data.md",
    ),
)


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """A registered augmentation.

    Attributes:
      apply: maps (sample, the record's generator, options) to a sample; if it is temporal, maps
        (what is shown, the record's times, generator, options) to what is shown.
      options: its options, and `p`, the share of the clips that it changes.
      temporal: whether it changes which frames are decoded.
      falsifies: arrays of a batch that it makes false for real video, because it does not change
        them with the pixels: "label", "text_bytes" (captions), "text" (embedded captions),
        "action".
      in_worlds: those that it makes false even in the worlds, whose truth is exact.
    """

    apply: Apply
    options: Mapping[str, Key]
    temporal: bool
    falsifies: tuple[str, ...]
    in_worlds: tuple[str, ...]


AUGMENTATIONS: dict[str, Augmentation] = {}


def augmentation(
    *,
    p: float = 1.0,
    temporal: bool = False,
    falsifies: tuple[str, ...] = (),
    in_worlds: tuple[str, ...] = (),
    **options: Key,
) -> Callable[[Apply], Apply]:
    """Registers an augmentation by its function's name; see `Augmentation` for the arguments."""

    def register(apply: Apply) -> Apply:
        keys = options | {"p": key(p, UNIT, "share of the clips")}
        AUGMENTATIONS[apply.__name__] = Augmentation(apply, keys, temporal, falsifies, in_worlds)
        return apply

    return register


def active(texts: Sequence[str], temporal: bool, always: bool = False) -> tuple[Apply, ...]:
    """The augmentations that texts describe, either the temporal ones or the others, in order.

    They take no options any more. `always` makes all of them change every clip. Raises InputError
    for a text that is not valid.
    """
    chosen = [(AUGMENTATIONS[name], *options) for name, *options in map(_parse, texts)]
    return tuple(
        functools.partial(_sometimes, change.apply, 1.0 if always else p, options)
        for change, p, options in chosen
        if change.temporal == temporal
    )


def _sometimes(apply: Apply, p: float, options: Mapping[str, Any], shown: Any, *others: Any) -> Any:
    *_, rng = others
    return apply(shown, *others, **options) if rng.random() < p else shown


def _parse(text: str) -> tuple[str, float, dict[str, Any]]:
    """The name of an augmentation, its share of the clips, and all of its options."""
    try:
        name, given = parse_call(text)
    except ValueError:
        raise InputError(f"{text!r}: write it as flip or as crop(least=0.8)") from None
    if name not in AUGMENTATIONS:
        raise InputError(f"{text!r}: {nearest(name, AUGMENTATIONS)}choose one of "
                         f"{', '.join(AUGMENTATIONS)}")  # fmt: skip
    options = AUGMENTATIONS[name].options
    chosen = {option: declared.default for option, declared in options.items()}
    for option, value in given.items():
        if option not in options:
            raise InputError(f"{text!r}: {nearest(option, options)}{name} takes "
                             f"{', '.join(options)}")  # fmt: skip
        if not options[option].rule.holds(value):
            raise InputError(f"{text!r}: {option} must be {options[option].rule}")
        chosen[option] = type(chosen[option])(value)
    return name, chosen.pop("p"), chosen


def move(sample: Sample, change: Float[np.ndarray, "3 3"]) -> Sample:
    """The truth of a clip whose pixels are moved by an affine change of homogeneous coordinates.

    Returns only the arrays that change.
    """
    linear, shift = change[:2, :2].astype(np.float32), change[:2, 2].astype(np.float32)
    moved = {k: sample[k] @ linear.T for k in ("position", "velocity") if k in sample}
    if "action" in sample and sample["action"].shape[-1] == 2:  # else it is not a velocity
        moved["action"] = sample["action"] @ linear.T
    if "position" in moved:
        moved["position"] += shift
    if "camera" in sample:
        moved["camera"] = change.astype(np.float32) @ sample["camera"]
    return moved


def check_truth(
    config: ConfigDict, used: Mapping[str, str], world: Mapping[str, tuple[str, ...]] | None
) -> None:
    """Raises InputError, naming all, if augmentations that are on falsify the model's conditions.

    Args:
      config: the `data` section of a config.
      used: arrays of a batch that condition the model, with their names for the message.
      world: for a procedural world, arrays that some augmentations make false only there; None for
        real video.
    """

    def falsified(name: str) -> tuple[str, ...]:
        change = AUGMENTATIONS[name]
        more = change.falsifies if world is None else world.get(name, ())
        return change.in_worlds + more

    mistakes = []
    for array, words in used.items():
        if wrong := [text for text in config.augment if array in falsified(_parse(text)[0])]:
            mistakes.append(f"{' and '.join(wrong)} would make the clips' {words} false")
    if mistakes:
        raise InputError(
            f"config.data.augment: {'; '.join(mistakes)}: leave that out, or train without these"
        )


@requirement
def _check_augmentations(config: ConfigDict) -> None:
    try:
        for text in config.data.augment:
            _parse(text)
    except InputError as error:
        raise InputError(f"config.data.augment: {error}") from None
