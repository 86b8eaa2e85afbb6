"""Writes files atomically, here or in a bucket, and reports what goes wrong in one line."""

import contextlib
import errno
import os
import tempfile
import uuid
from collections.abc import Iterator

from jaxvid.errors import InputError, of_bucket
from jaxvid.files import Path, check_writable, is_local, store_of, to_path, whole

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextlib.contextmanager
def writing(path: str | os.PathLike) -> Iterator[None]:
    """Turns an error of the disk or bucket into an InputError that names `path` and what to do."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, OSError) and not of_bucket(error):
            raise
        full = isinstance(error, OSError) and error.errno in _FULL
        hint = "make room" if full else "choose a folder that can be written to"
        reason = getattr(error, "strerror", None)
        if not reason:  # libraries have given it no number
            hint = "see that the bucket exists, and that you may write into it"
            gone = isinstance(error, FileNotFoundError) or getattr(error, "code", 0) == 404
            reason = "no such bucket" if gone else " ".join(str(error).split())
        raise InputError(f"{path} cannot be written ({reason}): {hint}") from error


def write_whole(path: str | os.PathLike, content: bytes) -> None:
    """Writes a file, which appears when it is complete.

    Raises InputError if the file cannot be written.
    """
    path = to_path(path, "file")
    with writing(path), whole(path) as partial:
        partial.write_bytes(content)


def make_folder(path: Path) -> None:
    """Makes a folder, unless it exists. A bucket has none: there, sees that it can be written to.

    Raises InputError if that fails.
    """
    with writing(path):
        if is_local(path):
            path.mkdir(parents=True, exist_ok=True)
        else:
            check_writable(path)


def move_into(path: Path, folder: Path) -> None:
    """Moves a folder into another one, where its name gets an ending that no other has.

    Raises InputError if that fails.
    """
    target = folder / f"{path.name}-{uuid.uuid4().hex[:8]}"
    with writing(folder):
        if is_local(path):
            folder.mkdir(exist_ok=True)
            os.rename(path, target)
        else:
            # In this order, what is killed in between can be done again.
            store_of(path).copy(str(path), str(target), recursive=True)
            store_of(path).rm(str(path), recursive=True)


class Growing:
    """A file that grows. One in a bucket grows here, and `sync` uploads it as a whole.

    Args:
      path: the file; its folder exists.
      content: what it begins with, in place of what is there.

    Raises:
      OSError: from any method, if the file cannot be written; of a bucket, other errors too.
    """

    def __init__(self, path: Path, content: bytes = b""):
        self._path = path
        with whole(path) as partial:
            partial.write_bytes(content)
        if is_local(path):
            self._file = path.open("ab")
        else:
            self._file = tempfile.NamedTemporaryFile()  # noqa: SIM115  `close` does
            self._file.write(content)
        self._synced = len(content)

    def write(self, content: bytes) -> None:
        """Appends bytes; a local file has them when this returns."""
        self._file.write(content)
        self._file.flush()

    def sync(self) -> None:
        """Uploads what the bucket does not have yet, and returns when it is there."""
        if not is_local(self._path) and self._synced < (size := self._file.tell()):
            store_of(self._path).put_file(self._file.name, str(self._path))
            self._synced = size

    def close(self) -> None:
        """Ends the file; nothing can be written to it afterwards."""
        with contextlib.closing(self._file):
            self.sync()
