"""What a source of clips is, and which ones there are.

@source("clips")
def open_clips(config: ConfigDict) -> Source: ...
"""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from ml_collections import ConfigDict

from jaxvid.data.clips import Clip


@runtime_checkable
class Source(Protocol):
    """Clips by their number.

    Attributes:
      labels: names of the classes.
      fingerprint: short, and the same only for a source with the same clips in the same order,
        wherever these are stored.
    """

    labels: tuple[str, ...]
    fingerprint: str

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Clip: ...


Open = Callable[[ConfigDict], Source]
SOURCES: dict[str, Open] = {}


def source(name: str) -> Callable[[Open], Open]:
    """Registers a function from the `data` part of a config to a source, as `data.source=name`."""

    def register(function: Open) -> Open:
        SOURCES[name] = function
        return function

    return register


def make_source(config: ConfigDict) -> Source:
    """The source that the `data` part of a config describes.

    Raises:
      InputError: the config does not suit what the source holds.
    """
    return SOURCES[config.source](config)
