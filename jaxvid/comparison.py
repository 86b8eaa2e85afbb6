"""Scores of what is in files: videos that another program drew, or features of another network."""

import hashlib
from collections.abc import Callable, Iterator

import jax
import numpy as np
from jaxtyping import Float, UInt8

from jaxvid.build import Run
from jaxvid.data import manifest as manifests
from jaxvid.data.clips import frame_shape
from jaxvid.data.folder import VideoFolder
from jaxvid.errors import InputError
from jaxvid.evaluation import CHUNK, OTHER, data_of, extractors, hash_of, of_videos, real_features
from jaxvid.files import Path, content_hash, local
from jaxvid.metrics.metric import FEATURES, METRICS, Features
from jaxvid.metrics.protocols import FEWEST, Protocol
from jaxvid.metrics.score import Score, check_finite, compare, measure
from jaxvid.parallel.mesh import make_mesh


def evaluate_folders(
    videos: Path,
    reference: Path,
    protocol: Protocol,
    size: int | None = None,
    progress: Callable[[], None] = lambda: None,
) -> list[Score]:
    """Scores the videos in a folder against those in another, by a protocol.

    Each video gives one clip: its first frames, at the stride of the protocol. The floor is that of
    as many other videos of the reference, if it has them. The split of the protocol has no meaning.

    Args:
      videos: folder of the videos to score, with all below it.
      reference: folder of real videos.
      protocol: as many videos are taken of each folder, in the order of its seed.
      size: height and width to which frames are resized; by default they keep theirs.
      progress: called after each video.

    Raises:
      InputError: a folder has too few videos, or a video cannot be read, is too short, or has
        another size than the first.
    """
    mesh = make_mesh({"replica": 1, "data": -1, "fsdp": 1, "context": 1, "tensor": 1})
    drawn, real = (VideoFolder(folder, size, protocol.seed) for folder in (videos, reference))
    for folder, path in ((drawn, videos), (real, reference)):
        _check_number(folder, path, protocol)
    length, fps = drawn.measure(0)
    frames = protocol.frames or -(-length // protocol.stride)
    protocol.check(frames, 0)
    fps /= protocol.stride
    extract = {name: FEATURES[name].make(mesh, fps) for name in protocol.features}

    def features(folder: VideoFolder, first: int) -> dict[str, Features]:
        numbers = range(first, first + protocol.clips)
        return of_videos(extract, _in_chunks(folder, numbers, frames, protocol.stride, progress))

    with jax.set_mesh(mesh):
        x, y = features(drawn, 0), features(real, 0)
        others = len(real.names) >= 2 * protocol.clips
        return compare(protocol, x, y, features(real, protocol.clips) if others else None)


def among(reference: Path, trained_on: Path) -> list[Path]:
    """The videos of a folder whose content is also in another: those that a model was trained on.

    Args:
      reference: folder of videos.
      trained_on: folder of videos, or of clips that `jaxvid.prepare` made.

    Raises InputError if a file cannot be read, or if prepared clips have no hashes of their videos.
    """
    if (trained_on / manifests.NAME).is_file():
        manifest = manifests.read(trained_on)
        known = {content for content, _ in manifests.videos(manifest)}
        if not manifest["by_content"]:
            raise InputError(
                f"{trained_on} was prepared by an older version, without hashes of its videos: "
                "give the folder of the videos"
            )
    else:
        known = {content_hash(path) for path in VideoFolder(trained_on).names}
    return sorted(path for path in VideoFolder(reference).names if content_hash(path) in known)


def evaluate_features(drawn: Path, real: Path, seed: int = 0) -> list[Score]:
    """Scores features that another program computed, in all distances of vectors.

    Args:
      drawn, real: .npy files of numbers, a row per clip.
      seed: seed of the errors.

    Raises:
      InputError: a file cannot be read, or the arrays do not fit each other.
    """
    x, y = (_read_rows(path) for path in (drawn, real))
    if x.shape[1] != y.shape[1]:
        raise InputError(
            f"{drawn} has {x.shape[1]} numbers for each clip, but {real} has {y.shape[1]}: "
            "give the features of one network"
        )
    names = {"frechet": "fvd", "mmd": "kvd"}
    names |= {name: name for name in ("precision", "recall", "density", "coverage")}
    check_finite({str(drawn): x, str(real): y})
    return [
        Score(
            metric=name,
            better=METRICS[as_i3d].better,
            drawn=len(x),
            real=len(y),
            protocol="features of files",
            feature=f"{drawn.name} {hash_of(hashlib.sha256(y.tobytes()).hexdigest())}",
            seed=seed,
            **measure(METRICS[as_i3d], x, y, seed),
        )
        for name, as_i3d in names.items()
    ]


def _read_rows(path: Path) -> Float[np.ndarray, "N d"]:
    try:
        with local(path) as file:
            rows = np.load(file, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a .npy file of numbers ({error})") from error
    if not isinstance(rows, np.ndarray) or rows.ndim != 2 or not np.isrealobj(rows):
        raise InputError(f"{path}: give an array of real numbers with a row per clip")
    if len(rows) < FEWEST:
        raise InputError(f"{path} has {len(rows)} rows: a score needs {FEWEST} clips or more")
    return rows.astype(np.float64)


def evaluate_videos(run: Run, videos: Path, protocol: Protocol) -> list[Score]:
    """Scores the videos in a folder as if the model of a run had drawn them.

    They must have the frame size and rate of the run's data. Raises InputError as `evaluate` and
    `evaluate_folders` do.
    """
    extract, data = extractors(run, protocol), data_of(run, protocol)
    folder = VideoFolder(videos, frame_shape(data), protocol.seed)
    _check_number(folder, videos, protocol)
    real, floor = (
        real_features(run, protocol, split, extract)
        for split in (protocol.split, OTHER[protocol.split])
    )
    parts = _in_chunks(folder, range(protocol.clips), data.frames, 1, lambda: None)
    return compare(protocol, of_videos(extract, parts), real, floor)


def _check_number(folder: VideoFolder, path: Path, protocol: Protocol) -> None:
    if protocol.pairs or protocol.window:
        raise InputError(f"{protocol.label} is only for runs: choose another --protocol")
    if len(folder.names) < protocol.clips:
        raise InputError(
            f"{path} has {len(folder.names)} videos, but {protocol.label} needs "
            f"{protocol.clips}: add some, or ask for fewer with --num"
        )


def _in_chunks(
    folder: VideoFolder, numbers: range, frames: int, stride: int, progress: Callable[[], None]
) -> Iterator[UInt8[np.ndarray, "B T H W 3"]]:
    """The clips of the videos of these numbers, in parts of up to `CHUNK`."""
    for chunk in (numbers[i : i + CHUNK] for i in range(0, len(numbers), CHUNK)):
        clips = []
        for index in chunk:
            clips.append(folder.read(index, frames, stride))
            progress()
        yield np.stack(clips)
