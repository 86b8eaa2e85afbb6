"""Finds the files in a folder of videos, and plans which of them to cut into clips."""

import os
import pathlib
import re
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

from jaxvid.data.curation.table import Row
from jaxvid.data.manifest import Manifest, Shards, class_of
from jaxvid.errors import InputError
from jaxvid.files import Path, is_local, store_of

_MOST_SHARDS = 4096


class Stat(NamedTuple):
    """The size of a file in bytes, and its time of modification in nanoseconds."""

    size: int
    mtime: int


class Found(NamedTuple):
    """The files below a folder, as sorted paths relative to it.

    Attributes:
      files: all except hidden ones and captions.
      captions: of these files.
      problems: a line for each file or folder that could not be read.
    """

    files: dict[str, Stat]
    captions: dict[str, Stat]
    problems: list[str]


def find_files(source: Path, output: Path | None = None) -> Found:
    """Finds the files below `source`, and not below `output`.

    Links to folders are followed, except a link to a folder that contains it.

    Raises:
      InputError: `source` is not a folder, is the same as `output`, or contains no files.
    """
    if not source.is_dir():
        raise InputError(f"{source}: no such folder; give one of video files")
    if output and os.path.realpath(source) == os.path.realpath(output):
        raise InputError(f"{source}: --input and --output are the same folder; choose another")
    walk = _walk if is_local(source) else _list
    found, problems = walk(source, output)
    found = dict(sorted(found.items()))
    captions = {caption_of(name) for name in found if not name.endswith(".txt")}
    files = {name: stat for name, stat in found.items() if name not in captions}
    if not files and not problems:
        raise InputError(f"{source}: contains no files; give a folder of video files")
    return Found(files, {name: found[name] for name in found.keys() & captions}, problems)


def _list(source: Path, output: Path | None) -> tuple[dict[str, Stat], list[str]]:
    """All objects below a folder in a bucket; one listing has up to a thousand of them."""
    start, found = len(f"{source}/".partition("://")[2]), {}
    within = f"{output}/".partition("://")[2]
    for path, about in store_of(source).find(str(source), detail=True).items():
        hidden = any(part.startswith(".") for part in path[start:].split("/"))
        if not hidden and not (output and path.startswith(within)):
            found[path[start:]] = Stat(about["size"], round(about["mtime"].timestamp() * 1e9))
    return found, []


def _walk(source: pathlib.Path, output: Path | None) -> tuple[dict[str, Stat], list[str]]:
    names: dict[str, Stat] = {}
    problems: list[str] = []
    output = os.path.realpath(output) if output else ""

    def below(*parts: str) -> str:
        return pathlib.Path(*parts).relative_to(source).as_posix()

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
            path = os.path.join(folder, name)
            about = os.stat(path) if os.path.isfile(path) else None
            if about:
                names[below(path)] = Stat(about.st_size, about.st_mtime_ns)
            else:
                problems.append(f"{below(path)}: a broken link, or not a regular file")
    return names, problems


def caption_of(name: str) -> str:
    """The path of a video's caption, which may not exist."""
    return os.path.splitext(name)[0] + ".txt"


def read_caption(path: Path) -> str:
    """The caption in one line; "" without a file. Raises InputError if it is not UTF-8."""
    try:
        return " ".join(path.read_bytes().decode("utf-8-sig").split()) if path.is_file() else ""
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 ({error.reason}); save it as UTF-8") from error


def stamps(found: Found, rows: Mapping[str, Row]) -> dict[str, dict[str, Any]]:
    """What shows that a video has changed: its size and times, those of its caption, its row."""
    return {name: _stamp(found, name, rows.get(name, {})) for name in found.files}


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


def _stamp(found: Found, name: str, row: Row) -> dict[str, Any]:
    stats = [found.files[name], found.captions.get(caption_of(name), Stat(0, 0))]
    return {
        "bytes": sum(stat.size for stat in stats),
        "mtimes": [stat.mtime for stat in stats],
        "class": sys.intern(row.get("label", class_of(name))),
        "text": row.get("caption", ""),
    }
