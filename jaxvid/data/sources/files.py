"""Folders of files as sources: a subfolder is a class, `dive.txt` the caption of `dive.mp4`."""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePath
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from ml_collections import ConfigDict

from jaxvid.data import scan
from jaxvid.data.clips import Clip, frame_shape
from jaxvid.data.manifest import class_of
from jaxvid.data.sources.mixture import parts
from jaxvid.data.split import held_out
from jaxvid.errors import InputError
from jaxvid.files import Path, to_path

Look = Callable[[Path], tuple[float, float]]


def open_files(
    config: ConfigDict,
    split: str,
    kind: str,
    accepts: Callable[[str], bool],
    read: Callable[..., Clip],
    look: Look,
    times: int = 1,
    **settings: Any,
) -> "Files":
    """A split of the files below `data.path`, by the hashes of their paths.

    Args:
      config: the `data` section of a config.
      split: "train" or "validation".
      kind: what a file is, such as "video".
      accepts: whether a suffix, in lower case, is of such a file.
      read: makes a clip of a file: `(path, (H, W), **settings) -> Clip`.
      look: gives width / height and seconds of a file, see `Source`.
      times: how many clips a pass takes of each.
      settings: what `read` depends on besides the size.

    Raises:
      InputError: the folder is missing, or no file in it is for training.
    """
    folder = to_path(config.path, "config.data.path")
    try:
        found = scan.find_files(folder).files
    except InputError as error:
        raise InputError(f"config.data.path: {error}") from None
    names = [name for name in found if accepts(PurePath(name).suffix.lower())]
    out = held_out(names, config.validation) == (split == "validation")
    chosen = [name for name, is_chosen in zip(names, out, strict=True) if is_chosen]
    if split == "train" and not chosen:
        raise InputError(
            f"config.data.path={config.path}: no {kind} to train on; give a folder with more "
            f"{kind} files, or lower config.data.validation"
        )
    classes = sorted({class_of(name) for name in names} - {""})
    chosen = [(name, found[name].size) for name in chosen for _ in range(times)]
    return Files(folder, chosen, classes, read, look, frame_shape(config), settings)


class Files:
    """Files in a folder; each is a clip, or several if it is there several times.

    Attributes:
      labels: names of the classes, the first-level folders.
      fingerprint: of the paths, the sizes of the files, and the settings.
      videos: the number of the file of each clip.
    """

    def __init__(
        self,
        folder: Path,
        files: Sequence[tuple[str, int]],
        labels: Sequence[str],
        read: Callable[..., Clip],
        look: Look,
        size: tuple[int, int],
        settings: Mapping[str, Any],
    ):
        self.labels = tuple(labels)
        self._folder, self._sizes, self._look = folder, list(files), look
        self._names = [name for name, _ in files]
        self._read = functools.partial(read, size=size, **settings)
        side = size[0] if size[0] == size[1] else size
        about = repr((self._sizes, self.labels, side, *settings.values()))
        self.fingerprint = hashlib.sha256(about.encode(errors="surrogateescape")).hexdigest()[:16]

    @property
    def videos(self) -> Int[np.ndarray, " n"]:
        return np.unique(self._names, return_inverse=True)[1]

    @property
    def looks(self) -> Float[np.ndarray, "n 2"]:
        """Of each clip, see `Source`. All headers are read."""
        found = _looks(self._look, self._folder, tuple(dict.fromkeys(self._sizes)))
        return np.array([found[name] for name in self._names])

    def __len__(self) -> int:
        return len(self._names)

    def name_of(self, index: int) -> str:
        """The path of a file below the folder."""
        return self._names[index]

    def __getitem__(self, index: int) -> Clip:
        """Opens a file; raises InputError if it cannot be read."""
        name = self._names[index]
        label = class_of(name)
        return dataclasses.replace(
            self._read(self._folder / name),
            label=self.labels.index(label) if label else -1,
            caption=scan.read_caption(self._folder / scan.caption_of(name)),
        )


@functools.lru_cache(maxsize=8)  # all buckets of a folder ask for the same files
def _looks(
    look: Look, folder: Path, sizes: tuple[tuple[str, int], ...]
) -> dict[str, tuple[float, float]]:
    def of(name: str) -> tuple[float, float]:
        try:
            return look(folder / name)
        except InputError:
            return np.nan, np.nan

    names = [name for name, _ in sizes]
    with ThreadPoolExecutor() as pool:
        return dict(zip(names, pool.map(of, names), strict=True))


def check_path(config: ConfigDict, source: str, kind: str) -> None:
    """Raises InputError if `data.path` is empty, and the source is in use."""
    if source in parts(config.data) and not config.data.path:
        raise InputError(f"config.data.path is empty: set it to a folder of {kind} files")
