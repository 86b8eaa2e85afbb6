"""The levels of a cascade on disk: a `.npy` file of all videos for each, and `cascade.json`.

A file gets its name only when it is complete, so that a level that has its file is finished.
"""

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from jaxtyping import UInt8

from jaxvid.errors import InputError
from jaxvid.files import Path, local, whole
from jaxvid.workdir.disk import make_folder, write_whole, writing


def claim(folder: Path, settings: Mapping[str, Any]) -> None:
    """Assigns a folder to the settings of levels, which are written to `cascade.json`.

    Raises InputError, which names the first difference, if it belongs to others.
    """
    path = folder / "cascade.json"
    make_folder(folder)
    text = json.dumps(settings, indent=2) + "\n"
    try:
        before = json.loads(path.read_text()) if path.exists() else None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}): give another --output") from error
    if before is None:
        write_whole(path, text.encode())
    elif before != (now := json.loads(text)):
        raise InputError(
            f"{folder} has videos of other settings ({_difference(before, now)}): give another "
            "--output"
        )


def _difference(before: Any, now: Any, name: str = "") -> str:
    """The first difference between two JSON values, with its place."""
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return f"{name.removeprefix('.')}: {before} then, {now} now"
    key = next(k for k in [*now, *before] if before.get(k) != now.get(k))
    return _difference(before.get(key), now.get(key), f"{name}.{key}")


def write_level(
    path: Path, shape: tuple[int, ...], parts: Iterable[UInt8[np.ndarray, "B n H W 3"]]
) -> None:
    """Writes videos of `shape` [B,T,H,W,3], whose frames come in parts, as a `.npy` file.

    Raises InputError if it cannot be written.
    """
    done = 0
    for left in path.parent.glob(f".{path.name}.*"):  # of a process that was killed
        left.unlink()
    with writing(path), whole(path) as partial:
        with partial.open("wb") as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            start, frame = file.tell(), math.prod(shape[2:])
        for part in parts:
            with partial.open("r+b") as file:
                for b, frames in enumerate(part):
                    file.seek(start + (b * shape[1] + done) * frame)
                    file.write(frames.tobytes())
            done += part.shape[1]


def read_level(path: Path, shape: tuple[int, ...]) -> UInt8[np.ndarray, "B T H W 3"]:
    """The videos of a file, or of a copy of one in a bucket, which are read as they are used.

    Raises InputError if the file is damaged or has another shape.
    """
    try:
        with local(path) as file:  # what is mapped outlives the name of a copy
            video = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path} cannot be read ({error}): delete it, to draw it again") from error
    if video.shape != shape or video.dtype != np.uint8:
        raise InputError(
            f"{path} has {video.dtype} {list(video.shape)} instead of uint8 {list(shape)}: delete "
            "it, to draw it again"
        )
    return video
