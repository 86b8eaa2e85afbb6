"""`manifest.json`: the contents of a folder of clips, and the result for each input video.

It contains

- the settings: `size` in pixels, `fps`, `frames` per clip, `quality`;
- `classes`, the first-level folders, by their numbers in the records; `labels`, the classes that
  have clips, by their numbers in the network; and `settled`, the number of labels whose numbers are
  final;
- the number of records in each of the `shards`, and a hash of these records in `hashes`;
- an entry for each of the `files`: its status ("pending", "done" or "skipped"); its size with its
  caption in `bytes`; the `mtimes` of both in nanoseconds (0 without a caption); and its shard, its
  number of clips, the length of their caption in bytes and the SHA-256 of the video as `content`,
  or the reason why it was skipped.

Older folders may lack `classes`, `settled`, `hashes`, `mtimes`, `caption` and `content`.
"""

import collections
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from jaxvid.errors import InputError

VERSION = 1
FEWEST = 10  # videos of which one can be spared
NAME = "manifest.json"


def read(folder: Path) -> dict[str, Any]:
    """Reads the manifest of a folder that `jaxvid.prepare` made.

    Raises:
      InputError: the folder or its manifest is missing, damaged or of another version.
    """
    prepare = f"make it with python -m jaxvid.prepare --output={folder} --input=VIDEOS"
    if not folder.is_dir():
        raise InputError(f"data.path={folder} is not a folder: {prepare}")
    if not any(folder.iterdir()):
        raise InputError(f"data.path={folder} is empty: {prepare}")
    if not (folder / NAME).is_file():
        raise InputError(f"data.path={folder} has no {NAME}: {prepare}")
    manifest = _parse(folder, ("version", "size", "fps", "frames", "labels", "shards"))
    if manifest["version"] != VERSION:
        raise InputError(
            f"{folder / NAME} has version {manifest['version']}, but this code reads version "
            f"{VERSION}: {prepare}"
        )
    return manifest


def resume(folder: Path, settings: Mapping[str, int | float]) -> dict[str, Any]:
    """Reads the manifest in `folder`, or makes a new one if the folder has no clips yet.

    Raises:
      InputError: the manifest is damaged or was made with other settings.
    """
    new = {"version": VERSION, **settings, "labels": [], "shards": {}, "files": {}}
    added = {"classes": [], "settled": 0, "hashes": {}}
    if not (folder / NAME).exists():
        return new | added
    old = _parse(folder, tuple(new))
    was, now = (
        " ".join(f"{key}={manifest[key]}" for key in ("version", *settings))
        for manifest in (old, new)
    )
    if was != now and old["shards"]:
        raise InputError(f"{folder} has clips with {was}, not {now}; choose another --output")
    if was != now:
        return new | added
    labels = old["labels"]
    return added | {"classes": list(labels), "settled": len(labels)} | old


def label_of(manifest: Mapping[str, Any]) -> dict[int, int]:
    """Maps the number of a class in the records to its index in `labels`."""
    labels = manifest["labels"]
    classes = manifest.get("classes", labels)
    return {i: labels.index(name) for i, name in enumerate(classes) if name in labels}


def held_out(manifest: Mapping[str, Any], share: float) -> Bool[np.ndarray, " records"]:
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


def videos(manifest: Mapping[str, Any]) -> list[tuple[str, int]]:
    """The hash of each video, and its number of records, in the order of `shards`.

    A folder that lacks the hash of a video's content has that of its path. In one that does not say
    whose a record is, a shard counts as a video.
    """
    of_shard = collections.defaultdict(list)
    for name, entry in sorted(manifest.get("files", {}).items()):  # the order in a shard
        if entry["status"] == "done":
            hashed = entry.get("content") or _hash_of(name)
            of_shard[entry["shard"]].append((hashed, entry["clips"]))
    found = []
    for shard, count in manifest["shards"].items():
        whole = sum(clips for _, clips in of_shard[shard]) == count
        found += of_shard[shard] if whole else [(_hash_of(shard), count)]
    return found


def _hash_of(name: str) -> str:
    return hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()


def save(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Writes the manifest atomically."""
    temporary = folder / f"{NAME}.tmp"
    temporary.write_text(json.dumps(manifest, indent=1, sort_keys=True))
    os.replace(temporary, folder / NAME)


def _parse(folder: Path, keys: tuple[str, ...]) -> dict[str, Any]:
    """Reads the manifest; raises InputError if it is damaged or lacks any of `keys`."""
    try:
        manifest = json.loads((folder / NAME).read_text())
        _ = [manifest[key] for key in keys]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{folder / NAME} is damaged ({error!r}): remove {folder} and prepare it again"
        ) from error
    return manifest
