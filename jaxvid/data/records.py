"""The record of a clip: a msgpack map with a JPEG per frame, so any frame can be decoded alone.

The map's keys: `version`, `frames` (JPEG bytes), `time` (little-endian float32 bytes, seconds),
`label`, `source`, and optionally `caption` and `action` (little-endian float32 bytes, A numbers per
frame). Nothing in it is ever executed or unpickled.
"""

import functools
from collections.abc import Sequence

import cv2
import msgpack
import numpy as np
from jaxtyping import Float32, Int, UInt8

from jaxvid.data.clips import Clip
from jaxvid.errors import InputError

VERSION = 1


def encode(
    frames: UInt8[np.ndarray, "N H W 3"],
    time: Float32[np.ndarray, " N"],
    *,
    label: int,
    source: str,
    quality: int,
    caption: str = "",
    action: Float32[np.ndarray, "_ A"] | None = None,
) -> bytes:
    """Packs RGB frames, their times in seconds and their origin; JPEG `quality` is in [1, 100].

    Raises:
      InputError: the numbers of actions and frames differ.
    """
    # Clips are small, so halving their colour resolution would be visible.
    options = [
        *(cv2.IMWRITE_JPEG_QUALITY, quality),
        *(cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444),
    ]
    jpegs = [
        cv2.imencode(".jpg", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), options)[1].tobytes()
        for frame in frames
    ]
    record = {
        "version": VERSION,
        "frames": jpegs,
        "time": time.astype("<f4").tobytes(),
        "label": label,
        "source": source,
    }
    if caption:
        record["caption"] = caption
    if action is not None:
        if len(action) != len(time):
            raise InputError(f"{source}: {len(action)} actions for {len(time)} frames")
        record["action"] = action.astype("<f4").tobytes()
    return msgpack.packb(record, unicode_errors="surrogateescape")


def decode(record: bytes) -> Clip:
    """Unpacks a record; frames are decoded only by `Clip.decode(indices)`.

    Raises:
      InputError: the bytes are not a record of this version; from `Clip.decode`, a frame is
        damaged.
    """
    try:
        fields = msgpack.unpackb(record, unicode_errors="surrogateescape")
        if fields["version"] != VERSION:
            raise ValueError(f"version {fields['version']}, not {VERSION}")
        jpegs, label, source = list(fields["frames"]), int(fields["label"]), str(fields["source"])
        time = np.frombuffer(fields["time"], "<f4").astype(np.float32)
        if len(jpegs) != len(time):
            raise ValueError(f"{len(jpegs)} frames but {len(time)} times")
        caption, action = str(fields.get("caption", "")), None
        if "action" in fields:
            action = np.frombuffer(fields["action"], "<f4").astype(np.float32)
            action = action.reshape(len(time), -1)
    except (ValueError, TypeError, KeyError, msgpack.UnpackException) as error:
        raise InputError(
            f"a clip's record of {len(record)} bytes is damaged ({error!r}); prepare the data again"
        ) from error
    return Clip(
        time=time,
        decode=functools.partial(_decode_frames, jpegs, source),
        label=label,
        caption=caption,
        action=action,
    )


def source_of(record: bytes) -> str:
    """The input file of a record, as a path below the input folder; "" for a damaged record."""
    try:
        fields = msgpack.unpackb(record, unicode_errors="surrogateescape")
        return str(fields["source"]).rpartition("#t=")[0]
    except (ValueError, TypeError, KeyError, msgpack.UnpackException):
        return ""


def _decode_frames(
    jpegs: Sequence[bytes], source: str, indices: Int[np.ndarray, " T"]
) -> UInt8[np.ndarray, "T H W 3"]:
    images = []
    for index in indices:
        image = cv2.imdecode(np.frombuffer(jpegs[index], np.uint8), cv2.IMREAD_COLOR)
        if image is None:
            raise InputError(
                f"{source}: frame {index} of a clip is damaged; prepare the data again"
            )
        images.append(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
    return np.stack(images)
