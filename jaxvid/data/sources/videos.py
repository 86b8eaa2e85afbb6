"""A folder of video files, read as they are: only the frames of a clip are decoded.

The files need no preparation. Clips start anywhere in a file, at any stride, and each file counts
once in a pass. `python -m jaxvid.prepare` makes reading faster, since prepared frames are small and
can be decoded alone.
"""

import functools

import numpy as np
from jaxtyping import Int, Shaped
from ml_collections import ConfigDict

from jaxvid.config import POSITIVE, declare, key, requirement
from jaxvid.data import video
from jaxvid.data.clips import Clip
from jaxvid.data.folder import PICTURES
from jaxvid.data.sources.files import Files, check_path, open_files
from jaxvid.data.sources.registry import source
from jaxvid.files import Path

declare("data", per_file=key(1, POSITIVE, 'clips that a pass takes of each file of "videos"'))


@source("videos")
def open_videos(config: ConfigDict, split: str) -> Files:
    """A split of the files below `data.path`; raises InputError if there are none."""
    return open_files(
        config,
        split,
        "video",
        lambda suffix: suffix not in PICTURES,
        read,
        video.look,
        config.per_file,
        fps=config.fps,
    )


def read(path: Path, size: tuple[int, int], fps: float) -> Clip:
    """A video file as a clip of frames (H, W), of which `fps` are shown in a second.

    Raises InputError if its header cannot be read.
    """
    time = np.arange(max(1, int(video.duration(path) * fps + 0.5))) / fps

    @functools.lru_cache(maxsize=1)  # a clip is asked for its times, then for the same frames
    def read_at(*index: int) -> tuple[np.ndarray, np.ndarray]:
        return video.read_at(path, time[list(index)], size=size)

    def taken(which: int, frames: Int[np.ndarray, " T"]) -> Shaped[np.ndarray, "T ..."]:
        ascending, where = np.unique(frames, return_inverse=True)
        return read_at(*ascending.tolist())[which][where]

    decode, exact = (functools.partial(taken, which) for which in (0, 1))
    return Clip(time.astype(np.float32), decode, exact=exact)


@requirement
def _check_path(config: ConfigDict) -> None:
    check_path(config, "videos", "video")
