"""Turns a folder of video files into ArrayRecord shards of short clips.

    python -m jaxvid.prepare --input=DIR --output=DIR --size=64 --fps=8 --frames=32

Every file below the input is cut into consecutive clips of `frames` frames at `fps` frames per
second; a last remainder is dropped. The first-level subfolder is the class, and a text file beside
a video that has its name (`dive.txt` of `dive.mp4`) is the caption of its clips. `manifest.json` in
the output holds the settings, the class names, the shards, and what came of each file. Run it again
to go on after an interruption or to add new files: what is done is not done twice.
"""

from jaxvid import start

if __name__ == "__main__":
    start.begin(huge_pages=False)

import collections
import concurrent.futures
import itertools
import multiprocessing
import os
import re
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
from array_record.python.array_record_module import ArrayRecordWriter
from tqdm import tqdm

from jaxvid import config as configs
from jaxvid import errors
from jaxvid.data import manifest as manifests
from jaxvid.data import records, video
from jaxvid.errors import InputError
from jaxvid.files import make_folder, to_path

_MOST_SHARDS = 1024
_MOST_REASONS = 20
_interrupted = threading.Event()


def prepare(
    source: Path, output: Path, settings: Mapping[str, int | float], workers: int
) -> dict[str, Any]:
    """Cuts the files below `source` that are not done yet into clips.

    Args:
      source: the folder of videos.
      output: the folder for shards and manifest; made if it is not there.
      settings: `size` in pixels, `fps`, `frames` per clip, JPEG `quality` in [1, 100].
      workers: how many processes decode.

    Returns:
      The manifest, as it is on disk.

    Raises:
      InputError: there are no files, or the output has other settings or cannot be written.
    """
    names = _find_files(source, output)
    manifest = manifests.resume(output, settings)
    _plan(manifest, source, names)
    try:
        make_folder(output, "--output")
        for leftover in output.glob("clips-*.tmp"):
            leftover.unlink()
        manifests.save(output, manifest)
        _write_shards(source, output, manifest, workers)
    except (OSError, RuntimeError) as error:  # a full disk, or a worker killed for lack of memory
        raise InputError(
            f"{output}: stopped ({error}); what is done is kept, run it again to go on"
        ) from error
    return manifest


def _find_files(source: Path, output: Path) -> list[str]:
    """All regular files but hidden ones and captions, as sorted paths below `source`."""
    if not source.is_dir():
        raise InputError(f"{source}: no such folder; --input is a folder of video files")
    if source.resolve() == output.resolve():
        raise InputError(f"{source}: --input and --output are the same folder; choose another")
    names, output = [], output.resolve()
    for folder, subfolders, files in os.walk(source):
        subfolders[:] = [
            name
            for name in subfolders
            if not name.startswith(".") and Path(folder, name).resolve() != output
        ]
        paths = [Path(folder, name) for name in files if not name.startswith(".")]
        names += [path.relative_to(source).as_posix() for path in paths if path.is_file()]
    captions = {_caption_of(name) for name in names if not name.endswith(".txt")}
    names = sorted(set(names) - captions)
    if not names:
        raise InputError(f"{source}: holds no files; --input is a folder of video files")
    return names


def _caption_of(name: str) -> str:
    return os.path.splitext(name)[0] + ".txt"


def _read_caption(path: Path) -> str:
    """In one line; "" where there is no such file."""
    try:
        return " ".join(path.read_text("utf-8-sig").split()) if path.is_file() else ""
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 ({error.reason}); save it as such") from error


def _plan(manifest: dict[str, Any], source: Path, names: Sequence[str]) -> None:
    """Gives each new file, and each skipped one whose size has changed, its shard."""
    labels, files = manifest["labels"], manifest["files"]
    folders = sorted({name.split("/")[0] for name in names if "/" in name})
    labels += [folder for folder in folders if folder not in labels]
    sizes = {
        name: sum(
            path.stat().st_size
            for path in (source / name, source / _caption_of(name))
            if path.is_file()
        )
        for name in names
    }
    new = [
        name
        for name in names
        if name not in files
        or (files[name]["status"] == "skipped" and files[name]["bytes"] != sizes[name])
    ]
    planned = [re.findall(r"\d+", entry.get("shard", "")) for entry in files.values()]
    first = 1 + max((int(number) for (number,) in filter(None, planned)), default=-1)
    per_shard = max(1, len(new) // _MOST_SHARDS)
    for index, name in enumerate(new, start=first * per_shard):
        shard = f"clips-{index // per_shard:05d}.array_record"
        files[name] = {"status": "pending", "shard": shard, "bytes": sizes[name]}


def _write_shards(source: Path, output: Path, manifest: dict[str, Any], workers: int) -> None:
    """Writes the planned shards in processes; a shard enters the manifest once it is whole."""
    files = manifest["files"]
    jobs = collections.defaultdict(dict)
    for name, entry in files.items():
        if entry["status"] == "pending":
            label = manifest["labels"].index(name.split("/")[0]) if "/" in name else -1
            jobs[entry["shard"]][name] = label
    if not jobs:
        return
    done, total = 0, sum(map(len, jobs.values()))
    pool = concurrent.futures.ProcessPoolExecutor(
        min(workers, len(jobs)), multiprocessing.get_context("spawn"), initializer=_start_worker
    )
    settings = {key: manifest[key] for key in ("size", "fps", "frames", "quality")}
    with pool, tqdm(total=total, unit="file", disable=None) as bar:
        try:
            futures = {
                pool.submit(_write_shard, source, output / shard, labels, settings): shard
                for shard, labels in jobs.items()
            }
            for future in concurrent.futures.as_completed(futures):
                if _interrupted.is_set():
                    raise KeyboardInterrupt
                shard, outcomes = futures[future], future.result()
                for name, outcome in outcomes.items():
                    files[name] = {**outcome, "bytes": files[name]["bytes"]}
                clips = sum(outcome.get("clips", 0) for outcome in outcomes.values())
                if clips:
                    manifest["shards"][shard] = clips
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
    # Ctrl-C reaches every process of the terminal; the parent alone decides what follows.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow_parent, daemon=True).start()
    cv2.setNumThreads(1)


def _follow_parent() -> None:
    """Ends this process when the parent is killed, so that no orphan writes into the output."""
    multiprocessing.parent_process().join()
    os._exit(1)


def _write_shard(
    source: Path, path: Path, labels: Mapping[str, int], settings: Mapping[str, int | float]
) -> dict[str, dict[str, Any]]:
    """Writes the clips of the files in `labels`; returns what came of each file."""
    # The process id keeps this file apart from one that a run before may still hold open.
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    # Groups of one record make random access cheap; JPEG does not compress further.
    writer = ArrayRecordWriter(str(temporary), "group_size:1,uncompressed")
    outcomes = {}
    for name, label in labels.items():
        # Clips wait on disk until their file is read to its end: a damaged one leaves none.
        with tempfile.TemporaryFile(dir=path.parent) as spool:
            try:
                clips = _spool_clips(spool, source, name, label, settings)
            except InputError as error:
                reason = str(error).removeprefix(f"{source / name}: ")
                outcomes[name] = {"status": "skipped", "reason": reason}
                continue
            spool.seek(0)
            for record in msgpack.Unpacker(spool, max_buffer_size=0):
                writer.write(record)
        outcomes[name] = {"status": "done", "shard": path.name, "clips": clips}
    writer.close()
    if any(outcome["status"] == "done" for outcome in outcomes.values()):
        os.replace(temporary, path)
    else:
        temporary.unlink()
    return outcomes


def _spool_clips(
    spool: IO[bytes], source: Path, name: str, label: int, settings: Mapping[str, int | float]
) -> int:
    """Writes one record per clip, each wrapped by msgpack so that they part again; counts them."""
    size, fps, length = settings["size"], settings["fps"], settings["frames"]
    caption = _read_caption(source / _caption_of(name))
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
    if not clips:
        raise InputError(
            f"{source / name}: shorter than a clip: {len(images)} frames at {fps:g} fps, {length} "
            "are needed"
        )
    return clips


def _report(manifest: Mapping[str, Any], source: Path, output: Path) -> None:
    files = manifest["files"]
    skipped = {name: entry for name, entry in files.items() if entry["status"] == "skipped"}
    for name, entry in itertools.islice(skipped.items(), _MOST_REASONS):
        print(f"skipped {name}: {entry['reason']}")
    if len(skipped) > _MOST_REASONS:
        print(f"skipped {len(skipped) - _MOST_REASONS} more, see {output / manifests.NAME}")
    if not manifest["shards"]:
        raise InputError(f"{source}: no clips, all {len(files)} files were skipped, as listed")
    clips, done = sum(manifest["shards"].values()), len(files) - len(skipped)
    print(f"{clips} clips from {done} files ({len(skipped)} skipped) in {output}")


def _define_flags() -> None:
    flags.DEFINE_string("input", None, "Folder of video files.", required=True)
    flags.DEFINE_string("output", None, "Folder for the shards.", required=True)
    flags.DEFINE_integer("size", 64, "Height and width of a frame in pixels.", lower_bound=1)
    flags.DEFINE_float("fps", 8, "Frames per second of a clip.", lower_bound=0.01)
    flags.DEFINE_integer("frames", 32, "Frames of a clip.", lower_bound=1)
    flags.DEFINE_integer("quality", 95, "JPEG quality.", lower_bound=1, upper_bound=100)
    flags.DEFINE_integer("workers", os.cpu_count(), "Processes that decode.", lower_bound=1)


def _interrupt(*_: Any) -> None:
    # Python drops an exception that is raised in a finalizer or a callback; the event stays.
    _interrupted.set()
    raise KeyboardInterrupt


def main(_: Sequence[str]) -> None:
    # File names need not be text.
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
    except KeyboardInterrupt:
        print("interrupted: what is done is kept, run it again to go on", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    _define_flags()
    errors.run(main, configs.parse_flags)
