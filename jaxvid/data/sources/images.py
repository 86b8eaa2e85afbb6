"""A folder of still images as clips of one frame, for `data.frames=1`."""

import numpy as np
from ml_collections import ConfigDict

from jaxvid.config import requirement
from jaxvid.data.clips import Clip
from jaxvid.data.folder import PICTURES
from jaxvid.data.image import aspect, read_image
from jaxvid.data.sources.files import Files, check_path, open_files
from jaxvid.data.sources.registry import source
from jaxvid.files import Path


@source("images")
def open_images(config: ConfigDict, split: str) -> Files:
    """A split of the images below `data.path`; raises InputError if there are none."""
    return open_files(config, split, "image", PICTURES.__contains__, _read, _look)


def _read(path: Path, size: tuple[int, int]) -> Clip:
    return Clip(
        np.zeros(1, np.float32), lambda frames: np.stack([read_image(path, size=size)])[frames]
    )


def _look(path: Path) -> tuple[float, float]:
    return aspect(path), 0.0


@requirement
def _check_path(config: ConfigDict) -> None:
    check_path(config, "images", "image")
