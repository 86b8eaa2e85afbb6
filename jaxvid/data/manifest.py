"""`manifest.json`: what lies in a folder of clips, and what came of each video it was made from.

It holds

- the settings: `size` in pixels, `fps`, `frames` per clip, `quality`;
- `classes`, the first-level folders in the order in which the records number them; `labels`, those
  of them that have clips, in the order in which the network numbers them; and `settled`, how many
  of the labels keep their number from now on;
- the number of records in each of the `shards`, and a hash of these records in `hashes`;
- an entry for each of the `files`: its status ("pending", "done" or "skipped"), its `bytes`, those
  of its caption included, the `mtimes` of both in nanoseconds (0 without a caption), its shard and
  its number of clips with the length of their caption in bytes, or the reason why it was skipped.

Folders that were made before there were `classes`, `settled`, `hashes`, `mtimes` and `caption` do
without.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxvid.errors import InputError

VERSION = 1
NAME = "manifest.json"


def read(folder: Path) -> dict[str, Any]:
    """The manifest of a folder that `jaxvid.prepare` has made.

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
            f"{folder / NAME} is of version {manifest['version']}, this code reads {VERSION}: "
            f"{prepare}"
        )
    return manifest


def resume(folder: Path, settings: Mapping[str, int | float]) -> dict[str, Any]:
    """The manifest in `folder` to go on with, or a new one if nothing has been written there.

    Raises:
      InputError: the one there is damaged or was made with other settings.
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
        raise InputError(f"{folder}: holds clips of {was}, not {now}; choose another --output")
    if was != now:
        return new | added
    labels = old["labels"]
    return added | {"classes": list(labels), "settled": len(labels)} | old


def label_of(manifest: Mapping[str, Any]) -> dict[int, int]:
    """The number of a class in the records -> its place in `labels`."""
    labels = manifest["labels"]
    classes = manifest.get("classes", labels)
    return {i: labels.index(name) for i, name in enumerate(classes) if name in labels}


def save(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Writes it whole or not at all."""
    temporary = folder / f"{NAME}.tmp"
    temporary.write_text(json.dumps(manifest, indent=1, sort_keys=True))
    os.replace(temporary, folder / NAME)


def _parse(folder: Path, keys: tuple[str, ...]) -> dict[str, Any]:
    """The manifest, with these keys at least; raises InputError where it is damaged."""
    try:
        manifest = json.loads((folder / NAME).read_text())
        _ = [manifest[key] for key in keys]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{folder / NAME} is damaged ({error!r}): remove {folder} and prepare it again"
        ) from error
    return manifest
