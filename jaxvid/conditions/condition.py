"""The interface and registry of conditions, and functions that apply to all conditions of a run.

A condition is a subclass of `Condition`, decorated with `@condition(NAME)`, in one file with its
keys.

For classifier-free guidance (Ho & Salimans 2022, arXiv 2207.12598) a network trains on some clips
without their conditions. The unconditional estimate drops all conditions, so a share of the clips
trains without any (`conditions.dropout`). Each condition can also be dropped alone.
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PyTree
from ml_collections import ConfigDict

from jaxvid.config import FRACTION, declare, key, requirement
from jaxvid.data.augment import check_truth
from jaxvid.data.clips import Clip
from jaxvid.data.sources import Source, parts
from jaxvid.data.worlds import WORLDS
from jaxvid.errors import InputError
from jaxvid.models.conditioning import Entry, Setting
from jaxvid.models.mixers import MIXERS
from jaxvid.models.transformer import stacks

LOOKED_AT = 32
JOINTLY = 1_000_003  # no condition has this number

declare(
    "conditions",
    dropout=key(0.1, FRACTION, "share of clips that train without any condition", before=0.0),
)


class Condition:
    """A condition, whose arrays form a tree of dicts with leaves [B,...] in a batch.

    A subclass is a frozen dataclass with at least `dropout`, the share of clips that train without
    the condition. It must define the methods that raise here.
    """

    name: ClassVar[str]  # the key of its arrays in `given`
    flag: ClassVar[str]  # the flag of `jaxvid.sample`
    flag_help: ClassVar[str]
    dropout: float

    @classmethod
    def from_config(cls, config: ConfigDict) -> "Condition | None":
        """The condition of a config, or None if it is off."""
        raise _undefined(cls, "from_config")

    def encode(self, sample: Mapping[str, np.ndarray], clip: Clip | None) -> PyTree:
        """The arrays of a clip, of fixed shapes; null if the clip lacks the condition.

        Args:
          sample: the output of `data.clips.sample_clip` after augmentation.
          clip: the record it was drawn from, or None for a blank clip.
        """
        raise _undefined(type(self), "encode")

    def check(self, source: Source, clips: Sequence[Clip]) -> None:
        """Raises InputError if the data lacks the condition; `clips` are a few of its clips."""

    def truths(self) -> dict[str, str]:
        """What an augmentation of the video could make false: "label", "text_bytes" (captions),
        "text" (embedded captions), "action"; each with its name in messages."""
        return {}

    def by_default(self, arrays: PyTree) -> PyTree:
        """The arrays of a batch without a user's choice, from null `arrays`: null by default."""
        return arrays

    def parse(self, value: str, frames: int) -> PyTree:
        """The arrays of a clip of `frames` frames, from the value of the flag.

        Raises InputError for an invalid value.
        """
        raise _undefined(type(self), "parse")

    def describe(self, arrays: PyTree) -> str:
        """The title of a clip in a contact sheet, from its arrays; empty by default."""
        return ""

    def window(self, arrays: PyTree, frames: Int[np.ndarray, " T"]) -> PyTree:
        """The arrays of the frames with these numbers, if they have a row per frame."""
        return arrays

    def prepare(self, arrays: PyTree, key: Array, training: bool) -> PyTree:
        """The arrays that the network sees; `key` determines their random draws.

        Arrays that are prepared stay as they are.
        """
        return arrays

    def null(self, arrays: PyTree) -> PyTree:
        """The arrays that the network sees if the condition is dropped, in the same tree."""
        raise _undefined(type(self), "null")

    def embed(self, arrays: PyTree, setting: Setting) -> Entry:
        """The input to the network. It is called inside the network, so it may use Flax modules."""
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
    """The conditions that a config turns on, in order of registration."""
    made = (cls.from_config(config) for cls in CONDITIONS.values())
    return tuple(c for c in made if c is not None)


def encode(
    conditions: Sequence[Condition], sample: Mapping[str, np.ndarray], clip: Clip | None
) -> dict[str, Any]:
    """The arrays of all conditions of a clip, by name."""
    return {c.name: c.encode(sample, clip) for c in conditions}


def describe(conditions: Sequence[Condition], given: Mapping[str, PyTree]) -> list[str]:
    """The title of each clip of a batch, from its arrays on the host."""

    def title(i: int) -> str:
        clip = jax.tree.map(lambda x: np.asarray(x[i]), dict(given))
        return ": ".join(filter(None, (c.describe(clip[c.name]) for c in conditions)))

    return [title(i) for i in range(len(jax.tree.leaves(given)[0]))] if conditions else []


def prepare(
    conditions: Sequence[Condition], given: Mapping[str, PyTree], key: Array, training: bool
) -> dict[str, PyTree]:
    """The arrays that the network sees, from the `given` of a batch and the key of the step.

    With n keys, each is for an equal part of the batch.
    """
    if key.ndim:
        parts = jax.tree.map(lambda x: x.reshape(len(key), -1, *x.shape[1:]), dict(given))
        seen = jax.vmap(lambda part, k: prepare(conditions, part, k, training))(parts, key)
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), seen)
    return {c.name: c.prepare(given[c.name], key, training) for c in conditions}


def null(conditions: Sequence[Condition], given: Mapping[str, PyTree]) -> dict[str, PyTree]:
    """The arrays with all conditions dropped, in the same tree structure."""
    return {c.name: c.null(given[c.name]) for c in conditions}


def window(
    conditions: Sequence[Condition], given: Mapping[str, PyTree], frames: Int[np.ndarray, " T"]
) -> dict[str, PyTree]:
    """The arrays for the frames with these numbers of a longer video."""
    return {c.name: c.window(given[c.name], frames) for c in conditions}


def drop(
    conditions: Sequence[Condition], given: Mapping[str, PyTree], key: Array, jointly: float | int
) -> dict[str, PyTree]:
    """Drops conditions of each clip of a batch at random, for training.

    Args:
      conditions: the conditions of the batch.
      given: the arrays that the network sees, with leaves [B,...].
      key: random key of this step.
      jointly: share of clips that lose all conditions. Independently, each condition is dropped
        with its own `dropout`.
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

    It checks a few clips, evenly spaced over the source; one clip with the condition is enough.
    """
    clips = []
    for index in np.unique(np.linspace(0, len(source) - 1, LOOKED_AT).astype(int)):
        with contextlib.suppress(InputError):
            clips.append(source[int(index)])
    for c in conditions:
        c.check(source, clips)


@requirement
def _check_words(config: ConfigDict) -> None:
    names = {c.name for c in make_conditions(config)}
    for line, _ in stacks(config.model.blocks, config.model.depth):
        for word in (word.name for words in line for word in words):
            needs = getattr(MIXERS[word], "needs", None)
            if needs and needs not in names:
                raise InputError(
                    f"config.model.blocks: '{word}' needs the condition '{needs}', which is off: "
                    f"see config.conditions.{needs} in docs/keys.md"
                )


@requirement
def _check_augmentations(config: ConfigDict) -> None:
    truths = {name: words for c in make_conditions(config) for name, words in c.truths().items()}
    for name in parts(config.data):
        check_truth(config.data, truths, {"synthetic": {}, **WORLDS}.get(name))
