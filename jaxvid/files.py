"""Paths that the user gives, and files that get their final name only when they are whole."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from etils import epath

from jaxvid.errors import InputError


def to_path(text: str, flag: str) -> Path:
    """The path that a flag such as "--workdir" gives; `~` is the home.

    Raises InputError for an object store (gs://…).
    """
    path = os.fspath(epath.Path(text).expanduser())
    if "://" in path:
        raise InputError(
            f"{flag}={text}: object stores are not supported here yet; give a folder of this "
            "machine, or one that is mounted"
        )
    return Path(path)


def make_folder(path: Path, flag: str) -> None:
    """Makes a folder that does not exist yet, and makes sure that it can be written to.

    Raises InputError, which names the flag, where it is a file, is below one, is read-only, is on
    a full disk or cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path) as file:
            file.write(b"\0")
    except OSError as error:
        reason = "it is a file" if isinstance(error, FileExistsError) else error.strerror
        raise InputError(f"{flag}={path}: {reason}; choose another folder") from error


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raises InputError, with the file's name, for what the disk refuses while it is written to.

    Python names a file that cannot be opened, but not one on which the disk fills up.
    """
    try:
        yield
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}") from error


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Gives a temporary name to write to; the file gets its own name if nothing was raised.

    The two are in the same folder and have the same suffix. Raises InputError as `writing` does.
    """
    partial = path.with_name(f".partial-{path.name}")
    try:
        with writing(path):
            yield partial
            os.replace(partial, path)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
