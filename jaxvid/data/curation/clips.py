"""Cuts a video into clips, and says of each whether to keep it."""

import collections
import os
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, UInt8

from jaxvid.data import video
from jaxvid.data.curation.cuts import Cuts
from jaxvid.data.curation.duplicates import perceptual_hash
from jaxvid.data.curation.letterbox import find_borders
from jaxvid.data.curation.scores import failed, measure, parse_filters
from jaxvid.data.curation.settings import Settings
from jaxvid.data.image import cropped
from jaxvid.errors import InputError

Frames = collections.deque[tuple[UInt8[np.ndarray, "H W 3"], float]]


class Piece(NamedTuple):
    """A clip of a video.

    Attributes:
      frames: RGB in [0, 255].
      time: presentation times, in seconds from the first frame.
      start: time of the first frame in the video, in seconds.
      scores: see `scores.measure`.
      hash: see `duplicates.perceptual_hash`.
      dropped: the score for which it is dropped, or "".
      action: the action at each frame, or None.
      cropped: the share of the video's picture that is not in the frames, or None for a game.
    """

    frames: UInt8[np.ndarray, "T H W 3"]
    time: Float32[np.ndarray, " T"]
    start: float
    scores: dict[str, float]
    hash: str
    dropped: str
    action: Float32[np.ndarray, "T A"] | None = None
    cropped: float | None = None


def cut_video(path: str | os.PathLike, settings: Settings) -> Iterator[Piece]:
    """The consecutive clips of a video, none of which goes over a cut.

    A shorter rest of a scene is left out.

    Raises:
      InputError: the video cannot be read to its end, no scene is as long as a clip, or another of
        `settings.shapes` crops less of it.
    """
    cuts, held, found, total = Cuts(settings.cuts), collections.deque(), False, 0
    borders = video.NO_BORDERS
    if settings.letterbox:
        borders = find_borders(picture for picture, _ in video.preview(path))
    share = _crop(path, borders, settings)
    for image in video.read_frames(
        path, size=settings.size, fps=settings.fps, borders=borders, watch=cuts.see
    ):
        total += 1
        held.append(image)
        while frames := _take(held, cuts, settings.frames):
            found = True
            yield judge(*frames, settings)._replace(cropped=share)
    cuts.end()
    while frames := _take(held, cuts, settings.frames):
        found = True
        yield judge(*frames, settings)._replace(cropped=share)
    if not found and video.is_image(path):
        raise InputError(f"{path}: an image, not a video")
    if not found:
        scenes = f", in {len(cuts.found) + 1} scenes" if cuts.found else ""
        raise InputError(
            f"{path}: shorter than a clip: {total} frames at {settings.fps:g} fps{scenes}, "
            f"{settings.frames} are needed"
        )


def _crop(path: str | os.PathLike, borders: video.Borders, settings: Settings) -> float:
    """The share of the picture that is cropped; raises InputError if another shape crops less."""
    aspect, _ = video.look(path, borders)
    sides = {name: tuple(map(int, name.split("x"))) for name in settings.shapes}
    shares = {name: cropped(aspect, width / height) for name, (height, width) in sides.items()}
    nearest = min(shares, key=shares.get, default=settings.folder)
    if nearest != settings.folder:
        raise InputError(f"{path}: nearer to {nearest}")
    height, width = settings.shape
    return cropped(aspect, width / height)


def _take(
    held: Frames, cuts: Cuts, length: int
) -> tuple[UInt8[np.ndarray, "T H W 3"], Float32[np.ndarray, " T"], float] | None:
    """The next clip of `held` frames, if its cuts are known, and no frames before it."""
    while len(held) >= length and (last := held[length - 1][1]) <= cuts.known_to:
        cut = cuts.between(held[0][1], last)
        if cut is None:
            images, times = zip(*(held.popleft() for _ in range(length)), strict=True)
            return np.stack(images), np.subtract(times, times[0]).astype(np.float32), times[0]
        while held[0][1] <= cut:
            held.popleft()
    return None


def judge(
    frames: UInt8[np.ndarray, "T H W 3"],
    time: Float32[np.ndarray, " T"],
    start: float,
    settings: Settings,
) -> Piece:
    """Scores a clip; the arguments are those of `Piece`."""
    scores = measure(frames, time)
    dropped = failed(scores, parse_filters(settings.filters))
    return Piece(frames, time, start, scores, perceptual_hash(frames), dropped)
