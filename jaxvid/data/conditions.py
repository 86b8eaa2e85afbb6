"""What a clip is conditioned on beside its label: whether the data has it, and as which arrays."""

import contextlib
import functools
import os
import warnings

import cv2
import numpy as np
from jaxtyping import Bool, Float16, Float32
from ml_collections import ConfigDict

from jaxvid.config import NATURAL, TEXT, declare, key, requirement
from jaxvid.data import text
from jaxvid.data.augment import Sample, check_truth
from jaxvid.data.sources import Source
from jaxvid.errors import InputError

declare(
    "data",
    text_length=key(0, NATURAL, "length of captions, in bytes or tokens; 0 is off"),
    text_embeddings=key("", TEXT, "name of the embeddings that an outside encoder left"),
    text_dim=key(0, NATURAL, "width of those embeddings"),
    action_dim=key(0, NATURAL, "numbers in the action of a frame; 0 is off"),
    low_res=key(0, NATURAL, "how many times smaller the sides of a given video are; 0 is off"),
)


LOOKED_AT = 32


def condition_arrays(
    sample: Sample, tokens: Float16[np.ndarray, "n E"] | None, config: ConfigDict
) -> Sample:
    """The sample with what `config` asks for, in arrays of fixed shape, in place of its caption.

    `data.text_length` = L > 0 adds `text_mask` bool [L] and, of the caption, `text_bytes` uint8
    [L], or with `data.text_embeddings` instead `text` float16 [L,E]; `data.action_dim` = A > 0 adds
    `action` float32 [T,A] and `action_mask` bool [T]. Where a clip has none the mask is False.
    `data.low_res` = r > 0 adds `low_res` uint8 [T,H/r,W/r,3], the video's means over r x r pixels.

    Args:
      sample: with `caption` and, if there are any, `action`.
      tokens: the clip's embedding.
      config: the `data` part of a config.

    Raises:
      InputError: the embedding or the actions are not as wide as `config` says.
    """
    caption, action = sample["caption"], sample.get("action")
    arrays = {name: x for name, x in sample.items() if name not in ("caption", "action")}
    length, A = config.text_length, config.action_dim
    if length and config.text_embeddings:
        if tokens is None or not len(tokens):
            tokens = np.zeros((0, config.text_dim), np.float16)
        _check_width("text_dim", config.text_dim, tokens)
        arrays["text"], arrays["text_mask"] = text.pad(tokens, length)
    elif length:
        arrays["text_bytes"], arrays["text_mask"] = text.to_bytes(str(caption), length)
    if A:
        T = len(sample["time"])
        arrays["action_mask"] = np.full(T, action is not None)
        arrays["action"] = np.zeros((T, A), np.float32) if action is None else action
        _check_width("action_dim", A, arrays["action"])
    if r := config.low_res:
        _, H, W, _ = sample["video"].shape
        shrink = functools.partial(cv2.resize, dsize=(W // r, H // r), interpolation=cv2.INTER_AREA)
        arrays["low_res"] = np.stack([shrink(frame) for frame in sample["video"]])
    return arrays


def read_actions(
    path: str | os.PathLike, frames: int, width: int
) -> tuple[Float32[np.ndarray, "{frames} {width}"], Bool[np.ndarray, "{frames}"]]:
    """Actions from a text table, a row per frame and commas between its numbers.

    Returns:
      `action`, and `action_mask`: False for the frames past the table's end.

    Raises:
      InputError: it cannot be read, or has other columns or more rows than asked for, or none.
    """
    try:
        # Opened here, as numpy would also fetch an address and unpack an archive.
        with open(path, encoding="utf-8-sig") as file, warnings.catch_warnings(action="ignore"):
            table = np.loadtxt(file, np.float32, delimiter=",", ndmin=2)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{path}: not a table of numbers with commas between: {error}") from error
    rows, columns = table.shape
    if not 1 <= rows <= frames or columns != width or not np.isfinite(table).all():
        raise InputError(
            f"{path}: {rows} rows of {columns} numbers: give 1 to {frames} rows, one per frame, of "
            f"{width} finite numbers, as the model's actions have"
        )
    action = np.zeros((frames, width), np.float32)
    action[:rows] = table
    return action, np.arange(frames) < rows


def check_conditions(source: Source, config: ConfigDict) -> None:
    """Raises InputError if the data lacks a condition, or an augmentation would make it false.

    A few clips, evenly spaced over the source, are looked at: it is enough that one has it.
    """
    length, name = config.text_length, config.text_embeddings
    A = config.action_dim
    if name and not length:
        raise InputError(f"data.text_embeddings={name}: set data.text_length, in tokens, above 0")
    if not length and not A:
        return
    clips = []
    for index in np.unique(np.linspace(0, len(source) - 1, LOOKED_AT).astype(int)):
        with contextlib.suppress(InputError):
            clips.append(source[int(index)])
    texts = [clip.text for clip in clips if clip.text is not None and len(clip.text)]
    actions = [clip.action for clip in clips if clip.action is not None]
    if name and not texts:
        raise InputError(
            f"data.text_embeddings={name}, but the clips have none: write them with "
            "jaxvid.data.text.write_embeddings, or set it to '' for the captions' bytes"
        )
    if length and not name and not any(clip.caption for clip in clips):
        raise InputError(
            f"data.text_length={length}, but the clips have no captions: put NAME.txt beside each "
            "NAME.mp4 and prepare them again, or set data.text_length=0"
        )
    if A and not actions:
        raise InputError(
            f"data.action_dim={A}, but the clips have no actions: set data.action_dim=0, or write "
            "records that have some (jaxvid.data.records.encode)"
        )
    for tokens in texts if name else ():
        _check_width("text_dim", config.text_dim, tokens)
    for action in actions if A else ():
        _check_width("action_dim", A, action)
    _check_augmentations(config)


def _check_width(key: str, width: int, array: np.ndarray) -> None:
    if array.shape[1] != width:
        raise InputError(
            f"data.{key}={width}, but the data has {array.shape[1]} numbers: set data.{key}="
            f"{array.shape[1]}"
        )


def _check_augmentations(config: ConfigDict) -> None:
    """Only the synthetic world's captions and actions are known to survive every change."""
    if config.source == "synthetic":
        return
    used = {}
    if config.text_length and config.text_embeddings:
        used["text"] = "embedded captions"
    elif config.text_length:
        used["text_bytes"] = "captions"
    if config.action_dim:
        used["action"] = "actions"
    check_truth(config, used)


@requirement
def _check_low_res(config: ConfigDict) -> None:
    low_res, size = config.data.low_res, config.data.size
    if low_res and size % low_res:
        raise InputError(
            f"config.data.low_res={low_res} must divide config.data.size={size}: the "
            "low-resolution video is the mean over squares of so many pixels a side"
        )
