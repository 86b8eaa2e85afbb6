"""Writes a shard of clips: the unit of work, on this machine or on many."""

import hashlib
import pathlib
import tempfile
from collections.abc import Iterator
from typing import IO, Any, NamedTuple

import msgpack
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from jaxvid.data import manifest, records, scan
from jaxvid.data.curation.clips import cut_video
from jaxvid.data.curation.plays import play
from jaxvid.data.curation.settings import Settings
from jaxvid.errors import InputError
from jaxvid.files import Path, content_hash, local, whole

# Of an entry, what its outcome keeps.
_STAMPS = ("bytes", "mtimes", "class", "text", "content", "game", "version", "fps", "seed", "take")


class Job(NamedTuple):
    """A shard to write.

    Attributes:
      source: the folder of videos; of no account to games.
      output: the folder of clips.
      name: of the shard.
      classes: all classes, by their numbers.
      settings: of the clips.
    """

    source: Path
    output: Path
    name: str
    classes: tuple[str, ...]
    settings: Settings


def write_shard(job: Job) -> tuple[str, dict[str, Any]]:
    """Writes the clips of the files of a shard that are pending, as is written beside it.

    A file that cannot be read is skipped, and leaves no clips. The same job gives the same bytes.

    Returns:
      The name of the shard, and what then is known of it, in brief.
    """
    path, known = job.output / job.name, manifest.read_shard(job.output, job.name)
    files = known["files"]
    if all(entry["status"] != "pending" for entry in files.values()):  # another worker was faster
        return job.name, manifest.brief(known)
    entries, digest, clips = {}, hashlib.sha256(), 0
    with whole(path) as temporary:
        # Groups of one record make random access cheap; JPEG does not compress further.
        writer = ArrayRecordWriter(str(temporary), "group_size:1,uncompressed")
        for name, entry in sorted(files.items()):  # `manifest.held_out` relies on this order
            entries[name] = entry
            if entry["status"] != "pending":
                continue
            entries[name] = {key: entry[key] for key in _STAMPS if key in entry}
            # Clips stay in a temporary file until the video is read to its end, so that a damaged
            # video leaves none.
            with tempfile.TemporaryFile(dir=temporary.parent) as spool:
                try:
                    entries[name] |= _spool(spool, job, name, entry)
                except InputError as error:
                    reason = str(error).removeprefix(f"{job.source / name}: ")
                    entries[name] |= {"status": "skipped", "reason": reason}
                    continue
                spool.seek(0)
                for record in msgpack.Unpacker(spool, max_buffer_size=0):
                    digest.update(hashlib.sha256(record).digest())
                    writer.write(record)
            clips += entries[name].get("clips", 0)
        writer.close()
        if not clips:
            temporary.unlink()
    if not clips:
        path.unlink(missing_ok=True)
    shard = {"files": entries, "hash": digest.hexdigest()[:16]}
    manifest.save_shard(job.output, job.name, shard)
    return job.name, manifest.brief(shard)


def _spool(spool: IO[bytes], job: Job, name: str, entry: dict[str, Any]) -> dict[str, Any]:
    """Writes the records of a video, each wrapped by msgpack; returns what becomes of the video."""
    if "game" in entry:
        return _spool_clips(spool, job, name, entry, None)
    path = job.source / name
    if not path.exists() and (job.output / job.name).exists():
        return _spool_again(spool, job, name, entry)
    with local(path) as file:
        return _spool_clips(spool, job, name, entry, file)


def _spool_clips(
    spool: IO[bytes], job: Job, name: str, entry: dict[str, Any], file: pathlib.Path | None
) -> dict[str, Any]:
    """Like `_spool`, for a video file that exists, or for a game without one."""
    if file is None:
        content, caption = manifest.hash_of(f"{entry['version']} {name}"), ""
        pieces = play(entry, job.settings)
    else:
        content = ""  # that of a file of another shape is not read
        caption = entry["text"] or scan.read_caption(job.source / scan.caption_of(name))
        pieces = cut_video(file, job.settings)
    columns = {"start": [], "scores": [], "hashes": [], "dropped": []}
    share = None
    for piece in pieces:
        share, start = piece.cropped, round(piece.start, 3)
        values = start, piece.scores, piece.hash, piece.dropped
        for column, value in zip(columns.values(), values, strict=True):
            column.append(value)
        if not piece.dropped:
            record = records.encode(
                piece.frames,
                piece.time,
                label=job.classes.index(entry["class"]) if entry["class"] else -1,
                source=f"{name}#t={start:g}",
                quality=job.settings.quality,
                caption=caption,
                action=piece.action,
            )
            spool.write(msgpack.packb(record))
    clips = columns["dropped"].count("")
    outcome = {"content": content or content_hash(file), **columns}
    if share is not None:
        outcome["cropped"] = round(share, 4)
    if not clips:
        scores = ", ".join(sorted(set(columns["dropped"])))
        reason = f"all clips dropped: {len(columns['dropped'])} by {scores}"
        return outcome | {"status": "skipped", "reason": reason}
    length = {"caption": len(caption.encode(errors="surrogateescape"))} if caption else {}
    return outcome | {"status": "done", "clips": clips, **length}


def _spool_again(spool: IO[bytes], job: Job, name: str, entry: dict[str, Any]) -> dict[str, Any]:
    """Like `_spool`, for a file removed from the input: copies its records in the shard."""
    path, clips = job.source / name, 0
    try:
        for record in _read_all(job.output / job.name):
            if records.source_of(record) == name:
                spool.write(msgpack.packb(record))
                clips += 1
    except (RuntimeError, IndexError) as error:
        raise InputError(
            f"{path}: removed from the input, and its clips are damaged: {error}"
        ) from error
    if not clips:
        raise InputError(f"{path}: cannot be read: removed before its clips were made")
    return entry | {"status": "done", "clips": clips}


def _read_all(path: Path) -> Iterator[bytes]:
    reader = ArrayRecordReader(str(path))
    for index in range(reader.num_records()):
        yield reader.read([index])[0]
