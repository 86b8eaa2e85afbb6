"""Random-access sources of clips: the synthetic world, and folders that `jaxvid.prepare` made."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

import grain
from ml_collections import ConfigDict

from jaxvid.config import (
    NOT_BELOW_0,
    POSITIVE,
    TEXT,
    Rule,
    declare,
    is_sequence,
    key,
    one_of,
    requirement,
)
from jaxvid.data import manifest, records, text
from jaxvid.data.clips import Clip, span
from jaxvid.data.synthetic import SyntheticWorld
from jaxvid.errors import InputError

declare(
    "data",
    source=key("synthetic", one_of(("synthetic", "clips")), "where clips come from"),
    path=key("", TEXT, 'folder of "clips", made by jaxvid.prepare'),
    shapes=key(
        (2, 3),
        Rule(
            "(fewest, most), from 1 up",
            lambda v: is_sequence(v, POSITIVE.holds, 2) and v[0] <= v[1],
        ),
        "number of shapes in a clip of the synthetic world",
    ),
    spin=key(1.0, NOT_BELOW_0, "their fastest rotation, in radians per second"),
)


@runtime_checkable
class Source(Protocol):
    """Clips by their number; `labels` are the names of the classes."""

    labels: tuple[str, ...]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Clip: ...


def make_source(config: ConfigDict) -> Source:
    """The source that the `data` part of a config describes.

    Raises:
      InputError: a value does not suit what lies at `data.path`.
    """
    if config.source == "synthetic":
        longest = span(config.frames, max(config.strides))
        return SyntheticWorld(
            0, longest, config.size, config.fps, tuple(config.shapes), config.spin
        )
    folder = ClipFolder(config.path, config.text_embeddings)
    size, frames = folder.manifest["size"], folder.manifest["frames"]
    if size != config.size:
        raise InputError(
            f"{config.path} holds clips of {size}x{size} pixels, but data.size={config.size}: "
            f"set data.size={size}, or prepare the videos again at the other size"
        )
    needed = span(config.frames, min(config.strides))
    if needed > frames:
        raise InputError(
            f"{config.path} holds clips of {frames} frames, but data.frames={config.frames} at "
            f"stride {min(config.strides)} needs {needed}: lower data.frames or data.strides, or "
            "prepare longer clips"
        )
    return folder


class ClipFolder:
    """The ArrayRecord shards that `python -m jaxvid.prepare` wrote, opened as they are read.

    Attributes:
      manifest: what prepare says about them, see `jaxvid.data.manifest`.
      labels: names of the classes, empty if there are none.
    """

    def __init__(self, path: str | Path, embeddings: str = ""):
        """Checks that everything is there, and opens nothing.

        Args:
          path: of the folder.
          embeddings: name of those to read with the clips, see `jaxvid.data.text`; "" for none.

        Raises:
          InputError: the folder is missing, empty, or not (or not wholly) one that prepare made, or
            it lacks the embeddings.
        """
        self.path = Path(path)
        self.manifest = manifest.read(self.path)
        self.labels = tuple(self.manifest["labels"])
        counts = {name: count for name, count in self.manifest["shards"].items() if count}
        if not counts:
            raise InputError(
                f"{path} holds no clips: its manifest.json says why each video was skipped"
            )
        self._records = _open(self.path, counts, "copy the folder again, or prepare it again")
        self._text = None
        if embeddings:
            self._text = _open(
                text.folder_of(self.path, embeddings),
                counts,
                "write them with jaxvid.data.text.write_embeddings",
            )

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Clip:
        """The clip; raises InputError if its record cannot be read or is damaged."""
        clip = records.decode(self._read(self._records, index))
        if self._text is None:
            return clip
        return dataclasses.replace(clip, text=text.decode_tokens(self._read(self._text, index)))

    def _read(self, shards: grain.sources.ArrayRecordDataSource, index: int) -> bytes:
        try:
            data = shards[index]
        except RuntimeError as error:
            raise InputError(f"{self.path}: record {index} cannot be read: {error}") from error
        if not data:  # what a shard that was cut short returns
            raise InputError(f"{self.path}: record {index} is empty")
        return data


def _open(
    folder: Path, counts: Mapping[str, int], remedy: str
) -> grain.sources.ArrayRecordDataSource:
    missing = [name for name in counts if not (folder / name).is_file()]
    if missing:
        raise InputError(
            f"{folder} lacks {len(missing)} of the {len(counts)} shards in the clips' "
            f"manifest.json, the first {missing[0]}: {remedy}"
        )
    return grain.sources.ArrayRecordDataSource(
        [_Shard(str(folder / name), count) for name, count in counts.items()]
    )


@dataclasses.dataclass(frozen=True)
class _Shard:
    """A file whose number of records is known, so that it need not be opened to count them."""

    filename: str
    take: int
    skip: int = 0

    @property
    def examples_in_shard(self) -> int:
        return self.take


@requirement
def _check_path(config: ConfigDict) -> None:
    if config.data.source == "clips" and not config.data.path:
        raise InputError("config.data.path is empty: name a folder that jaxvid.prepare has made")
