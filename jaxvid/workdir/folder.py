"""A work directory: the run that it belongs to, and the lock for its writer."""

import contextlib
import fcntl
import json
import os
import re
import socket
import sys
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any

import jax
from ml_collections import ConfigDict

from jaxvid.config import complete, differences
from jaxvid.errors import InputError, nearest
from jaxvid.files import Path, absolute, is_local
from jaxvid.workdir.agree import together
from jaxvid.workdir.checkpoint import steps_in
from jaxvid.workdir.disk import make_folder, write_whole, writing
from jaxvid.workdir.lease import lease
from jaxvid.workdir.migrations import FORMAT, upgrade_config

SAVES = "checkpoints", "snapshots"


def run_name(config: str) -> str:
    """The name of a run from its config: "videos-clips-a" for configs/videos.py:clips/a."""
    file, _, argument = config.partition(":")
    words = re.sub(r"[^\w.]+", "-", argument).strip("-.")
    return f"{PurePath(file).stem}-{words}" if words else PurePath(file).stem


@contextlib.contextmanager
def lock(workdir: Path) -> Iterator[None]:
    """Locks `workdir` against other runs, and makes it if needed.

    Every process of a run must call this; the first holds the lock for all. If it dies, the kernel
    unlocks; in a bucket, see `lease`. Raises InputError if another run holds the lock, or if the
    folder cannot be written.
    """
    with contextlib.ExitStack() as held:
        together(lambda: _lock(workdir, held) if jax.process_index() == 0 else None)
        yield


def _lock(workdir: Path, held: contextlib.ExitStack) -> None:
    path = workdir / "lock"
    if not is_local(path):
        held.enter_context(lease(path))
        return
    make_folder(workdir)
    with writing(workdir):
        file = held.enter_context(path.open("a+"))
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        raise InputError(
            f"{workdir}: another run is writing there ({file.read().strip() or 'unknown'}): wait "
            "for it to end, or give another --workdir"
        ) from None
    except OSError as error:
        print(
            f"warning: {workdir} cannot be locked ({error.strerror}): make sure that no other run "
            "writes there",
            file=sys.stderr,
        )
    with writing(path):
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()


def claim(
    workdir: Path,
    config: ConfigDict,
    write: bool = True,
    fingerprint: str = "",
    accept: bool = False,
) -> list[str]:
    """Assigns `workdir` to a config. Every process must call this, inside `lock`.

    A run may resume with other values of free keys (`config.key`), and with more `steps`. Any other
    change of its config or data must be accepted.

    Args:
      workdir: work directory of the run.
      config: complete and checked config.
      write: whether this process writes `config.json`.
      fingerprint: fingerprint of the data, or "" if unknown. A run without one adopts it.
      accept: whether to resume although the config or the data changed.

    Returns:
      The changes since the run began, one line each.

    Raises:
      InputError: the config or the data changed and `accept` is False, `steps` is less than the
        number of steps taken, or the folder cannot be read or written.
    """
    return together(lambda: _claim(workdir, config, write, fingerprint, accept))


def _claim(
    workdir: Path, config: ConfigDict, write: bool, fingerprint: str, accept: bool
) -> list[str]:
    notes: list[str] = []
    began = _steps(workdir)
    if began:
        saved = _read(workdir)
        notes, changes = _changes(complete(upgrade_config(saved)), config, max(began))
        before = saved.get("data_fingerprint", "")
        if before and fingerprint and before != fingerprint:
            changes.append(f"the data: fingerprint {before} then, {fingerprint} now")
        if changes and not accept:
            raise InputError(
                f"{workdir} has a run with another config or other data ({'; '.join(changes)}). "
                "Restore these, give another --workdir, or add --accept_changes to resume with "
                "the changes"
            )
        notes += [f"accepted: {change}" for change in changes]
        fingerprint = fingerprint or before
    if write:
        content = {
            "format": FORMAT,
            "data_fingerprint": fingerprint,
            "config": json.loads(config.to_json()),
        }
        text = json.dumps(content, indent=2, sort_keys=True) + "\n"
        make_folder(workdir)
        write_whole(workdir / "config.json", text.encode())
    return notes


def load(workdir: Path) -> ConfigDict:
    """The config of the run in `workdir`, with current keys; raises InputError if there is none."""
    return complete(upgrade_config(_read(workdir)))


def _changes(old: ConfigDict, new: ConfigDict, taken: int) -> tuple[list[str], list[str]]:
    """The changes that are always allowed, and those that must be accepted."""
    changed = differences(old, new)
    steps = changed.pop("steps", None)
    notes = []
    if steps:
        if steps[1] < taken:
            raise InputError(
                f"config.steps={steps[1]}, but the run has taken {taken} steps: give at least "
                f"{taken}, or another --workdir"
            )
        verb = "extended" if steps[1] > steps[0] else "shortened"
        notes.append(
            f"{verb} from {steps[0]} to {steps[1]} steps; schedules end at the new last step"
        )
    return notes, [f"{name}: {a} then, {b} now" for name, (a, b) in changed.items()]


def _steps(workdir: Path) -> list[int]:
    """All saved steps, including damaged ones: `checkpoints-damaged/STEP-…`."""
    damaged = [path.name.partition("-")[0] for path in workdir.glob("checkpoints-damaged/*")]
    saved = [step for name in SAVES for step in steps_in(absolute(workdir / name))]
    return saved + [int(name) for name in damaged if name.isdigit()]


def _read(workdir: Path) -> Mapping[str, Any]:
    path = workdir / "config.json"
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        runs = [found.parent.name for found in workdir.parent.glob("*/config.json")]
        hint = nearest(workdir.name, runs)
        raise InputError(f"{path} is missing: {hint}give the work directory of a run") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise InputError(f"{path} is not readable as JSON: {error}") from None
