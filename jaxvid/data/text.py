"""Captions as arrays: their bytes, or embeddings on disk from any outside encoder.

Embeddings are stored in the folder that `jaxvid.prepare` made:

    clips-00000.array_record            a clip per record
    text/NAME/clips-00000.array_record  the embeddings of the captions, in the same order

The record of an embedding is a msgpack map with the keys `version`, `shape` (n tokens, E numbers
each) and `data` (little-endian float16 bytes); a clip without a caption has n = 0. Nothing is ever
unpickled. `write_embeddings` writes them, and encodes a caption once per shard:

    write_embeddings("clips", "t5-base", lambda captions: [my_encoder(c) for c in captions])
"""

import os
from collections.abc import Callable, Sequence

import msgpack
import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from jaxtyping import Bool, Float, Float16, UInt8

from jaxvid.data import manifest, records
from jaxvid.errors import InputError
from jaxvid.files import Path, to_path, whole

VERSION = 1


def to_bytes(caption: str, length: int) -> tuple[UInt8[np.ndarray, " L"], Bool[np.ndarray, " L"]]:
    """The first `length` bytes of a caption in UTF-8, padded with 0, and a mask of valid bytes."""
    data = np.frombuffer(caption.encode(errors="surrogateescape")[:length], np.uint8)
    return np.pad(data, (0, length - len(data))), np.arange(length) < len(data)


def from_bytes(data: UInt8[np.ndarray, " L"], mask: Bool[np.ndarray, " L"]) -> str:
    """The inverse of `to_bytes`; a character that is cut off is left out."""
    return data[mask].tobytes().decode(errors="ignore")


def pad(
    tokens: Float16[np.ndarray, "n E"], length: int
) -> tuple[Float16[np.ndarray, "L E"], Bool[np.ndarray, " L"]]:
    """The first `length` tokens of an embedding, padded with 0, and a mask of valid tokens."""
    tokens = tokens[:length]
    return np.pad(tokens, ((0, length - len(tokens)), (0, 0))), np.arange(length) < len(tokens)


def folder_of(folder: Path, name: str) -> Path:
    """The subfolder of a folder of clips for the embeddings called `name`."""
    return folder / "text" / name


def remove_embeddings(folder: Path, shard: str) -> None:
    """Removes the embeddings of a shard from all encoders, because its clips will change."""
    for path in folder.glob(f"text/*/{shard}"):
        path.unlink()


def write_embeddings(
    folder: str | os.PathLike,
    name: str,
    encode: Callable[[list[str]], Sequence[Float[np.ndarray, "n E"]]],
    batch_size: int = 64,
) -> None:
    """Embeds the captions of all clips in a folder, for `data.text_embeddings = name`.

    Each file appears only when it is complete, and existing files are kept. Run it again after an
    interruption, or when videos were added.

    Args:
      folder: folder that `jaxvid.prepare` made.
      name: name of the encoder, and of the folder of its embeddings.
      encode: maps captions to one array per caption, with any number of tokens n but the same E.
      batch_size: largest number of captions per call of `encode`.

    Raises:
      InputError: the folder is not a folder of clips, or `encode` returned invalid arrays.
    """
    folder = to_path(folder, "folder")
    target = folder_of(folder, name)
    shards = manifest.read(folder)["shards"]
    target.mkdir(parents=True, exist_ok=True)
    for shard, about in shards.items():
        count = about["clips"]
        if (target / shard).exists():
            continue
        if not (folder / shard).is_file():
            raise InputError(f"{folder} lacks {shard}: copy the folder again, or prepare it again")
        captions = _captions(folder / shard, count)
        unique = sorted(set(captions) - {""})
        embedded = {"": np.zeros((0, 0))}
        for start in range(0, len(unique), batch_size):
            part = unique[start : start + batch_size]
            arrays = encode(part)
            if len(arrays) != len(part):
                raise InputError(
                    f"the encoder was given {len(part)} captions and returned {len(arrays)} arrays"
                )
            embedded |= zip(part, arrays, strict=True)
        with whole(target / shard) as temporary:
            writer = ArrayRecordWriter(str(temporary), "group_size:1,uncompressed")
            for caption in captions:
                writer.write(encode_tokens(embedded[caption]))
            writer.close()


def encode_tokens(tokens: Float[np.ndarray, "..."]) -> bytes:
    """Packs an embedding [n,E] as a record.

    Raises:
      InputError: it has another shape, or is not finite in float16.
    """
    with np.errstate(over="ignore"):
        data = np.asarray(tokens, "<f2")
    if data.ndim != 2 or not np.isfinite(data).all():
        raise InputError(
            f"an embedding of shape {data.shape} is not of shape (tokens, width) or not finite in "
            "float16: check what the encoder returns"
        )
    return msgpack.packb({"version": VERSION, "shape": data.shape, "data": data.tobytes()})


def decode_tokens(record: bytes) -> Float16[np.ndarray, "n E"]:
    """Unpacks a record; raises InputError if it is damaged."""
    try:
        fields = msgpack.unpackb(record)
        if fields["version"] != VERSION:
            raise ValueError(f"version {fields['version']}, not {VERSION}")
        rows, width = fields["shape"]
        return np.frombuffer(fields["data"], "<f2").astype(np.float16).reshape(rows, width)
    except (ValueError, TypeError, KeyError, msgpack.UnpackException) as error:
        raise InputError(
            f"an embedding's record of {len(record)} bytes is damaged ({error!r}): remove its "
            "folder and write it again"
        ) from error


def _captions(shard: Path, count: int) -> list[str]:
    """The captions of a shard's clips; "" for a clip that cannot be read, which is never used."""
    reader, captions = ArrayRecordReader(str(shard)), []
    for index in range(count):
        try:
            captions.append(records.decode(reader.read([index])[0]).caption)
        except (InputError, RuntimeError, IndexError):
            captions.append("")
    return captions
