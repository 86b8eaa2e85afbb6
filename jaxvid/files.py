"""Files and folders of the user, on this machine or in a bucket of Google Cloud Storage (gs://…)."""

import contextlib
import hashlib
import importlib.util
import os
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any

import fsspec
from etils import epath

from jaxvid.errors import InputError

Path = pathlib.Path | epath.Path  # the second one is in a bucket

# A cached listing has the old size of a file that another process has replaced since, and the file
# is cut off there.
fsspec.config.conf.setdefault("gcs", {})["use_listings_cache"] = False


def to_path(text: str | os.PathLike, flag: str) -> Path:
    """The path in the value of a flag such as "--workdir"; `~` is the home directory.

    Raises InputError for an object store other than gs://…, or if gcsfs is missing.
    """
    text = os.fspath(text)
    if "://" not in text:
        return pathlib.Path(text).expanduser()
    if not text.startswith("gs://"):
        raise InputError(
            f"{flag}={text}: object stores are not supported, except gs://; give a local or "
            "mounted folder"
        )
    if not importlib.util.find_spec("gcsfs"):
        raise InputError(f"{flag}={text}: gcsfs is missing: pip install gcsfs")
    return epath.Path(text)


def is_local(path: Path) -> bool:
    """Whether a path is on this machine."""
    return isinstance(path, pathlib.Path)


def absolute(path: Path) -> Path:
    """The path from the root on; etils would look for a bucket in the current folder."""
    return path.absolute() if is_local(path) else path


def store_of(path: Path) -> Any:
    """The `fsspec` file system of a path in a bucket, which is the one that `path` itself uses."""
    return fsspec.filesystem(str(path).partition("://")[0])


def size_of(path: Path) -> int:
    """The size of a file in bytes."""
    return path.stat().st_size if is_local(path) else path.stat().length


@contextlib.contextmanager
def local(path: Path) -> Iterator[pathlib.Path]:
    """A file on this machine: `path`, or a copy of it that is removed at the end.

    Raises InputError if a copy cannot be made; one of the block names `path`, not the copy.
    """
    if is_local(path):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = pathlib.Path(folder) / path.name
        try:
            store_of(path).get_file(str(path), str(copy))
        except Exception as error:  # gcsfs raises errors of all kinds
            raise InputError(f"{path}: cannot be read: {type(error).__name__}: {error}") from error
        try:
            yield copy
        except InputError as error:
            raise InputError(str(error).replace(str(copy), str(path))) from error


@contextlib.contextmanager
def whole(path: Path) -> Iterator[pathlib.Path]:
    """A file to write, which takes the place of `path` at the end.

    If the block fails or removes it, `path` stays as it is.
    """
    if is_local(path):
        # The process id avoids a clash with a file that an earlier run may still hold open.
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            yield temporary
            if temporary.exists():
                os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        return
    with tempfile.TemporaryDirectory() as folder:
        temporary = pathlib.Path(folder) / path.name
        yield temporary
        if temporary.exists():
            store_of(path).put_file(str(temporary), str(path))  # appears when it is complete


def content_hash(path: Path) -> str:
    """SHA-256 of a file. Raises InputError if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error


def make_folder(path: Path, flag: str) -> None:
    """Makes a folder, unless it exists, and checks that it can be written to.

    Raises InputError, which names the flag, if the path is a file or below one, is read-only, is on
    a full disk or cannot be made, or if its bucket cannot be written to.
    """
    try:
        if is_local(path):
            path.mkdir(parents=True, exist_ok=True)
        check_writable(path)
    except OSError as error:
        reason = "it is a file" if isinstance(error, FileExistsError) else error.strerror
        reason = reason or f"no such bucket, or no right to write into it ({error})"
        raise InputError(f"{flag}={path}: {reason}; choose another folder") from error


def check_writable(path: Path) -> None:
    """Writes a file into a folder, and removes it; raises what goes wrong."""
    if is_local(path):
        with tempfile.TemporaryFile(dir=path) as file:
            file.write(b"\0")
    else:
        (path / ".writable").write_bytes(b"\0")
        (path / ".writable").unlink()
