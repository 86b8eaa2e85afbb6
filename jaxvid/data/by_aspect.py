"""Aspect ratio bucketing: each clip of a folder goes to the bucket that is nearest in shape.

That is the bucket that crops least of its pictures, so the logarithm of its aspect is the nearest.
Of buckets of the same shape, it is the longest that the clip is long enough for. A clip that cannot
be read goes where most of the others go.
"""

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from ml_collections import ConfigDict

from jaxvid.config import FLAG, declare, key
from jaxvid.data.clips import Clip, frame_shape, shortest
from jaxvid.data.image import cropped
from jaxvid.data.sources import Source
from jaxvid.errors import InputError

declare(
    "data",
    by_aspect=key(
        False,
        FLAG,
        "whether the buckets of a folder divide its clips, each to the nearest shape, and all come "
        "equally often",
    ),
)


def divide(
    source: Source, bucket: ConfigDict, buckets: Sequence[ConfigDict]
) -> tuple[Source, float | None]:
    """The clips of a source that are in a bucket.

    Args:
      source: the clips of the folder.
      bucket: the `data` section of the bucket.
      buckets: those of all buckets.

    Returns:
      The clips, and the share of their pictures that cropping removes on average, if it is known.

    Raises:
      InputError: no clip is for the bucket, or clips of such a source have no shapes of their own.
    """
    if not hasattr(source, "looks"):
        raise InputError(
            f"clips of config.data.source={bucket.source} have no shapes of their own: set "
            "by_aspect=False"
        )
    rivals = [
        other
        for other in buckets
        if other.by_aspect and (other.source, other.path) == (bucket.source, bucket.path)
    ]
    looks = source.looks
    chosen = _nearest(looks, rivals) == next(k for k, b in enumerate(rivals) if b is bucket)
    if not chosen.any():
        shape = "x".join(map(str, (bucket.frames, *frame_shape(bucket))))
        raise InputError(f"no clip in {bucket.path} is nearest to {shape}: leave this bucket out")
    share = getattr(
        source, "cropped", float(np.nanmean(cropped(looks[chosen, 0], _aspect(bucket))))
    )
    return (source if chosen.all() else Some(source, np.flatnonzero(chosen))), share


def _nearest(
    looks: Float[np.ndarray, "n 2"], buckets: Sequence[ConfigDict]
) -> Int[np.ndarray, " n"]:
    """The bucket of each clip."""
    aspect, seconds = looks[:, :1], looks[:, 1:]
    share = cropped(aspect, np.array([_aspect(data) for data in buckets]))
    frames = np.array([data.frames for data in buckets])
    has = seconds * [data.fps for data in buckets] + 0.5  # as `sources.videos` counts them
    too_short = has < [shortest(data) for data in buckets]
    nearest = np.lexsort((np.where(too_short, frames, -frames), too_short, share))[:, 0]
    unknown = np.isnan(looks[:, 0])
    nearest[unknown] = np.bincount(nearest[~unknown], minlength=1).argmax()
    return nearest


def _aspect(bucket: ConfigDict) -> float:
    H, W = frame_shape(bucket)
    return W / H


@dataclasses.dataclass(frozen=True)
class Some:
    """The clips of a source at some indices."""

    source: Source
    index: Int[np.ndarray, " n"]

    @property
    def labels(self) -> tuple[str, ...]:
        """Those of the source."""
        return self.source.labels

    @property
    def fingerprint(self) -> str:
        """Of the source and the indices."""
        about = self.source.fingerprint.encode() + self.index.astype("<i8").tobytes()
        return hashlib.sha256(about).hexdigest()[:16]

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, index: int) -> Clip:
        return self.source[int(self.index[index])]

    def name_of(self, index: int) -> Any:
        """The name of a clip."""
        return self.source.name_of(int(self.index[index]))
