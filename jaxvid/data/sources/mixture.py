"""Mixtures of sources, such as a few real videos beside endless synthetic ones.

    config.data.source = "mixture"
    config.data.mixture = ("clips(weight=3)", "bodies")

Of every four clips, three are of "clips" and one is of "bodies". A pass takes all clips of each
source at least once; the clips of those that end earlier come again.
"""

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from jaxvid.config import POSITIVE, TEXT, Rule, declare, is_sequence, key, parse_call, requirement
from jaxvid.data.clips import Clip
from jaxvid.data.sources.registry import SOURCES, Source, source
from jaxvid.errors import InputError, nearest

NAME = "mixture"

declare(
    "data",
    mixture=key(
        (),
        Rule(
            'a tuple of sources, with weights that are integers: ("bodies", "clips(weight=3)")',
            lambda v: is_sequence(v, TEXT.holds),
        ),
        'sources of "mixture", each with its weight, 1 by default',
    ),
)


def parts(config: ConfigDict) -> dict[str, int]:
    """The sources that a `data` section names, with their weights: one, or those of a mixture.

    Raises InputError for a mixture that is not valid.
    """
    if config.source != NAME:
        return {config.source: 1}

    def wrong(why: str) -> InputError:
        return InputError(f"config.data.mixture={tuple(config.mixture)}: {why}")

    weights: dict[str, int] = {}
    for text in config.mixture:
        try:
            name, options = parse_call(text)
            weight = options.pop("weight", 1)
        except ValueError:
            name, options, weight = "", {}, 0
        if options or not POSITIVE.holds(weight):
            raise wrong(f"{text!r}: write it as bodies or as bodies(weight=3)")
        others = [other for other in SOURCES if other != NAME]
        if name not in others:
            raise wrong(f"{text!r}: {nearest(name, others)}choose of {', '.join(others)}")
        if name in weights:
            raise wrong(f"{name} is there twice: give it a weight")
        weights[name] = weight
    if len(weights) < 2:
        raise wrong('name at least two sources, such as ("bodies", "clips(weight=3)")')
    return weights


@source(NAME)
def open_mixture(config: ConfigDict, split: str) -> "Mixture":
    """A split of each source; those without clips in the split are left out."""
    opened = {name: SOURCES[name](config, split) for name in parts(config)}
    labels = tuple(dict.fromkeys(label for part in opened.values() for label in part.labels))
    filled = {name: part for name, part in opened.items() if len(part)}
    weights = [parts(config)[name] for name in filled]
    return Mixture(tuple(filled.values()), weights, labels)


class Mixture:
    """Several sources as one; classes of the same name are one class.

    Attributes:
      labels: the names of all classes.
      fingerprint: of the sources and their weights.
    """

    def __init__(self, sources: Sequence[Source], weights: Sequence[int], labels: tuple[str, ...]):
        self.labels = labels
        self._sources, self._weights = sources, weights
        self._classes = [[labels.index(label) for label in part.labels] for part in sources]
        # A round has as many clips of each source as its weight says.
        self._round = [(i, k) for i, weight in enumerate(weights) for k in range(weight)]
        self._rounds = max(
            (-(-len(part) // weight) for part, weight in zip(sources, weights, strict=True)),
            default=0,
        )
        about = [(part.fingerprint, weight) for part, weight in zip(sources, weights, strict=True)]
        self.fingerprint = hashlib.sha256(repr(about).encode()).hexdigest()[:16]

    def __len__(self) -> int:
        return self._rounds * len(self._round)

    def __getitem__(self, index: int) -> Clip:
        i, at = self._place(index)
        clip = self._sources[i][at]
        label = self._classes[i][clip.label] if clip.label >= 0 else -1
        return dataclasses.replace(clip, label=label)

    def name_of(self, index: int) -> Any:
        """The name of a clip, or its index if it has none."""
        i, at = self._place(index)
        return getattr(self._sources[i], "name_of", lambda _: index)(at)

    def _place(self, index: int) -> tuple[int, int]:
        """The source of a clip, and its index there."""
        number, place = divmod(int(index), len(self._round))
        i, k = self._round[place]
        return i, (number * self._weights[i] + k) % len(self._sources[i])


@requirement
def _check_mixture(config: ConfigDict) -> None:
    parts(config.data)
