"""A work directory: whose it is, and the config it was made with."""

import json
import os
import re
from pathlib import Path

from ml_collections import ConfigDict

from jaxvid.config import complete, differences
from jaxvid.errors import InputError


def run_name(config: str) -> str:
    """The name of a run by its config: "videos-clips-a" for configs/videos.py:clips/a."""
    file, _, argument = config.partition(":")
    words = re.sub(r"[^\w.]+", "-", argument).strip("-.")
    return f"{Path(file).stem}-{words}" if words else Path(file).stem


def claim(workdir: Path, config: ConfigDict, write: bool) -> None:
    """Makes `workdir` this config's, or raises InputError if it has results of another's.

    Free keys may differ (`config.key`). `write`: whether this process writes `config.json`.
    """
    path = workdir / "config.json"
    saved = [*workdir.glob("checkpoints/*"), *workdir.glob("snapshots/*")]
    if any(folder.name.isdigit() for folder in saved):
        changed = [
            f"{name}: {old} there, {new} now"
            for name, (old, new) in differences(load(workdir), config).items()
        ]
        if changed:
            raise InputError(
                f"{workdir} holds a run with another config ({'; '.join(changed)}): "
                "give another --workdir, or the config it was made with"
            )
    if write:
        workdir.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        temporary.write_text(config.to_json(indent=2, sort_keys=True) + "\n")
        os.replace(temporary, path)


def load(workdir: Path) -> ConfigDict:
    """The config of the run in `workdir`, in today's keys; raises InputError if there is none."""
    path = workdir / "config.json"
    try:
        return complete(json.loads(path.read_text()))
    except FileNotFoundError:
        raise InputError(f"{workdir}: no run is there ({path} is missing)") from None
    except json.JSONDecodeError as error:
        raise InputError(f"{path} is not readable as JSON: {error}") from None
