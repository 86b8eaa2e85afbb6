"""Random clips that were kept, and others that were not."""

import contextlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader
from jaxtyping import UInt8

from jaxvid.data import manifest, records, video
from jaxvid.data.curation.letterbox import find_borders
from jaxvid.data.curation.scores import SCORES
from jaxvid.data.curation.settings import Settings
from jaxvid.errors import InputError
from jaxvid.files import Path, local

_FRAMES = 8  # of each clip
_SHARDS = 64  # a large folder has more clips than can be listed here


class Example(NamedTuple):
    """A clip of a folder, kept or not.

    Attributes:
      frames: some of its frames.
      title: where it comes from, its scores, and why it was dropped.
    """

    frames: UInt8[np.ndarray, "t H W 3"]
    title: str


class _Place(NamedTuple):
    """Where a clip is: in a file, or, if it was written, in a shard too."""

    name: str
    start: float
    scores: str
    why: str
    shard: str
    record: int


def examples(
    source: Path, output: Path, manifest: manifest.Manifest, shards: Iterable[str], count: int
) -> tuple[list[Example], list[Example]]:
    """Up to `count` clips that were kept, and up to `count` that were dropped.

    Those whose file is no longer there are left out.

    Args:
      source: the folder of videos.
      output: the folder of clips.
      manifest: what it holds.
      shards: the names of all, those without clips too.
      count: number of each.
    """
    rng, names = np.random.default_rng(0), sorted(shards)
    some = sorted(names[i] for i in rng.permutation(len(names))[:_SHARDS])
    places = list(_places(output, manifest, some))
    shown: tuple[list[Example], list[Example]] = [], []
    for number in rng.permutation(len(places)):
        place = places[number]
        part = shown[bool(place.why)]
        if len(part) < count:
            with contextlib.suppress(InputError, OSError, RuntimeError, IndexError):
                title = " | ".join(filter(None, (f"{place.name} {place.start:g} s", place.why)))
                frames = _frames(source, output, place, Settings.from_json(manifest))
                part.append(Example(frames, f"{title} | {place.scores}"))
        elif all(len(part) == count for part in shown):
            break
    return shown


def _places(output: Path, made: manifest.Manifest, shards: Iterable[str]) -> Iterator[_Place]:
    for shard in shards:
        record, left_out = 0, made["shards"].get(shard, {}).get("left_out", ())
        for name, entry in sorted(manifest.read_shard(output, shard)["files"].items()):
            columns = (entry.get(key, ()) for key in ("start", "scores", "dropped"))
            for start, scores, why in zip(*columns, strict=True):
                text = ", ".join(f"{k} {scores[k]:.2g}" for k in SCORES if k in scores)
                written = entry["status"] == "done" and not why
                if written and record in left_out:
                    why = "duplicate"
                yield _Place(name, start, text, why, shard, record if written else -1)
                record += written


def _frames(
    source: Path, output: Path, place: _Place, settings: Settings
) -> UInt8[np.ndarray, "t H W 3"]:
    index = np.linspace(0, settings.frames - 1, min(_FRAMES, settings.frames)).round().astype(int)
    if place.record >= 0:
        (record,) = ArrayRecordReader(str(output / place.shard)).read([place.record])
        return records.decode(record).decode(index)
    with local(source / place.name) as path:
        borders = video.NO_BORDERS
        if settings.letterbox:
            borders = find_borders(picture for picture, _ in video.preview(path))
        times = place.start + index / settings.fps
        return video.read_at(path, times, size=settings.size, borders=borders)[0]
