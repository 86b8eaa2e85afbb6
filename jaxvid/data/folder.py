"""A folder of video files as clips, without preparing them."""

from pathlib import PurePath

import numpy as np
from jaxtyping import UInt8

from jaxvid.data.scan import find_files
from jaxvid.data.video import read_frames, read_video
from jaxvid.errors import InputError
from jaxvid.files import Path

PICTURES = {".png", ".jpg", ".jpeg", ".webp"}  # contact sheets beside videos, for example


class VideoFolder:
    """The videos below a folder in a random order; each gives one clip, its first frames.

    Pictures are left out.

    Attributes:
      names: the files, in an order that depends only on their names and the seed.
    """

    def __init__(self, folder: Path, size: int | tuple[int, int] | None = None, seed: int = 0):
        """Finds the files.

        Args:
          folder: folder of video files.
          size: (H, W) to which frames are resized, or S for (S, S); by default they keep theirs.
          seed: seed of the order.

        Raises:
          InputError: the folder has no files, or some that cannot be read.
        """
        found = find_files(folder)
        if found.problems:
            raise InputError(f"{folder}: {found.problems[0]}; remove it")
        names = [name for name in found.files if PurePath(name).suffix.lower() not in PICTURES]
        order = np.random.default_rng(seed).permutation(len(names))
        self.names = [folder / names[i] for i in order]
        self._size, self._first = size, None

    def measure(self, index: int) -> tuple[int, float]:
        """The frames of a video and their rate per second. Raises InputError as `read` does."""
        times = [time for _, time in read_frames(self.names[index])]
        return len(times), (len(times) - 1) / times[-1] if len(times) > 1 else 1.0

    def read(self, index: int, frames: int, stride: int = 1) -> UInt8[np.ndarray, "T H W 3"]:
        """Every `stride`-th frame of a video from the first on, `frames` in all.

        Raises:
          InputError: the video cannot be read, is too short, or has not the size of those before.
        """
        name = self.names[index]
        video, _ = read_video(name, frames=(frames - 1) * stride + 1, size=self._size)
        size, first = video.shape[1:3], self._first or (name, video.shape[1:3])
        if size != first[1]:
            raise InputError(
                f"{name} is {max(size)} pixels high or wide, but {first[0]} is {max(first[1])}: "
                "give --size, to which all are resized"
            )
        self._first = first
        return video[::stride]
