"""Paths that the user gives."""

import hashlib
import os
import tempfile
from pathlib import Path

from etils import epath

from jaxvid.errors import InputError


def to_path(text: str, flag: str) -> Path:
    """The path in the value of a flag such as "--workdir"; `~` is the home directory.

    Raises InputError for an object store (gs://…).
    """
    path = os.fspath(epath.Path(text).expanduser())
    if "://" in path:
        raise InputError(
            f"{flag}={text}: object stores are not supported yet; give a local or mounted folder"
        )
    return Path(path)


def content_hash(path: Path) -> str:
    """SHA-256 of a file. Raises InputError if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from error


def make_folder(path: Path, flag: str) -> None:
    """Makes a folder, unless it exists, and checks that it can be written to.

    Raises InputError, which names the flag, if the path is a file or below one, is read-only, is on
    a full disk or cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path) as file:
            file.write(b"\0")
    except OSError as error:
        reason = "it is a file" if isinstance(error, FileExistsError) else error.strerror
        raise InputError(f"{flag}={path}: {reason}; choose another folder") from error
