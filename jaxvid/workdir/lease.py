"""The lock of a work directory in a bucket: an object that its owner renews while it lives.

It is written, and removed, only if it is still what the writer has read. So of several runs that
try at once one succeeds, and a run that was taken for dead notices that it has lost the lock.
"""

import contextlib
import json
import os
import pathlib
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

from jaxvid import start
from jaxvid.errors import InputError
from jaxvid.files import Path
from jaxvid.workdir.disk import writing

RENEWED = 10.0  # seconds from one renewal to the next
STALE = 60.0  # seconds without a renewal after which an owner is taken for dead


@contextlib.contextmanager
def lease(path: Path) -> Iterator[None]:
    """Holds the lock `path` in a bucket. If another run takes it, this process ends at once.

    It is taken from a dead owner: at once if that was a process of this machine, and otherwise when
    it has not been renewed for `STALE` seconds.

    Raises InputError if the owner lives, or the bucket cannot be written to.
    """
    from google.cloud import storage

    mine, done = _identity(os.getpid()) | {"token": uuid.uuid4().hex}, threading.Event()
    bucket, _, name = str(path).removeprefix("gs://").partition("/")
    with writing(path.parent):
        blob = storage.Client().bucket(bucket).blob(name)
        seen = _take(path, blob, mine)
    renewing = threading.Thread(target=_renew, args=[path, blob, mine, seen, done], daemon=True)
    renewing.start()
    try:
        yield
    finally:
        done.set()
        renewing.join()
        with contextlib.suppress(Exception):  # what is left is the lock of a dead process
            owner, seen = _read(blob)
            if owner.get("token") == mine["token"]:
                blob.delete(if_generation_match=seen)


def _take(path: Path, blob: Any, mine: dict[str, Any]) -> int:
    """Makes this process the owner; returns the generation of the lock."""
    from google.api_core.exceptions import PreconditionFailed

    watched, since = None, time.monotonic()
    while True:
        owner, seen = _read(blob)
        if owner.get("token") == mine["token"]:  # the answer to an earlier attempt was lost
            return seen
        if owner and not _is_dead(owner):
            who = f"process {owner['process']} on {owner['host']}"
            if _is_here(owner) or watched not in (None, seen):
                raise InputError(
                    f"{path.parent}: another run is writing there ({who}): wait for it to end, or "
                    "give another --workdir"
                )
            if watched is None:
                watched = seen
                start.say(f"{path.parent}: waiting {STALE:g} s for a sign of life of {who}")
            if time.monotonic() - since < STALE:
                time.sleep(min(1.0, RENEWED))
                continue
        with contextlib.suppress(PreconditionFailed):  # another run was faster
            return _write(blob, mine, seen)


def _renew(path: Path, blob: Any, mine: dict[str, Any], seen: int, done: threading.Event) -> None:
    from google.api_core.exceptions import PreconditionFailed

    while not done.wait(RENEWED):
        try:
            with contextlib.suppress(PreconditionFailed):
                seen = _write(blob, mine, seen, retry=None, timeout=RENEWED)
                continue
            owner, seen = _read(blob)
            if owner.get("token") == mine["token"]:  # the answer to the last attempt was lost
                continue
        except Exception:  # the network may come back
            continue
        start.say(
            f"error: {path.parent}: the lock was taken by another run, or removed, after this one "
            f"could not renew it for {STALE:g} s; this one ends"
        )
        os._exit(1)


def _read(blob: Any) -> tuple[dict[str, Any], int]:
    """The owner and the generation of the lock: nobody and 0 if there is none."""
    from google.api_core.exceptions import NotFound, PreconditionFailed

    while True:
        with contextlib.suppress(PreconditionFailed):  # it was renewed in between
            try:
                blob.reload()
                seen = blob.generation
                content = blob.download_as_bytes(if_generation_match=seen)
            except NotFound:
                return {}, 0
            try:
                return json.loads(content), seen
            except ValueError:  # in the copy of a folder on a disk, which nobody holds
                return {}, seen


def _write(blob: Any, owner: dict[str, Any], seen: int, **options: Any) -> int:
    """Writes a lock that has the generation `seen`, or 0, and returns its new one.

    Raises PreconditionFailed if it has another one.
    """
    blob.upload_from_string(json.dumps(owner), if_generation_match=seen, **options)
    return blob.generation


def _identity(process: int) -> dict[str, Any]:
    """What tells a process from all others, of this machine or another.

    `namespace` is where its number has a meaning: a boot of a machine, and a container. `started`
    is empty if there is no such process. Both are empty where the system does not tell.
    """
    namespace, started = "", ""
    with contextlib.suppress(OSError):
        boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = f"{boot} {os.readlink('/proc/self/ns/pid')}"
        about = pathlib.Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        started = about[19] * (about[0] != "Z")  # of a zombie, only the number lives
    host = socket.gethostname()
    return {"host": host, "process": process, "namespace": namespace, "started": started}


def _is_here(owner: dict[str, Any]) -> bool:
    """Whether this machine knows if an owner lives."""
    return bool(owner["namespace"]) and owner["namespace"] == _identity(os.getpid())["namespace"]


def _is_dead(owner: dict[str, Any]) -> bool:
    return _is_here(owner) and owner["started"] != _identity(owner["process"])["started"]
