"""Buckets: clips of several shapes that train together, one shape at a step.

    config.data.buckets = (
        "square(weight=2)", "wide(size=32, width=64)", "stills(frames=1, source='images')",
    )

A bucket has a name of your choice, its weight, and what it changes in the `data` section. Of four
steps, two have square clips here. Each bucket has as many clips per step as come nearest to the
tokens of `batch_size` clips of the `data` section. A network is compiled once for each shape.

With `data.by_aspect`, the buckets of one folder divide its clips by their shapes, and share steps
so that all clips come equally often; see `by_aspect`.
"""

import bisect
import dataclasses
import hashlib
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from jaxvid import config as configs
from jaxvid.config import POSITIVE, TEXT, Rule, declare, is_sequence, key, parse_call, requirement
from jaxvid.data.by_aspect import divide
from jaxvid.data.clips import Clip, frame_shape
from jaxvid.data.sources import Mixture, Source, make_source
from jaxvid.errors import InputError

declare(
    "data",
    buckets=key(
        (),
        Rule(
            'a tuple of buckets, such as ("square(weight=2)", "wide(width=64)")',
            lambda v: is_sequence(v, TEXT.holds),
        ),
        "clips of several shapes that train together, see docs/data.md; none is one shape",
    ),
)


@dataclasses.dataclass(frozen=True)
class Bucket:
    """Clips of one shape.

    Attributes:
      name: its name.
      data: the `data` section with its changes.
      batch_size: clips per step, over all hosts.
      weight: its share of the steps, beside the weights of the others; see `steps_of`.
      tokens: of a step.
    """

    name: str
    data: ConfigDict
    batch_size: int
    weight: int
    tokens: int

    def __str__(self) -> str:
        shape = "x".join(map(str, (self.data.frames, *frame_shape(self.data))))
        return f"{self.name}: {self.batch_size} clips of {shape}, {self.tokens} tokens per step"


def make_buckets(config: ConfigDict, unit: int = 1) -> tuple[Bucket, ...]:
    """The buckets of a config; without any, one that is the `data` section.

    Args:
      config: the config.
      unit: the clips per step are a multiple of it, except in the only bucket.

    Raises InputError for a bucket that is not valid.
    """
    whole = _tokens(config)
    if not config.data.buckets:
        return (Bucket("all", config.data, config.batch_size, 1, config.batch_size * whole),)
    found: dict[str, Bucket] = {}
    for text in config.data.buckets:
        name, changes, weight = _parse(text)
        if name in found:
            raise InputError(f"config.data.buckets: there are two of the name {name}")
        changed = with_changes(config, changes)
        tokens = _tokens(changed)
        size = unit * max(1, round(config.batch_size * whole / tokens / unit))
        found[name] = Bucket(name, changed.data, size, weight, size * tokens)
    return tuple(found.values())


def with_changes(config: ConfigDict, changes: Mapping[str, Any]) -> ConfigDict:
    """A copy of a config with other keys of its `data` section, and no buckets.

    Raises InputError for a value of another type.
    """
    changed = config.copy_and_resolve_references()
    changed.data.buckets = ()
    try:
        changed.data.update(changes)
    except (TypeError, ValueError) as error:  # a value of another type
        raise InputError(str(error)) from None
    return changed


def open_sources(config: ConfigDict) -> tuple[list[Source], Source, Source]:
    """The training split of each bucket, all of these as one, and the validation split.

    Classes of the same name are one class. Raises InputError for a bucket without clips.
    """
    buckets = make_buckets(config)
    if not config.data.buckets:
        source, validation = (make_source(config.data, split) for split in ("train", "validation"))
        return [source], source, validation
    opened, shares = [], []
    for bucket in buckets:
        try:
            source = make_source(bucket.data)
            share = getattr(source, "cropped", None)
            if bucket.data.by_aspect:
                source, share = divide(source, bucket.data, [other.data for other in buckets])
        except InputError as error:
            raise InputError(f"config.data.buckets: {bucket.name}: {error}") from None
        if not len(source):
            raise InputError(f"config.data.buckets: {bucket.name} has no clips: leave it out")
        opened.append(source)
        shares.append(share)
    held_out = make_source(config.data, "validation")
    labels = tuple(dict.fromkeys(label for part in (*opened, held_out) for label in part.labels))
    sources = [OfBucket(*pair, labels) for pair in zip(opened, shares, strict=True)]
    return sources, Joined(sources), OfBucket(held_out, None, labels)


class OfBucket(Mixture):
    """A source with the classes of all buckets.

    Attributes:
      cropped: the share of its pictures that cropping removes on average, or None.
    """

    def __init__(self, source: Source, cropped: float | None, labels: tuple[str, ...]):
        super().__init__((source,), [1], labels)
        self.cropped = cropped


class Joined:
    """The sources of all buckets, one after another.

    Attributes:
      labels: the names of their classes.
      fingerprint: of all.
      starts: the index of the first clip of each.
    """

    def __init__(self, sources: Sequence[Source]):
        self.labels = sources[0].labels
        about = [source.fingerprint for source in sources]
        self.fingerprint = hashlib.sha256(repr(about).encode()).hexdigest()[:16]
        self._sources = sources
        *self.starts, self._length = itertools.accumulate(map(len, sources), initial=0)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Clip:
        source, start = self._find(index)
        return source[index - start]

    def name_of(self, index: int) -> Any:
        """The name of a clip, or its index if it has none."""
        source, start = self._find(index)
        return source.name_of(index - start)

    def _find(self, index: int) -> tuple[Mixture, int]:
        k = bisect.bisect_right(self.starts, index) - 1
        return self._sources[k], self.starts[k]


def steps_of(buckets: Sequence[Bucket], sources: Sequence[Source]) -> list[float]:
    """How many steps each bucket has, beside the others: its weight.

    Those with `data.by_aspect` share the sum of their weights so that each of their clips comes as
    often as its bucket's weight says.
    """
    steps = [float(bucket.weight) for bucket in buckets]
    shared = [k for k, bucket in enumerate(buckets) if bucket.data.by_aspect]
    passes = [steps[k] * len(sources[k]) / buckets[k].batch_size for k in shared]
    total = sum(steps[k] for k in shared)
    for k, one in zip(shared, passes, strict=True):
        steps[k] = total * one / sum(passes)
    return steps


def describe_buckets(buckets: Sequence[Bucket], sources: Sequence[OfBucket]) -> list[str]:
    """A line for each: its shape, clips, share of steps and tokens, and what it crops."""
    steps, lines = steps_of(buckets, sources), []
    tokens = [count * bucket.tokens for count, bucket in zip(steps, buckets, strict=True)]
    for bucket, source, count, part in zip(buckets, sources, steps, tokens, strict=True):
        lines.append(
            f"bucket {bucket}, {count / sum(steps):.0%} of the steps and "
            f"{part / sum(tokens):.0%} of the tokens; {len(source)} clips"
        )
        if source.cropped is not None:
            lines[-1] += f", {source.cropped:.1%} of their pictures cropped away"
    return lines


def _tokens(config: ConfigDict) -> int:
    sides = (config.data.frames, *frame_shape(config.data))
    return math.prod(n // p or 1 for n, p in zip(sides, config.model.patch, strict=True))


def _parse(text: str) -> tuple[str, dict[str, Any], int]:
    try:
        name, options = parse_call(text)
        weight = options.pop("weight", 1)
    except ValueError:
        name, options, weight = "", {}, 0
    if not POSITIVE.holds(weight):
        raise InputError(
            f"config.data.buckets: {text!r}: write it as wide(width=64) or wide(width=64, weight=2)"
        )
    return name, options, weight


@requirement
def _check_buckets(config: ConfigDict) -> None:
    buckets: Sequence[str] = config.data.buckets
    if not buckets:
        if config.data.by_aspect:
            raise InputError("config.data.by_aspect=True: there are no config.data.buckets")
        return
    for text in buckets:
        name, changes, _ = _parse(text)
        for option in changes:
            if option not in config.data or option == "buckets":
                raise InputError(f"config.data.buckets: {name}: there is no key data.{option}")
        try:
            configs.check(with_changes(config, changes | {"by_aspect": False}))
        except InputError as error:
            raise InputError(f"config.data.buckets: {name}: {error}") from None
    for wrong, instead in (
        (config.model.positions == "learned", "model.positions=rotary or sincos"),
        (bool(config.model.patches), "model.patches=()"),
        (bool(config.data.plans), "data.plans=()"),
        (bool(config.data.render_on_device), "data.render_on_device=False"),
    ):
        if wrong:
            raise InputError(f"config.data.buckets need config.{instead}")
