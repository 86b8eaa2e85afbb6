"""Turns a folder of video files into ArrayRecord shards of short clips.

    python -m jaxvid.prepare --input=DIR --output=DIR --size=64 --fps=8 --frames=32

Every file below the input is cut into consecutive clips of `frames` frames at `fps` frames per
second; a shorter remainder is dropped. The first-level subfolder is the class. A text file with the
name of a video (`dive.txt` for `dive.mp4`) is the caption of its clips. Links to folders are
followed; hidden files and folders are left out. `manifest.json` in the output holds the settings,
the class names, the shards, and the result for each file.

Run it again to resume after an interruption, or when the input has changed. New files are added. If
the size or modification time of a video or its caption has changed, its clips are made again, with
those of all files in the same shard. A file that was removed from the input keeps its clips: to
leave them out, prepare into another folder. Classes keep their numbers.
"""

from jaxvid import start

if __name__ == "__main__":
    start.begin(huge_pages=False)

import collections
import concurrent.futures
import hashlib
import itertools
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import cv2
import msgpack
import numpy as np
from absl import flags
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from tqdm import tqdm

from jaxvid import config as configs
from jaxvid import errors
from jaxvid.data import manifest as manifests
from jaxvid.data import records, scan, text, video
from jaxvid.errors import InputError
from jaxvid.files import content_hash, make_folder, to_path

_KEPT = ("bytes", "mtimes", "content")  # of an entry, unless the outcome says otherwise
_MOST_LINES = 20
_interrupted = threading.Event()


def prepare(
    source: Path, output: Path, settings: Mapping[str, int | float], workers: int
) -> dict[str, Any]:
    """Cuts the files below `source` that are new or have changed into clips.

    Args:
      source: the folder of videos.
      output: the folder for shards and manifest; made if it does not exist.
      settings: `size` in pixels, `fps`, `frames` per clip, JPEG `quality` in [1, 100].
      workers: number of processes that decode.

    Returns:
      The manifest, as it is on disk.

    Raises:
      InputError: there are no files, or the output has other settings or cannot be written.
    """
    names, problems = scan.find_files(source, output)
    _print_some([f"not read: {problem}" for problem in problems])
    manifest = manifests.resume(output, settings)
    scan.plan(manifest, source, names)
    try:
        make_folder(output, "--output")
        for leftover in output.glob("clips-*.tmp"):
            leftover.unlink()
        # Remove changed files from the data set first, so that an interruption leaves no old clips
        # of them.
        manifests.save(output, manifest)
        _write_shards(source, output, manifest, workers)
    except (OSError, RuntimeError) as error:  # a full disk, or a worker killed for lack of memory
        raise InputError(
            f"{output}: stopped ({error}); finished shards are kept, run the same command to resume"
        ) from error
    return manifest


def _write_shards(source: Path, output: Path, manifest: dict[str, Any], workers: int) -> None:
    """Writes the planned shards in processes; a shard enters the manifest when it is complete."""
    files = manifest["files"]
    jobs = collections.defaultdict(dict)
    for name, entry in sorted(files.items()):  # `manifest.held_out` relies on this order
        if entry["status"] == "pending":
            folder = scan.class_of(name)
            jobs[entry["shard"]][name] = manifest["classes"].index(folder) if folder else -1
    if not jobs:
        return
    for shard in jobs:  # their clips are made again
        text.remove_embeddings(output, shard)
    done, total = 0, sum(map(len, jobs.values()))
    pool = concurrent.futures.ProcessPoolExecutor(
        min(workers, len(jobs)), multiprocessing.get_context("spawn"), initializer=_start_worker
    )
    settings = {key: manifest[key] for key in ("size", "fps", "frames", "quality")}
    with pool, tqdm(total=total, unit="file", disable=None) as bar:
        try:
            # Workers inherit the mask: Ctrl-C reaches every process of the terminal, and only the
            # parent handles it.
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
            try:
                futures = {
                    pool.submit(_write_shard, source, output / shard, labels, settings): shard
                    for shard, labels in jobs.items()
                }
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            for future in concurrent.futures.as_completed(futures):
                if _interrupted.is_set():
                    raise KeyboardInterrupt
                shard, (outcomes, digest) = futures[future], future.result()
                for name, outcome in outcomes.items():
                    kept = {k: files[name][k] for k in _KEPT if k in files[name]}
                    files[name] = kept | outcome
                clips = sum(outcome.get("clips", 0) for outcome in outcomes.values())
                if clips:
                    manifest["shards"][shard] = clips
                    manifest["hashes"][shard] = digest
                scan.settle_labels(manifest)
                manifests.save(output, manifest)
                bar.update(len(outcomes))
                done += len(outcomes)
                if bar.disable:
                    print(f"{done}/{total} files, {shard}: {clips} clips", flush=True)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for child in multiprocessing.active_children():
                child.terminate()
            raise


def _start_worker() -> None:
    threading.Thread(target=_follow_parent, daemon=True).start()
    cv2.setNumThreads(1)


def _follow_parent() -> None:
    """Ends this process when the parent is killed, so that no orphan writes into the output."""
    multiprocessing.parent_process().join()
    os._exit(1)


def _write_shard(
    source: Path, path: Path, labels: Mapping[str, int], settings: Mapping[str, int | float]
) -> tuple[dict[str, dict[str, Any]], str]:
    """Writes the clips of the files in `labels`.

    Returns:
      The manifest's entry for each file, and a hash of the records.
    """
    # The process id avoids a clash with a file that an earlier run may still hold open.
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    # Groups of one record make random access cheap; JPEG does not compress further.
    writer = ArrayRecordWriter(str(temporary), "group_size:1,uncompressed")
    outcomes, digest = {}, hashlib.sha256()
    for name, label in labels.items():
        # Clips stay in a temporary file until the video is read to its end, so that a damaged video
        # leaves none.
        with tempfile.TemporaryFile(dir=path.parent) as spool:
            try:
                if os.path.exists(source / name) or not path.exists():
                    clips, caption = _spool_clips(spool, source, name, label, settings)
                else:
                    clips, caption = _spool_again(spool, source, name, path)
            except InputError as error:
                reason = str(error).removeprefix(f"{source / name}: ")
                outcomes[name] = {"status": "skipped", "reason": reason}
                continue
            spool.seek(0)
            for record in msgpack.Unpacker(spool, max_buffer_size=0):
                digest.update(hashlib.sha256(record).digest())
                writer.write(record)
        outcomes[name] = {"status": "done", "shard": path.name, "clips": clips}
        if os.path.exists(source / name):
            outcomes[name]["content"] = content_hash(source / name)
        if caption:
            outcomes[name]["caption"] = len(caption.encode(errors="surrogateescape"))
    writer.close()
    if any(outcome["status"] == "done" for outcome in outcomes.values()):
        os.replace(temporary, path)
    else:
        temporary.unlink()
        path.unlink(missing_ok=True)
    return outcomes, digest.hexdigest()[:16]


def _spool_clips(
    spool: IO[bytes], source: Path, name: str, label: int, settings: Mapping[str, int | float]
) -> tuple[int, str]:
    """Writes the records of a video, each wrapped by msgpack; returns their number and caption."""
    size, fps, length = settings["size"], settings["fps"], settings["frames"]
    caption = scan.read_caption(source / scan.caption_of(name))
    frames = video.read_frames(source / name, size=size, fps=fps)
    time = np.arange(length, dtype=np.float32) / np.float32(fps)
    for clips in itertools.count():
        images = [image for image, _ in itertools.islice(frames, length)]
        if len(images) < length:
            break
        record = records.encode(
            np.stack(images),
            time,
            label=label,
            source=f"{name}#t={clips * length / fps:g}",
            quality=settings["quality"],
            caption=caption,
        )
        spool.write(msgpack.packb(record))
    if not clips and video.is_image(source / name):
        raise InputError(f"{source / name}: an image, not a video")
    if not clips:
        raise InputError(
            f"{source / name}: shorter than a clip: {len(images)} frames at {fps:g} fps, {length} "
            "are needed"
        )
    return clips, caption


def _spool_again(spool: IO[bytes], source: Path, name: str, shard: Path) -> tuple[int, str]:
    """Like `_spool_clips`, for a file removed from the input: copies its records in `shard`."""
    clips, caption = 0, ""
    try:
        reader = ArrayRecordReader(str(shard))
        for index in range(reader.num_records()):
            (record,) = reader.read([index])
            if records.source_of(record) == name:
                caption = records.decode(record).caption
                spool.write(msgpack.packb(record))
                clips += 1
    except (RuntimeError, IndexError) as error:
        raise InputError(
            f"{source / name}: removed from the input, and its clips are damaged: {error}"
        ) from error
    if not clips:
        raise InputError(f"{source / name}: cannot be read: removed before its clips were made")
    return clips, caption


# How the reason for skipping a file begins, and its wording for several files.
_KINDS = {
    "an image": "are images, not videos",
    "shorter than a clip": "are shorter than a clip",
    "not a video": "are not videos, or truncated before their index",
    "has no video stream": "have no video stream",
    "truncated": "are truncated or damaged",
    "cannot be read": "cannot be read",
}


def _report(manifest: Mapping[str, Any], source: Path, output: Path) -> None:
    files = manifest["files"]
    skipped = {name: entry for name, entry in files.items() if entry["status"] == "skipped"}
    kinds = collections.defaultdict(list)
    for name, entry in skipped.items():
        kind = next((kind for kind in _KINDS if entry["reason"].startswith(kind)), name)
        kinds[kind].append(name)
    lines = []
    for kind, names in kinds.items():
        if len(names) == 1:
            lines.append(f"skipped {names[0]}: {skipped[names[0]]['reason']}")
        else:
            some = ", ".join(names[:3] + ["…"] * (len(names) > 3))
            lines.append(f"skipped: {len(names)} files {_KINDS[kind]}: {some}")
    _print_some(lines)
    if not manifest["shards"]:
        raise InputError(f"{source}: no clips, all {len(files)} files were skipped, see above")
    clips, done = sum(manifest["shards"].values()), len(files) - len(skipped)
    gone = sum(not os.path.exists(source / name) for name in files.keys() - skipped.keys())
    notes = f"{len(skipped)} skipped" + (f", {gone} gone but kept" if gone else "")
    print(f"{clips} clips from {done} files ({notes}) in {output}")


def _print_some(lines: Sequence[str]) -> None:
    for line in lines[:_MOST_LINES]:
        print(line)
    if len(lines) > _MOST_LINES:
        print(f"and {len(lines) - _MOST_LINES} more lines like these")


def _define_flags() -> None:
    flags.DEFINE_string("input", None, "Folder of video files.", required=True)
    flags.DEFINE_string("output", None, "Folder for the shards.", required=True)
    flags.DEFINE_integer("size", 64, "Height and width of a frame in pixels.", lower_bound=1)
    flags.DEFINE_float("fps", 8, "Frames per second of a clip.", lower_bound=0.01)
    flags.DEFINE_integer("frames", 32, "Frames of a clip.", lower_bound=1)
    flags.DEFINE_integer("quality", 95, "JPEG quality.", lower_bound=1, upper_bound=100)
    flags.DEFINE_integer("workers", os.cpu_count(), "Processes that decode.", lower_bound=1)


def _interrupt(*_: Any) -> None:
    # Python drops an exception that is raised in a finalizer or a callback, and one inside the pool
    # may break it and come as another, so also set an event.
    _interrupted.set()
    raise KeyboardInterrupt


def main(_: Sequence[str]) -> None:
    # File names may not be valid text.
    sys.stdout.reconfigure(errors="backslashreplace")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    values = flags.FLAGS
    settings = {key: values[key].value for key in ("size", "fps", "frames", "quality")}
    try:
        source = to_path(values.input, "--input")
        output = to_path(values.output, "--output")
        manifest = prepare(source, output, settings, values.workers)
        _report(manifest, source, output)
    except BaseException:
        if not _interrupted.is_set():
            raise
        print(
            "interrupted: finished shards are kept, run the same command to resume",
            file=sys.stderr,
        )
        sys.exit(130)


if __name__ == "__main__":
    _define_flags()
    errors.run(main, configs.parse_flags)
