"""What a clip can be asked to be: the registry of conditions, and what is done with all of them.

A condition is a subclass of `Condition` in a file of its own, with `@condition(NAME)` and its keys.

For classifier-free guidance (Ho & Salimans 2022, arXiv 2207.12598) a network trains on some clips
without their conditions. Guidance compares with all of them dropped, so a share of the clips trains
without any (`conditions.dropout`); each condition can be dropped by itself as well.
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree
from ml_collections import ConfigDict

from jaxvid.config import FRACTION, KEYS, declare, key, requirement
from jaxvid.data.clips import Clip
from jaxvid.data.sources import Source
from jaxvid.errors import InputError
from jaxvid.models.conditioning import Entry, Setting

LOOKED_AT = 32
JOINTLY = 1_000_003  # no condition has this number

# What an augmentation does not change along with the video, except in the synthetic world.
FALSIFIES = {
    "flip": ("text", "action"),
    "reverse": ("text", "text_bytes", "action"),
    "crop": ("action",),
}

declare(
    "conditions",
    dropout=key(0.1, FRACTION, "share of clips that train without any condition", before=0.0),
)


class Condition:
    """A condition with its arrays in any tree of dicts, of leaves [B,...] in a batch.

    A subclass is a frozen dataclass with at least `dropout`, the share of clips that train without
    it; it defines what has no default here.
    """

    name: ClassVar[str]  # under which its arrays lie in `given`
    flag: ClassVar[str]  # of `jaxvid.sample`
    flag_help: ClassVar[str]
    dropout: float

    @classmethod
    def from_config(cls, config: ConfigDict) -> "Condition | None":
        """The condition of a config, or None where it is off."""
        raise _undefined(cls, "from_config")

    def encode(self, sample: Mapping[str, np.ndarray], clip: Clip | None) -> PyTree:
        """The arrays of a clip, of fixed shapes; null where it has no such condition.

        Args:
          sample: what `data.clips.sample_clip` drew and augmentation changed.
          clip: the record it was drawn from, or None for a clip of which nothing is known.
        """
        raise _undefined(type(self), "encode")

    def check(self, source: Source, clips: Sequence[Clip]) -> None:
        """Raises InputError if the data, of which `clips` are some, has no such condition."""

    def truths(self) -> dict[str, str]:
        """What an augmentation of the video could make false: "text_bytes" (captions), "text"
        (embedded captions), "action"; each with its name in messages."""
        return {}

    def by_default(self, arrays: PyTree) -> PyTree:
        """What a batch of clips is asked to be where a user asks for nothing: null `arrays`."""
        return arrays

    def parse(self, value: str, frames: int) -> PyTree:
        """The arrays of a clip of `frames` frames from what a user wrote after the flag.

        Raises InputError for what it cannot be.
        """
        raise _undefined(type(self), "parse")

    def window(self, arrays: PyTree, start: int, length: int) -> PyTree:
        """The arrays for `length` frames from `start` on, where they have a row per frame."""
        return arrays

    def prepare(self, arrays: PyTree, key: Array, training: bool) -> PyTree:
        """What the network sees of the arrays; what is random follows from `key`."""
        return arrays

    def null(self, arrays: PyTree) -> PyTree:
        """What the network sees, with the condition dropped: the same tree."""
        raise _undefined(type(self), "null")

    def embed(self, arrays: PyTree, setting: Setting) -> Entry:
        """How it enters the network. It is called inside it, so it may use Flax modules."""
        raise _undefined(type(self), "embed")


def _undefined(cls: type, method: str) -> TypeError:
    return TypeError(f"the condition {cls.__name__} does not define {method}")


CONDITIONS: dict[str, type[Condition]] = {}


def condition(name: str) -> Callable[[type], type]:
    """Registers a class as the condition `name`."""

    def register(cls: type) -> type:
        cls.name = name
        CONDITIONS[name] = cls
        return cls

    return register


def make_conditions(config: ConfigDict) -> tuple[Condition, ...]:
    """The conditions that a config turns on, in the order of their registration."""
    made = (cls.from_config(config) for cls in CONDITIONS.values())
    return tuple(c for c in made if c is not None)


def encode(
    conditions: Sequence[Condition], sample: Mapping[str, np.ndarray], clip: Clip | None
) -> dict[str, Any]:
    """What is given with a clip: the arrays of each condition, under its name."""
    return {c.name: c.encode(sample, clip) for c in conditions}


def prepare(
    conditions: Sequence[Condition], given: Mapping[str, PyTree], key: Array, training: bool
) -> dict[str, PyTree]:
    """What the network sees of a batch's `given`. `key` is that of the step, or of the sampler."""
    return {c.name: c.prepare(given[c.name], key, training) for c in conditions}


def null(conditions: Sequence[Condition], given: Mapping[str, PyTree]) -> dict[str, PyTree]:
    """The same with everything dropped, in the same tree structure."""
    return {c.name: c.null(given[c.name]) for c in conditions}


def window(
    conditions: Sequence[Condition], given: Mapping[str, PyTree], start: int, length: int
) -> dict[str, PyTree]:
    """What is given for `length` frames of a longer video, from frame `start` on."""
    return {c.name: c.window(given[c.name], start, length) for c in conditions}


def drop(
    conditions: Sequence[Condition], given: Mapping[str, PyTree], key: Array, jointly: float | int
) -> dict[str, PyTree]:
    """Drops conditions of a batch clip by clip, as training does.

    Args:
      conditions: of the batch.
      given: what the network sees, with leaves [B,...].
      key: of this step.
      jointly: share of the clips that lose all; each condition's own `dropout` comes on top.
    """
    if not conditions:
        return {}
    (B, *_) = jax.tree.leaves(given)[0].shape

    def dropped(number: int, rate: float | int) -> Array:
        return jax.random.bernoulli(jax.random.fold_in(key, number), rate, (B,))

    numbers, all_gone = list(CONDITIONS), dropped(JOINTLY, jointly)

    def without(c: Condition, arrays: PyTree) -> PyTree:
        gone = all_gone | dropped(numbers.index(c.name), c.dropout)

        def choose(null: Array, x: Array) -> Array:
            return jnp.where(gone.reshape(-1, *[1] * (x.ndim - 1)), null, x)

        return jax.tree.map(choose, c.null(arrays), arrays)

    return {c.name: without(c, given[c.name]) for c in conditions}


def check_source(conditions: Sequence[Condition], source: Source) -> None:
    """Raises InputError if the data lacks a condition.

    A few clips, evenly spaced over the source, are looked at: it is enough that one has it.
    """
    clips = []
    for index in np.unique(np.linspace(0, len(source) - 1, LOOKED_AT).astype(int)):
        with contextlib.suppress(InputError):
            clips.append(source[int(index)])
    for c in conditions:
        c.check(source, clips)


@requirement
def _check_augmentations(config: ConfigDict) -> None:
    if config.data.source == "synthetic":
        return
    truths = {name: words for c in make_conditions(config) for name, words in c.truths().items()}
    for change, falsified in FALSIFIES.items():
        value = config.data[change]
        for name, words in truths.items():
            if name in falsified and value != KEYS[f"data.{change}"].default:
                raise InputError(
                    f"config.data.{change}={value} would make the clips' {words} false: turn it "
                    f"off, or train without {words}"
                )
