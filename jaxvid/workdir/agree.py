"""Decisions that are the same in all processes of a run."""

from collections.abc import Callable
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxvid.errors import InputError

T = TypeVar("T")
LONGEST = 2000  # most bytes of a message that are sent to the other processes


class Damaged(InputError):
    """Bytes on disk are missing, or are not those that were written."""


def together(act: Callable[[], T]) -> T:
    """Calls `act` in every process and returns its result, which may differ between processes.

    Every process must call this. If `act` raises InputError or Damaged in one process, it is raised
    in all of them, so that none is left waiting for the others; InputError takes precedence.
    """
    result, said = None, ""
    try:
        result = act()
    except InputError as error:
        if jax.process_count() == 1:
            raise
        said = f"{type(error).__name__} {error}"
    answers = _gather(said)
    for kind in (InputError, Damaged):
        for answer in answers:
            name, _, message = answer.partition(" ")
            if name == kind.__name__:
                raise kind(message)
    return result


def from_first(value: int) -> int:
    """The `value` of process 0, in every process."""
    if jax.process_count() == 1:
        return value
    return int(multihost_utils.broadcast_one_to_all(np.int64(value)))


def _gather(text: str) -> list[str]:
    """The texts of all processes, in their order."""
    if jax.process_count() == 1:
        return [text]
    padded = np.frombuffer(text.encode()[:LONGEST].ljust(LONGEST, b"\0"), np.uint8)
    rows = np.asarray(multihost_utils.process_allgather(padded))
    return [row.tobytes().rstrip(b"\0").decode(errors="replace") for row in rows]
