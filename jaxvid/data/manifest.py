"""What a folder of clips contains, and what became of each input video.

`manifest.json` has all that a reader of the clips needs:

- the settings, see `curation.settings`;
- `classes`, by their numbers in the records; `labels`, the classes that have clips, by their
  numbers in the network; `settled`, the number of labels whose numbers are final; and `actions`,
  the names of the numbers of an action;
- `shards`, and of each the number of `clips`, a `hash` of these records, the hash of each video
  with its number of records as `videos`, and the records to leave out, which are near-duplicates,
  as `left_out`;
- `caption`, the length of the longest caption in bytes; and a `summary`.

Beside each shard, `NAME.json` has an entry for each of its `files`: its status ("pending", "done"
or "skipped"); its size with its caption in `bytes`; the `mtimes` of both in nanoseconds (0 without
a caption), or a `game` with its `version`, `fps` and `seed` and the clips to `take`; its `class`,
and its caption in a table as `text`; its number of `clips`; the length of
their `caption` in bytes; the share of its picture that is `cropped`; the SHA-256 of the video as
`content`; or the `reason` why it was skipped.
For all clips, those that were dropped too, it has their `start` in seconds, `scores`, perceptual
`hashes`, and the score for which they were `dropped`, or "". As these are too many to hold for all
shards at once, they are read when they are needed; see `brief`.

A manifest of version 1 has the files too, and less about them.
"""

import collections
import hashlib
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt64

from jaxvid.data.curation.duplicates import find_duplicates, parse_hashes
from jaxvid.data.curation.settings import Settings
from jaxvid.errors import InputError
from jaxvid.files import Path, whole

VERSION = 2
FEWEST = 10  # videos of which one can be spared
NAME = "manifest.json"
_OF_CLIPS = ("start", "scores", "hashes", "dropped")  # of an entry, what has a value for each clip
# How the reason for skipping a file begins, and its wording for several files.
KINDS = {
    "an image": "are images, not videos",
    "nearer to": "are nearer to another shape",
    "shorter than a clip": "are shorter than a clip",
    "all clips dropped": "have no clip that passes the filters",
    "not a video": "are not videos, or truncated before their index",
    "not a regular file": "are not regular files",
    "has no video stream": "have no video stream",
    "has no frames": "have no frames",
    "no decoder": "have no decoder, or are truncated in their index",
    "resolution changes": "change their resolution",
    "truncated": "are truncated or damaged",
    "cannot be read": "cannot be read",
}

Manifest = dict[str, Any]
Files = dict[str, dict[str, Any]]  # the entry of each file
Shards = dict[str, dict[str, Any]]  # of each shard, `files` and the `hash` of its records


def read(folder: Path) -> Manifest:
    """Reads the manifest of a folder that `jaxvid.prepare` made; one of version 1 is converted.

    Raises:
      InputError: the folder or its manifest is missing, damaged or of another version.
    """
    manifest = _read(folder)
    return _converted(manifest) if manifest["version"] == 1 else manifest


def _read(folder: Path) -> Manifest:
    prepare = f"make it with python -m jaxvid.prepare --output={folder} --input=VIDEOS"
    if not folder.is_dir():
        raise InputError(f"data.path={folder} is not a folder: {prepare}")
    if not any(folder.iterdir()):
        raise InputError(f"data.path={folder} is empty: {prepare}")
    if not (folder / NAME).is_file():
        raise InputError(f"data.path={folder} has no {NAME}: {prepare}")
    manifest = _load(folder, NAME)
    if manifest["version"] not in (1, VERSION):
        raise InputError(
            f"{folder / NAME} has version {manifest['version']}, but this code reads version "
            f"{VERSION}: {prepare}"
        )
    return manifest


def shapes(folder: Path) -> list[str]:
    """The subfolders of clips, each of one shape; none if the folder itself has a manifest."""
    if (folder / NAME).is_file() or not folder.is_dir():
        return []
    return sorted(path.parent.name for path in folder.glob(f"*x*/{NAME}"))


def resume(folder: Path, settings: Settings) -> tuple[Manifest, Shards]:
    """Reads the manifest and the shards of `folder`, or makes new ones if it has no clips yet.

    The shards are brief. What the manifest says of them is left to `save`.

    Raises:
      InputError: the manifest is damaged or was made with other settings.
    """
    new = {"version": VERSION, **settings.to_json(), "classes": [], "labels": [], "settled": 0}
    new |= {"shards": {}, "by_content": True, "caption": 0, "summary": {}}
    if not (folder / NAME).exists():
        return new, {}
    old = _read(folder)
    shards = _read_shards(folder, old["version"])
    old = (_converted(old) if old["version"] == 1 else old) | {"shards": {}}
    was, now = Settings.from_json(old).to_json(), settings.to_json()
    differ = [key for key in now if was[key] != now[key]]
    if not differ:
        return new | old, shards
    if any(e["status"] == "done" for shard in shards.values() for e in shard["files"].values()):
        texts = [" ".join(f"{key}={values[key]}" for key in differ) for values in (was, now)]
        raise InputError(
            f"{folder} has clips with {texts[0]}, not {texts[1]}; choose another --output"
        )
    for path in folder.glob("clips-*.json"):
        path.unlink()
    return new, {}


def class_of(name: str) -> str:
    """The first-level folder of a file, or "" for a file at the top level."""
    return name.partition("/")[0] if "/" in name else ""


def hash_of(text: str) -> str:
    """A hash of a name, in place of one of the content."""
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


def kind_of(reason: str) -> str:
    """The key of KINDS for the reason why a file was skipped; for others, their first words."""
    return next((kind for kind in KINDS if reason.startswith(kind)), reason.partition(":")[0])


def label_of(manifest: Manifest) -> dict[int, int]:
    """Maps the number of a class in the records to its index in `labels`."""
    labels = manifest["labels"]
    return {i: labels.index(name) for i, name in enumerate(manifest["classes"]) if name in labels}


def videos(manifest: Manifest) -> list[tuple[str, int]]:
    """The hash of each video, and its number of records, in the order of `shards`."""
    return [tuple(video) for shard in manifest["shards"].values() for video in shard["videos"]]


def held_out(manifest: Manifest, share: float) -> Bool[np.ndarray, " records"]:
    """For each record, in the order of `shards`, whether its video is held out.

    A video is held out if the hash of its content, as a number in [0,1), is below `share`. So they
    are the same in every folder that is made of these videos, copies of a video are in one split,
    and no other video is held out when some are added. Of ten videos or more at least one is held
    out, the one with the lowest hash; of fewer, none. A shard never has a part of a video.
    """
    hashes, counts = zip(*videos(manifest), strict=True)
    at = np.array([int(hashed[:12], 16) / 2**48 for hashed in hashes])
    chosen = (at < share) | (at == at.min()) if share and len(at) >= FEWEST else at < 0
    return np.repeat(chosen, counts)


def left_out(manifest: Manifest) -> Bool[np.ndarray, " records"]:
    """For each record, in the order of `shards`, whether it is a near-duplicate."""
    parts = []
    for shard in manifest["shards"].values():
        parts.append(np.zeros(shard["clips"], bool))
        parts[-1][shard.get("left_out", [])] = True
    return np.concatenate(parts)


def unsaved(folder: Path, shards: Shards) -> set[str]:
    """The shards of a manifest of version 1, about which nothing is written beside them."""
    return {name for name in shards if not (folder / f"{name}.json").exists()}


def read_shard(folder: Path, name: str) -> dict[str, Any]:
    """What is known of a shard; raises InputError if it is damaged."""
    return _load(folder, f"{name}.json", ("files", "hash"))


def brief(shard: Mapping[str, Any]) -> dict[str, Any]:
    """What is known of a shard, but for its clips only the scores for which some were dropped.

    Of a million files, this takes less than a gigabyte.
    """
    files = {}
    for name, entry in shard["files"].items():
        files[name] = {key: entry[key] for key in entry if key not in _OF_CLIPS}
        files[name] |= {key: sys.intern(entry[key]) for key in ("status", "class")}
        if dropped := [sys.intern(score) for score in entry.get("dropped", ()) if score]:
            files[name]["dropped"] = dropped
    return {**shard, "files": files}


def save_brief(folder: Path, name: str, shard: Mapping[str, Any]) -> None:
    """As `save_shard`, for a shard that is brief: what the folder has of its clips stays."""
    there = read_shard(folder, name)["files"] if (folder / f"{name}.json").exists() else {}
    files = {}
    for file, entry in shard["files"].items():
        known = there.get(file, {})
        files[file] = entry | {key: known[key] for key in _OF_CLIPS if key in known}
    save_shard(folder, name, {**shard, "files": files})


def save_shard(folder: Path, name: str, shard: Mapping[str, Any]) -> None:
    """Writes what is known of a shard atomically, or removes it if it has no files."""
    if shard["files"]:
        _write(folder / f"{name}.json", shard)
    else:
        (folder / f"{name}.json").unlink(missing_ok=True)


def save(folder: Path, manifest: Manifest, shards: Shards) -> None:
    """Writes the manifest, with labels, shards and summary as the shards say."""
    done = {}
    for name, shard in sorted(shards.items()):
        files = {n: e for n, e in sorted(shard["files"].items()) if e["status"] == "done"}
        if files:
            done[name] = shard | {"files": files}
    entries = [entry for shard in done.values() for entry in shard["files"].values()]
    manifest["shards"] = {name: _about(shard) for name, shard in done.items()}
    manifest["by_content"] = all("content" in entry for entry in entries)
    manifest["caption"] = max((entry.get("caption", 0) for entry in entries), default=0)
    _settle_labels(manifest, shards)
    if all(e["status"] != "pending" for s in shards.values() for e in s["files"].values()):
        _leave_out_duplicates(folder, manifest, done)
    manifest["summary"] = _summary(manifest, shards)
    _write(folder / NAME, manifest)


def _about(shard: Mapping[str, Any]) -> dict[str, Any]:
    of_videos = [[e.get("content") or hash_of(n), e["clips"]] for n, e in shard["files"].items()]
    clips = sum(count for _, count in of_videos)
    return {"clips": clips, "hash": shard["hash"], "videos": of_videos}


def _settle_labels(manifest: Manifest, shards: Shards) -> None:
    """Labels of a finished preparation keep their numbers."""
    entries = [entry for shard in shards.values() for entry in shard["files"].values()]
    labels = manifest["labels"][: manifest["settled"]]
    have_clips = {entry["class"] for entry in entries if entry["status"] == "done"}
    labels += [c for c in manifest["classes"] if c in have_clips and c not in labels]
    manifest["labels"] = labels
    if all(entry["status"] != "pending" for entry in entries):
        manifest["settled"] = len(labels)


def _leave_out_duplicates(folder: Path, manifest: Manifest, done: Shards) -> None:
    if manifest["duplicates"] < 0 or not done:
        return
    hashes = [_hashes_of(read_shard(folder, name), shard["files"]) for name, shard in done.items()]
    ends = np.cumsum([len(of_shard) for of_shard in hashes])
    alike = find_duplicates(np.concatenate(hashes), manifest["duplicates"])
    for name, duplicate in zip(done, np.split(alike, ends[:-1]), strict=True):
        if duplicate.any():
            manifest["shards"][name]["left_out"] = np.flatnonzero(duplicate).tolist()


def _hashes_of(shard: Mapping[str, Any], names: Iterable[str]) -> UInt64[np.ndarray, "n 2"]:
    """The hashes of the clips of these files that are kept."""
    entries = [shard["files"][name] for name in names]
    pairs = (zip(entry["hashes"], entry["dropped"], strict=True) for entry in entries)
    return parse_hashes([hashed for of_file in pairs for hashed, dropped in of_file if not dropped])


def _summary(manifest: Manifest, shards: Shards) -> dict[str, Any]:
    """How many files and clips were kept, and how many were not, by reason."""
    entries = [entry for shard in shards.values() for entry in shard["files"].values()]
    status = collections.Counter(entry["status"] for entry in entries)
    reasons = [kind_of(entry["reason"]) for entry in entries if "reason" in entry]
    dropped = collections.Counter(
        score for entry in entries for score in entry.get("dropped", ()) if score
    )
    about = manifest["shards"].values()
    duplicates = sum(len(shard.get("left_out", ())) for shard in about)
    summary = {
        "files": dict(sorted(status.items())),
        "skipped": dict(sorted(collections.Counter(reasons).items())),
        "clips": sum(shard["clips"] for shard in about) - duplicates,
        "dropped": dict(sorted((dropped + collections.Counter(duplicates=duplicates)).items())),
    }
    if framed := [(e["cropped"], e["clips"]) for e in entries if {"cropped", "clips"} <= e.keys()]:
        shares, weights = zip(*framed, strict=True)
        summary["cropped"] = round(float(np.average(shares, weights=weights)), 4)
    return summary


def _read_shards(folder: Path, version: int) -> Shards:
    """What is known of each shard, in brief; of one that was cut off, its files are pending."""
    if version == VERSION:
        return {
            name: brief(read_shard(folder, name))
            for name in sorted(path.stem for path in folder.glob("clips-*.json"))
        }
    shards: Shards = {}
    manifest = _load(folder, NAME, ("files",))
    for name, entry in sorted(manifest["files"].items()):
        if entry["status"] != "skipped":  # those have no shard, and are tried again
            shard = entry.pop("shard")
            known = manifest.get("hashes", {}).get(shard, "")
            of_shard = shards.setdefault(shard, {"hash": known, "files": {}})["files"]
            of_shard[name] = {"class": class_of(name), **entry}
    return shards


def _converted(old: Mapping[str, Any]) -> Manifest:
    """A manifest of version 1 in the form of today.

    A video without a hash of its content has that of its path. In a folder that does not say whose
    a record is, a shard counts as a video.
    """
    labels, hashes = old["labels"], old.get("hashes", {})
    files = [(n, e) for n, e in sorted(old.get("files", {}).items()) if e["status"] == "done"]
    of_shard = collections.defaultdict(list)
    for name, entry in files:
        of_shard[entry["shard"]].append([entry.get("content") or hash_of(name), entry["clips"]])
    shards = {}
    for shard, count in old["shards"].items():
        whole = sum(clips for _, clips in of_shard[shard]) == count
        of_videos = of_shard[shard] if whole else [[hash_of(shard), count]]
        shards[shard] = {"clips": count, "hash": hashes.get(shard, ""), "videos": of_videos}
    return {
        "version": VERSION,
        **{key: old[key] for key in ("size", "fps", "frames")},
        "quality": old.get("quality", 95),
        "classes": old.get("classes", list(labels)),
        "labels": labels,
        "settled": old.get("settled", len(labels)),
        "shards": shards,
        "by_content": bool(files) and all("content" in entry for _, entry in files),
        "caption": max((entry.get("caption", 0) for _, entry in files), default=0),
    }


def _load(folder: Path, name: str, keys: Sequence[str] = ()) -> dict[str, Any]:
    """Reads a JSON file; raises InputError if it is damaged or lacks any of its keys."""
    try:
        values = json.loads((folder / name).read_text())
        if name == NAME:
            keys = ("version", "size", "fps", "frames", "labels", "shards", *keys)
        _ = [values[key] for key in keys]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{folder / name} is damaged ({error!r}): remove {folder} and prepare it again"
        ) from error
    return values


def _write(path: Path, values: Mapping[str, Any]) -> None:
    with whole(path) as temporary, temporary.open("w") as file:
        json.dump(values, file, indent=1, sort_keys=True)
