"""The interface of a source of clips, and the registered sources.

@source("clips")
def open_clips(config: ConfigDict, split: str) -> Source: ...

A source has two splits: "train", and "validation", whose clips are never trained on. Scores and
examples come from the latter.
"""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from ml_collections import ConfigDict

from jaxvid.data.clips import Clip


@runtime_checkable
class Source(Protocol):
    """Random access to clips by index.

    Attributes:
      labels: names of the classes.
      fingerprint: short hash that is equal only for sources with the same clips in the same order;
        it does not depend on where they are stored.

    A source with several clips of a video also has `videos`, a number or hash of the video of each
    clip; see `PerVideo`. One whose clips have names says them by `name_of(index)`.
    """

    labels: tuple[str, ...]
    fingerprint: str

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Clip: ...


Open = Callable[[ConfigDict, str], Source]
SOURCES: dict[str, Open] = {}


def source(name: str) -> Callable[[Open], Open]:
    """Registers a function that opens a split of a source, for `data.source=name`.

    It gets the `data` section of a config, and "train" or "validation". A validation split without
    clips has length 0.
    """

    def register(function: Open) -> Open:
        SOURCES[name] = function
        return function

    return register


def make_source(config: ConfigDict, split: str = "train") -> Source:
    """Opens a split of the source that the `data` section of a config describes.

    Raises:
      InputError: the config does not fit the source's clips.
    """
    return SOURCES[config.source](config, split)
