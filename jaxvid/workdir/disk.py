"""Writes files atomically, and reports errors of the disk in one line."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from etils import epath

from jaxvid.errors import InputError
from jaxvid.files import whole

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextlib.contextmanager
def writing(path: str | os.PathLike) -> Iterator[None]:
    """Turns an OSError raised inside into an InputError that names `path` and what to do."""
    try:
        yield
    except OSError as error:
        hint = "make room" if error.errno in _FULL else "choose a folder that can be written to"
        reason = error.strerror or str(error)
        raise InputError(f"{path} cannot be written ({reason}): {hint}") from error


def write_whole(path: str | os.PathLike, content: bytes) -> None:
    """Writes a file, which appears when it is complete.

    Raises InputError if the file cannot be written.
    """
    path = path if isinstance(path, epath.Path) else Path(path)
    with writing(path), whole(path) as partial:
        partial.write_bytes(content)
