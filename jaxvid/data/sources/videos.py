"""A folder of video files, read as they are: only the frames of a clip are decoded.

The files need no preparation. Clips start anywhere in a file, at any stride, and each file counts
once in a pass. `python -m jaxvid.prepare` makes reading faster, since prepared frames are small and
can be decoded alone.
"""

import functools
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, UInt8
from ml_collections import ConfigDict

from jaxvid.config import POSITIVE, declare, key, requirement
from jaxvid.data import video
from jaxvid.data.clips import Clip
from jaxvid.data.folder import PICTURES
from jaxvid.data.sources.files import Files, check_path, open_files
from jaxvid.data.sources.registry import source

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
    return Clip(time.astype(np.float32), functools.partial(_decode, path, time, size))


def _decode(
    path: Path,
    time: Float[np.ndarray, " N"],
    size: tuple[int, int],
    frames: Int[np.ndarray, " T"],
) -> UInt8[np.ndarray, "T H W 3"]:
    ascending, where = np.unique(frames, return_inverse=True)
    return video.read_at(path, time[ascending], size=size)[where]


@requirement
def _check_path(config: ConfigDict) -> None:
    check_path(config, "videos", "video")
