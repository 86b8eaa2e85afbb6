"""Finds the files in a folder of videos, and plans which of them to cut into clips."""

import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxvid.data.curation.table import Row
from jaxvid.data.manifest import Manifest, Shards, class_of
from jaxvid.errors import InputError

_MOST_SHARDS = 4096


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


def stamps(
    source: Path, names: Sequence[str], rows: Mapping[str, Row]
) -> dict[str, dict[str, Any]]:
    """What shows that a video has changed: its size and times, those of its caption, its row."""
    return {name: _stamp(source, name, rows.get(name, {})) for name in names}


def plan(manifest: Manifest, shards: Shards, stamps: Mapping[str, Mapping[str, Any]]) -> set[str]:
    """Marks in the shards the files to process: those that are new, or whose stamp has changed.

    If one already has clips, all files of its shard are processed again.

    Returns:
      The names of the shards that have changed.
    """
    new_classes = {stamp["class"] for stamp in stamps.values()} - {"", *manifest["classes"]}
    manifest["classes"] += sorted(new_classes)
    changed, known = set(), set()
    for shard, about in shards.items():
        files, redo = about["files"], False
        for name, entry in list(files.items()):
            stamp = stamps.get(name)
            differs = stamp is not None and any(entry.get(k, v) != v for k, v in stamp.items())
            if entry["status"] != "skipped":
                redo |= differs and entry["status"] == "done"
                files[name] = entry | (stamp or {})
            elif stamp is None or differs or entry["reason"].startswith("cannot be read"):
                del files[name]
                changed.add(shard)
        if redo:
            for entry in files.values():
                if entry["status"] == "done":
                    entry["status"] = "pending"
        if any(entry["status"] == "pending" for entry in files.values()):
            changed.add(shard)
        known.update(files)

    new = [name for name in stamps if name not in known]
    first = 1 + max((int(re.findall(r"\d+", shard)[0]) for shard in shards), default=-1)
    per_shard = max(1, len(new) // _MOST_SHARDS)
    for index, name in enumerate(new, start=first * per_shard):
        shard = f"clips-{index // per_shard:05d}.array_record"
        about = shards.setdefault(shard, {"hash": "", "files": {}})
        about["files"][name] = {"status": "pending", **stamps[name]}
        changed.add(shard)
    for shard in [shard for shard in changed if not shards[shard]["files"]]:
        del shards[shard]
    return changed


def _stamp(source: Path, name: str, row: Row) -> dict[str, Any]:
    paths = [source / name, source / caption_of(name)]
    stats = [path.stat() if path.is_file() else None for path in paths]
    return {
        "bytes": sum(stat.st_size for stat in stats if stat),
        "mtimes": [stat.st_mtime_ns if stat else 0 for stat in stats],
        "class": sys.intern(row.get("label", class_of(name))),
        "text": row.get("caption", ""),
    }
