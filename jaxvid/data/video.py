"""Reads and writes video files: PyAV decodes and encodes."""

import contextlib
import functools
import io
import itertools
import math
import os
import re
import stat
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import av
import numpy as np
from av.stream import Disposition
from jaxtyping import Float, Float32, UInt8

from jaxvid.data import seek
from jaxvid.data.image import fit
from jaxvid.errors import InputError
from jaxvid.files import is_local, to_path

# A longer gap between two frames is treated as a broken timestamp: repeating a frame to fill it
# would fill a data set with stills.
_LONGEST_GAP_SECONDS = 60.0
# The length in a header may be that of the sound, which ends a little later.
_SLACK_SECONDS = 0.25
# `duration` leaves its file open for a `read_at` that follows in its thread: to open a file, FFmpeg
# decodes some frames.
_left = threading.local()
# Opens a file without decoding any of its frames.
_HEADER = {"codec_whitelist": "none", "probesize": "32"}


class Borders(NamedTuple):
    """Rows and columns of a stored frame that are no part of the picture."""

    above: int = 0
    below: int = 0
    left: int = 0
    right: int = 0


NO_BORDERS = Borders()
# Titles may be in Latin-1. PyAV 19 reads them, and has no such option.
TITLES = {"metadata_errors": "replace"} if int(av.__version__.partition(".")[0]) < 19 else {}


def read_frames(
    path: str | os.PathLike,
    *,
    size: int | tuple[int, int] | None = None,
    fps: int | float | None = None,
    borders: Borders = NO_BORDERS,
    watch: Callable[[av.VideoFrame, float], None] | None = None,
) -> Iterator[tuple[UInt8[np.ndarray, "H W 3"], float]]:
    """Streams the frames of a video file, with at most two frames in memory.

    Args:
      path: a file in any container and codec that PyAV reads.
      size: (H, W), or S for (S, S); the largest centred part of the picture of this shape is
        resized to it, by area. None takes the largest centred square as it is.
      fps: frame k of the result is the frame nearest to k / fps seconds; None takes every frame.
      borders: what is cut off first, before the frame is turned upright.
      watch: is called with every frame that is decoded and its time, before it is yielded.

    Yields:
      An RGB frame in [0, 255], turned upright, and its presentation time in seconds from the first
      frame. One that is nearest to several of the times k / fps has these. Times increase.

    Raises:
      InputError: the file is not a video, is truncated or damaged, has no video stream or no
        frames, or changes resolution. Frames yielded before the error are valid.
    """
    with _open(path) as container:
        stream = _video_stream(path, container)
        frames = _decode(path, container, stream)
        if watch is not None:
            frames = _watched(frames, watch)
        if fps is not None:
            frames = _resample(frames, fps, _period(stream))
        pixel_aspect = _pixel_aspect(stream)
        for frame, time in frames:
            yield _fit(frame, size, pixel_aspect, borders), time


def read_video(
    path: str | os.PathLike,
    *,
    frames: int,
    size: int | tuple[int, int] | None,
    fps: int | float | None = None,
) -> tuple[UInt8[np.ndarray, "N H W 3"], Float32[np.ndarray, " N"]]:
    """Reads the first `frames` frames: RGB in [0, 255], and times in seconds from the first.

    Raises:
      InputError: as in `read_frames`, or the video has fewer than `frames` frames.
    """
    taken = list(itertools.islice(read_frames(path, size=size, fps=fps), frames))
    if len(taken) < frames:
        rate = "" if fps is None else f" at {fps:g} fps"
        raise InputError(
            f"{path}: has {len(taken)} frames{rate}, {frames} are needed; give a longer video"
        )
    video, time = zip(*taken, strict=True)
    return np.stack(video), np.array(time, np.float32)


def duration(path: str | os.PathLike) -> float:
    """The length of a video in seconds, by its header.

    Raises:
      InputError: the file cannot be read, is not a video, or does not say how long it is.
    """
    container = _open(path)
    _left.open = {path: container}
    seconds = _seconds(container, _video_stream(path, container))
    if not seconds:
        raise InputError(f"{path}: does not say how long it is; prepare it, or convert it")
    return seconds


def look(path: str | os.PathLike, borders: Borders = NO_BORDERS) -> tuple[float, float]:
    """What the header of a video says.

    Args:
      path: as in `read_frames`.
      borders: as in `read_frames`.

    Returns:
      The width of the upright picture divided by its height, and the length in seconds, 0 if it is
      not known.

    Raises:
      InputError: the file cannot be read, or is not a video.
    """
    with contextlib.suppress(InputError):
        return _look(path, borders, _HEADER)
    return _look(path, borders, {})


def read_at(
    path: str | os.PathLike,
    times: Float[np.ndarray, " T"],
    *,
    size: int | tuple[int, int],
    borders: Borders = NO_BORDERS,
) -> tuple[UInt8[np.ndarray, "T H W 3"], Float[np.ndarray, " T"]]:
    """The frames nearest to `times` and when they are shown, as `read_frames` would give them.

    If the container allows it, it decodes from the last key frame before the first time on, and
    leaves out frames in between that no others refer to.

    Args:
      path: as in `read_frames`.
      times: seconds from the first frame, increasing.
      size: as in `read_frames`.
      borders: as in `read_frames`.

    Returns:
      RGB in [0, 255], and times in seconds from the first frame, increasing: those of a frame that
      is nearest to several of `times` are these.

    Raises:
      InputError: as in `read_frames`, or the video ends before the last time.
    """
    with getattr(_left, "open", {}).pop(path, None) or _open(path) as container:
        stream = _video_stream(path, container)
        take = functools.partial(
            _fit, size=size, pixel_aspect=_pixel_aspect(stream), borders=borders
        )
        found = seek.find(
            container,
            stream,
            times,
            take,
            last=_period(stream) + _SLACK_SECONDS,
            longest_gap=_LONGEST_GAP_SECONDS,
        )
    images, shown = zip(*(_read_on(path, times, take) if found is None else found), strict=True)
    _, which, count = np.unique(shown, return_inverse=True, return_counts=True)
    return np.stack(images), np.where(count[which] > 1, times, shown)


def _read_on(
    path: str | os.PathLike,
    times: Float[np.ndarray, " T"],
    take: Callable[[av.VideoFrame], UInt8[np.ndarray, "H W 3"]],
) -> list[tuple[UInt8[np.ndarray, "H W 3"], float]]:
    """Like `seek.find`, but decodes all frames from the first on; raises as `read_at` does."""
    found: list[tuple[np.ndarray, float]] = []
    with _open(path) as container:
        stream = _video_stream(path, container)
        period, frames = _period(stream), _decode(path, container, stream)
        held, shown = next(frames)
        while len(found) < len(times):
            frame, time = next(frames, (None, shown + 2 * (period + _SLACK_SECONDS)))
            while len(found) < len(times) and times[len(found)] <= (shown + time) / 2:
                found.append((take(held), shown))
            if frame is None and len(found) < len(times):
                raise InputError(
                    f"{path}: ends after {shown + period:.2f} s, before {times[len(found)]:.2f} s; "
                    "copy it again"
                )
            held, shown = frame, time
    return found


def preview(
    path: str | os.PathLike, count: int = 8
) -> Iterator[tuple[UInt8[np.ndarray, "H W"], float]]:
    """Up to `count` frames from all over a video, as stored but grey, and their times in seconds.

    They are the first key frames at or after evenly spaced times, so hardly anything is decoded. It
    ends early where the file is damaged.

    Raises InputError if the file cannot be opened as a video.
    """
    with _open(path) as container:
        stream = _video_stream(path, container)
        stream.codec_context.skip_frame = "NONKEY"
        start, base = stream.start_time or 0, stream.time_base
        length = stream.duration or (container.duration or 0) / av.time_base / base
        shown = -math.inf
        with contextlib.suppress(av.FFmpegError):
            for k in range(count):
                at = start + int(length * k / count)
                container.seek(at, stream=stream, backward=k == 0)
                frame = next(container.decode(stream), None)
                if frame is not None and frame.pts is not None and frame.pts > shown:
                    shown = frame.pts
                    yield frame.to_ndarray(format="gray", threads=1), float((shown - start) * base)


def _look(
    path: str | os.PathLike, borders: Borders, options: Mapping[str, str]
) -> tuple[float, float]:
    with _open(path, options) as container:
        stream = _video_stream(path, container)
        # An mp4 states the shape of its pixels only if they are not square.
        stated = stream.sample_aspect_ratio or "mp4" in container.format.name
        if not stream.width or (options and not stated):
            raise InputError(f"{path}: does not say how wide it is; convert it")
        above, below, left, right = borders
        width = (stream.width - left - right) * _pixel_aspect(stream)
        height = stream.height - above - below
        lies = _lies(container, stream)
        return height / width if lies else width / height, _seconds(container, stream)


def is_image(path: str | os.PathLike) -> bool:
    """Whether a file that PyAV can open is an image, such as a JPEG or PNG."""
    with _open(path) as container:
        return container.format.name.endswith("_pipe")


class VideoWriter(contextlib.AbstractContextManager):
    """Writes RGB frames, part by part, to an H.264 mp4 that any player opens.

    The file appears at `path` when the `with` block ends without an error.

    Args:
      path: replaced if it exists; its folder must exist.
      fps: frames per second.
      scale: each pixel becomes `scale` x `scale` pixels. Odd sizes then grow by one repeated row
        or column, because yuv420p halves them.

    Raises:
      OSError: the file cannot be written.
    """

    def __init__(self, path: str | os.PathLike, fps: int | float, scale: int = 1):
        self._path, self._scale = Path(path), scale
        self._temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}.tmp")
        self._container = av.open(
            str(self._temporary), "w", format="mp4", options={"movflags": "faststart"}
        )
        rate = Fraction(fps).limit_denominator(1001)
        self._stream = self._container.add_stream("libx264", rate=rate, options={"crf": "12"})
        self._stream.pix_fmt = "yuv420p"

    def write(self, frames: UInt8[np.ndarray, "T H W 3"]) -> None:
        """Appends frames, RGB in [0, 255], all of the same size."""
        frames = frames.repeat(self._scale, axis=1).repeat(self._scale, axis=2)
        _, height, width, _ = frames.shape
        frames = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        if not self._stream.codec_context.is_open:
            self._stream.height, self._stream.width = frames.shape[1:3]
        for image in frames:
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            self._container.mux(self._stream.encode(frame))

    def __exit__(self, kind: type | None, *_: object) -> None:
        try:
            if kind is None:
                self._container.mux(self._stream.encode())
                self._container.close()
                os.replace(self._temporary, self._path)
            else:
                with contextlib.suppress(av.FFmpegError):  # keep the first error
                    self._container.close()
        finally:
            self._temporary.unlink(missing_ok=True)


def write_video(
    path: str | os.PathLike, frames: UInt8[np.ndarray, "T H W 3"], fps: int | float, scale: int = 1
) -> None:
    """Writes at least one frame, like `VideoWriter`."""
    with VideoWriter(path, fps, scale) as video:
        video.write(frames)


def _open(
    path: str | os.PathLike, options: Mapping[str, str] = MappingProxyType({})
) -> av.container.InputContainer:
    """Opens a regular file, and nothing that it refers to; raises as `read_frames` does."""
    # A playlist could make FFmpeg open any other file or address.
    options, where = {"protocol_whitelist": "fd", **options}, to_path(path, "file")
    try:
        if not is_local(where):
            return _container(path, io.BytesIO(where.read_bytes()), options)
        file = os.open(where, os.O_RDONLY | os.O_NONBLOCK)  # a pipe would wait for its writer
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise InputError(f"{path}: not a regular file; remove it")
        # By number: FFmpeg takes some names for URLs or patterns.
        return _container(path, "fd:", {"fd": str(file), **options})
    finally:
        os.close(file)


def _container(
    path: str | os.PathLike, file: str | io.BytesIO, options: Mapping[str, str]
) -> av.container.InputContainer:
    try:
        # PyAV's `options` would go to the streams too, and crash on some.
        return av.open(file, container_options=options, **TITLES)
    except EOFError as error:
        raise InputError(f"{path}: has no frames; remove it or copy it again") from error
    except av.FFmpegError as error:
        raise InputError(
            f"{path}: not a video, or truncated before its index ({_reason(error)}); remove it or "
            "copy it again"
        ) from error


def _video_stream(
    path: str | os.PathLike, container: av.container.InputContainer
) -> av.VideoStream:
    streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not streams:
        raise InputError(f"{path}: has no video stream; remove it")
    stream = streams[0]
    if stream.codec_context is None:
        raise InputError(
            f"{path}: no decoder for its codec, or truncated in its index; convert it, for example "
            "to H.264, or copy it again"
        )
    # Several processes decode and convert at the same time: threads in each would only compete.
    stream.codec_context.thread_count = 1
    return stream


def _decode(
    path: str | os.PathLike,
    container: av.container.InputContainer,
    stream: av.VideoStream,
) -> Iterator[tuple[av.VideoFrame, float]]:
    """Yields each frame and its time in seconds from the first; raises as `read_frames` does."""
    period, origin = _period(stream), None
    time, resolution, read_to = -period, None, 0.0
    try:
        for packet in container.demux():
            if packet.pts is not None:
                end = packet.pts + (packet.duration or 0)
                read_to = max(read_to, float(end * packet.time_base))
            if packet.stream is not stream:
                continue
            for frame in packet.decode():
                if frame.is_corrupt:
                    raise _damaged(path, time, "incomplete data")
                resolution = resolution or (frame.width, frame.height)
                if (frame.width, frame.height) != resolution:
                    raise InputError(
                        f"{path}: resolution changes from {resolution[0]}x{resolution[1]} to "
                        f"{frame.width}x{frame.height} after {time:.2f} s; split it there"
                    )
                origin = frame.pts if origin is None else origin
                previous, time = time, time + period
                if frame.pts is not None:
                    stated = float((frame.pts - origin) * frame.time_base)
                    # In joined files time may jump back; then count on from the previous frame.
                    time = stated if stated > previous else time
                if time - previous > _LONGEST_GAP_SECONDS:
                    raise _damaged(path, previous, f"no frames for {time - previous:.0f} s")
                yield frame, time
    except av.FFmpegError as error:
        raise _damaged(path, time, _reason(error)) from error
    if resolution is None:
        raise InputError(f"{path}: has no frames; remove it or copy it again")
    declared = (container.duration or 0) / av.time_base
    missing = (container.start_time or 0) / av.time_base + declared - read_to
    if missing > max(0.25, 0.05 * declared):
        raise InputError(
            f"{path}: truncated, the last {missing:.2f} of {declared:.2f} s are missing; "
            "copy it again"
        )


def _resample(
    frames: Iterator[tuple[av.VideoFrame, float]], fps: int | float, period: float
) -> Iterator[tuple[av.VideoFrame, float]]:
    """Yields the frame nearest to each time k / fps, until the video ends.

    The last frame lasts `period` seconds; a last interval that is less than half full is left out.
    """
    (held, shown), count, ticks = next(frames), 0, []
    for frame, time in frames:
        while count / fps <= (shown + time) / 2:
            ticks.append(count / fps)
            count += 1
        yield from ((held, tick) for tick in _own_time(ticks, shown))
        held, shown, ticks = frame, time, []
    while count == 0 or (count + 0.5) / fps <= shown + period:
        ticks.append(count / fps)
        count += 1
    yield from ((held, tick) for tick in _own_time(ticks, shown))


def _own_time(ticks: list[float], shown: float) -> list[float]:
    return [shown] if len(ticks) == 1 else ticks


def _watched(
    frames: Iterator[tuple[av.VideoFrame, float]], watch: Callable[[av.VideoFrame, float], None]
) -> Iterator[tuple[av.VideoFrame, float]]:
    for frame, time in frames:
        watch(frame, time)
        yield frame, time


def _fit(
    frame: av.VideoFrame,
    size: int | tuple[int, int] | None,
    pixel_aspect: float,
    borders: Borders = NO_BORDERS,
) -> UInt8[np.ndarray, "H W 3"]:
    image = frame.to_ndarray(format="rgb24", threads=1)
    above, below, left, right = borders
    image = image[above : frame.height - below, left : frame.width - right]
    turns = frame.rotation // 90
    shape = (size, size) if isinstance(size, int) else size
    if shape and turns % 2:
        shape = shape[::-1]
    return np.ascontiguousarray(np.rot90(fit(image, shape, pixel_aspect), turns))


def _pixel_aspect(stream: av.VideoStream) -> float:
    return float(stream.sample_aspect_ratio or 1)


def _lies(container: av.container.InputContainer, stream: av.VideoStream) -> bool:
    """Whether the pictures are stored lying on their side."""
    # PyAV says it only of decoded frames, and to decode one of each file would take minutes. The
    # header that FFmpeg would write for this stream has it in a fixed place.
    try:
        with io.BytesIO() as file:
            with av.open(file, "w", format="mov", options={"movflags": "empty_moov"}) as copy:
                copy.add_stream_from_template(stream)
                copy.start_encoding()
            header = file.getvalue()
        a, b = struct.unpack_from(">2i", header, header.index(b"tkhd") + 44)
        return abs(a) < abs(b)
    except (av.FFmpegError, ValueError):  # not a codec for this header
        with contextlib.suppress(av.FFmpegError):
            for frame in container.decode(stream):
                return bool(frame.rotation // 90 % 2)
    return False


def _seconds(container: av.container.InputContainer, stream: av.VideoStream) -> float:
    """The length that the header states, or 0."""
    if stream.duration:
        return float(stream.duration * stream.time_base)
    if re.fullmatch(r"\d+:\d+:\d+\.\d+", stated := stream.metadata.get("DURATION", "")):
        hours, minutes, seconds = map(float, stated.split(":"))
        return 3600 * hours + 60 * minutes + seconds
    return (container.duration or 0) / av.time_base


def _period(stream: av.VideoStream) -> float:
    """Seconds that a frame lasts if it has no timestamp."""
    return float(1 / (stream.average_rate or 25))


def _damaged(path: str | os.PathLike, time: float, reason: str) -> InputError:
    return InputError(
        f"{path}: truncated or damaged after {max(time, 0):.2f} s ({reason}); copy it again"
    )


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
