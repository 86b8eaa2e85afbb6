"""A folder of video files, read as they are: only the frames of a clip are decoded.

The files need no preparation. Clips start anywhere in a file, at any stride, and each file counts
once in a pass. `python -m jaxvid.prepare` makes reading faster, since prepared frames are small and
can be decoded alone.
"""

import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, UInt8
from ml_collections import ConfigDict

from jaxvid.config import requirement
from jaxvid.data import scan, video
from jaxvid.data.clips import Clip
from jaxvid.data.folder import PICTURES
from jaxvid.data.sources.mixture import parts
from jaxvid.data.sources.registry import source
from jaxvid.errors import InputError


@source("videos")
def open_videos(config: ConfigDict, split: str) -> "VideoFiles":
    """A split of the files below `data.path`; raises InputError if there are none."""
    folder = Path(config.path).expanduser()
    try:
        found, _ = scan.find_files(folder, Path())
    except InputError as error:
        raise InputError(f"config.data.path: {error}") from None
    names = [name for name in found if Path(name).suffix.lower() not in PICTURES]
    at = np.array([_number(name) for name in names])
    held_out = at < config.validation
    chosen = [n for n, out in zip(names, held_out, strict=True) if out == (split == "validation")]
    if split == "train" and not chosen:
        raise InputError(
            f"config.data.path={config.path}: no video to train on; give a folder with more video "
            "files, or lower config.data.validation"
        )
    classes = sorted({scan.class_of(name) for name in names} - {""})
    return VideoFiles(folder, chosen, classes, config.size, config.fps)


def _number(name: str) -> float:
    """A number in [0,1) that depends on the path alone: adding files moves none between splits."""
    digest = hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()
    return int(digest[:12], 16) / 2**48


class VideoFiles:
    """Video files; the class of one is its first-level folder, its caption the text file beside it.

    Attributes:
      labels: names of the classes.
      fingerprint: of the paths, the sizes of the files, and the settings.
    """

    def __init__(
        self, folder: Path, names: Sequence[str], labels: Sequence[str], size: int, fps: float
    ):
        self.labels = tuple(labels)
        self._folder, self._names, self._size, self._fps = folder, names, size, fps
        sizes = [(name, (folder / name).stat().st_size) for name in names]
        about = repr((sizes, self.labels, size, fps)).encode(errors="surrogateescape")
        self.fingerprint = hashlib.sha256(about).hexdigest()[:16]

    def __len__(self) -> int:
        return len(self._names)

    def name_of(self, index: int) -> str:
        """The path of a file below the folder."""
        return self._names[index]

    def __getitem__(self, index: int) -> Clip:
        """Reads the header of a file; raises InputError if it cannot be read."""
        name = self._names[index]
        path, label = self._folder / name, scan.class_of(name)
        frames = max(1, int(video.duration(path) * self._fps + 0.5))
        time = np.arange(frames) / self._fps
        return Clip(
            time.astype(np.float32),
            functools.partial(_decode, path, time, self._size),
            label=self.labels.index(label) if label else -1,
            caption=scan.read_caption(self._folder / scan.caption_of(name)),
        )


def _decode(
    path: Path, time: Float[np.ndarray, " N"], size: int, frames: Int[np.ndarray, " T"]
) -> UInt8[np.ndarray, "T S S 3"]:
    ascending, where = np.unique(frames, return_inverse=True)
    return video.read_at(path, time[ascending], size=size)[where]


@requirement
def _check_path(config: ConfigDict) -> None:
    if "videos" in parts(config.data) and not config.data.path:
        raise InputError("config.data.path is empty: set it to a folder of video files")
