"""The interface of a source of clips, and the registered sources.

@source("clips")
def open_clips(config: ConfigDict, split: str) -> Source: ...

A source has two splits: "train", and "validation", whose clips are never trained on. Scores and
examples come from the latter.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Array, UInt8
from ml_collections import ConfigDict

from jaxvid.data.clips import Clip


@runtime_checkable
class Source(Protocol):
    """Random access to clips by index.

    Attributes:
      labels: names of the classes.
      fingerprint: short hash that is equal only for sources with the same clips in the same order;
        it does not depend on where they are stored.

    A source with several clips of a video also has `videos`, the number of the video of each
    clip; see `PerVideo`. One whose clips have names says them by `name_of(index)`. One whose
    records have shapes of their own, before they are cropped, says in `looks`, float [n,2], of each
    its width divided by its height, and its seconds; NaN if it cannot be read. One row stands for
    all if they are alike.
    """

    labels: tuple[str, ...]
    fingerprint: str

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Clip: ...


Open = Callable[[ConfigDict, str], Source]
Render = Callable[[ConfigDict, Mapping[str, Any]], UInt8[Array, "B T H W 3"]]
SOURCES: dict[str, Open] = {}
RENDERS: dict[str, Render] = {}


def source(name: str, render: Render | None = None) -> Callable[[Open], Open]:
    """Registers a function that opens a split of a source, for `data.source=name`.

    It gets the `data` section of a config, and "train" or "validation". A validation split without
    clips has length 0.

    `render`, for `data.render_on_device`, paints the video of a batch in a jitted function, from
    that section and the scenes of its clips (`Clip.scene`), with leaves [B,...]: what their
    `decode` gives, up to rounding.
    """

    def register(function: Open) -> Open:
        SOURCES[name] = function
        if render:
            RENDERS[name] = render
        return function

    return register


def make_source(config: ConfigDict, split: str = "train") -> Source:
    """Opens a split of the source that the `data` section of a config describes.

    Raises:
      InputError: the config does not fit the source's clips.
    """
    return SOURCES[config.source](config, split)
