"""Finds the files in a folder of videos, and plans which of them to cut into clips."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxvid.errors import InputError

_MOST_SHARDS = 1024


def find_files(source: Path, output: Path) -> tuple[list[str], list[str]]:
    """All files except hidden ones and captions, as sorted paths relative to `source`.

    Links to folders are followed, except a link to a folder that contains it.

    Returns:
      The paths, and a line for each file or folder that could not be read.

    Raises:
      InputError: `source` is not a folder, is the same as `output`, or contains no files.
    """
    if not source.is_dir():
        raise InputError(f"{source}: no such folder; --input is a folder of video files")
    if source.resolve() == output.resolve():
        raise InputError(f"{source}: --input and --output are the same folder; choose another")
    names, problems = _walk(source, os.path.realpath(output))
    captions = {caption_of(name) for name in names if not name.endswith(".txt")}
    names = sorted(set(names) - captions)
    if not names and not problems:
        raise InputError(f"{source}: contains no files; --input is a folder of video files")
    return names, problems


def _walk(source: Path, output: str) -> tuple[list[str], list[str]]:
    names: list[str] = []
    problems: list[str] = []

    def below(*parts: str) -> str:
        return Path(*parts).relative_to(source).as_posix()

    def unreadable(error: OSError) -> None:
        problems.append(f"folder {below(error.filename)}: cannot be read: {error.strerror}")

    # For each folder to visit, its real path and those of its parents.
    chains = {str(source): {os.path.realpath(source)}}
    for folder, subfolders, files in os.walk(source, onerror=unreadable, followlinks=True):
        chain, followed = chains.pop(folder), []
        for name in subfolders:
            path = os.path.join(folder, name)
            real = os.path.realpath(path)
            if name.startswith(".") or real == output:
                continue
            if real in chain:
                problems.append(f"folder {below(path)}: a link to a folder that contains it")
                continue
            chains[path] = chain | {real}
            followed.append(name)
        subfolders[:] = followed
        for name in (name for name in files if not name.startswith(".")):
            if os.path.isfile(os.path.join(folder, name)):
                names.append(below(folder, name))
            else:
                problems.append(f"{below(folder, name)}: a broken link, or not a regular file")
    return names, problems


def caption_of(name: str) -> str:
    """The path of a video's caption, which may not exist."""
    return os.path.splitext(name)[0] + ".txt"


def read_caption(path: Path) -> str:
    """The caption in one line; "" without a file. Raises InputError if it is not UTF-8."""
    try:
        return " ".join(path.read_text("utf-8-sig").split()) if path.is_file() else ""
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 ({error.reason}); save it as UTF-8") from error


def class_of(name: str) -> str:
    """The first-level folder of a file, or "" for a file at the top level."""
    return name.partition("/")[0] if "/" in name else ""


def plan(manifest: dict[str, Any], source: Path, names: Sequence[str]) -> None:
    """Marks in the manifest the files to process: those that are new or have changed.

    A file has changed if its size or modification time, or those of its caption, differ from the
    manifest's. If it already has clips, its shard is removed from the manifest and all files of the
    shard are processed again.
    """
    files, classes = manifest["files"], manifest["classes"]
    classes += sorted({class_of(name) for name in names} - {"", *classes})
    stamps = {name: _stamp(source, name) for name in names}
    for name in [name for name, entry in files.items() if entry["status"] == "skipped"]:
        if name not in stamps:
            del files[name]
    known = [name for name in names if name in files]
    changed = [n for n in known if any(files[n].get(k, v) != v for k, v in stamps[n].items())]
    redone = {files[name]["shard"] for name in changed if files[name]["status"] == "done"}
    for name in known:
        files[name] |= stamps[name]
    for entry in files.values():
        if entry.get("shard") in redone:
            entry["status"] = "pending"
    for shard in redone:
        manifest["shards"].pop(shard, None)
        manifest["hashes"].pop(shard, None)

    skipped = {name for name in known if files[name]["status"] == "skipped"}
    unread = {name for name in skipped if files[name]["reason"].startswith("cannot be read")}
    again = skipped & {*changed, *unread}
    new = [name for name in names if name not in files or name in again]
    planned = [re.findall(r"\d+", entry.get("shard", "")) for entry in files.values()]
    first = 1 + max((int(number) for (number,) in filter(None, planned)), default=-1)
    per_shard = max(1, len(new) // _MOST_SHARDS)
    for index, name in enumerate(new, start=first * per_shard):
        shard = f"clips-{index // per_shard:05d}.array_record"
        files[name] = {"status": "pending", "shard": shard, **stamps[name]}


def settle_labels(manifest: dict[str, Any]) -> None:
    """Sets `labels` to the classes that have clips; labels of a finished run keep their numbers."""
    files, settled = manifest["files"].items(), manifest["settled"]
    labels = manifest["labels"][:settled]
    have_clips = {class_of(name) for name, entry in files if entry["status"] == "done"}
    labels += [c for c in manifest["classes"] if c in have_clips and c not in labels]
    manifest["labels"] = labels
    if all(entry["status"] != "pending" for _, entry in files):
        manifest["settled"] = len(labels)


def _stamp(source: Path, name: str) -> dict[str, Any]:
    """The size and modification times of a video and its caption, to detect changes."""
    paths = [source / name, source / caption_of(name)]
    stats = [path.stat() if path.is_file() else None for path in paths]
    return {
        "bytes": sum(stat.st_size for stat in stats if stat),
        "mtimes": [stat.st_mtime_ns if stat else 0 for stat in stats],
    }
