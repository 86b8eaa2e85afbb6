"""Checkpoints and snapshots: a step on disk, written in the background, whole or not at all.

Of a checkpoint two parts lie side by side: `ema`, which sampling reads alone, and `train`, which
resuming needs as well. The position in the data and all randomness follow from the step, so there
is nothing else. A snapshot has a part for each power-function average, and stays for ever.
"""

import contextlib
import functools
import os
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp

from jaxvid.config import POSITIVE, declare, key
from jaxvid.errors import InputError
from jaxvid.training import ema

declare(
    "checkpoint",
    every=key(2000, POSITIVE, "steps between checkpoints", free=True),
    keep=key(3, POSITIVE, "how many of the newest stay", free=True),
)


POLICIES = ocp.training.preservation_policies
LONGEST = 160  # letters of another library's error that are told


class _Saves(contextlib.AbstractContextManager):
    """What lies in `workdir/NAMEs/STEP`. Use as a context manager: leaving waits for the disk.

    The folder is made when it is first looked into.
    """

    name: str
    policy: Any  # which of them to keep
    write: bool  # if not, all is left in its place: the run it belongs to may be going on

    def __init__(self, workdir: Path):
        self.folder = workdir.absolute() / f"{self.name}s"
        self._pending: tuple[int, Any] | None = None

    @functools.cached_property
    def _orbax(self) -> ocp.training.Checkpointer:
        # Two of these may write at once: without names of their own, processes would mix them up.
        context = ocp.Context()
        context.multiprocessing.barrier_sync_key_prefix = self.name
        return ocp.training.Checkpointer(
            self.folder,
            context=context,
            preservation_policy=self.policy,
            cleanup_tmp_directories=self.write,
        )

    def _close(self) -> None:
        if "_orbax" in vars(self):
            vars(self).pop("_orbax").close()

    def __exit__(self, *_: Any) -> None:
        try:
            self.wait()
        finally:
            # A save that failed has been told by `wait`; Orbax would raise its history again.
            with contextlib.suppress(Exception):
                self._close()

    @property
    def steps(self) -> list[int]:
        """Steps that are on disk, oldest first."""
        return sorted(c.step for c in self._orbax.checkpoints)

    def _save(self, step: int, parts: dict[str, Any]) -> None:
        self.wait()
        if step in self.steps:
            return
        try:
            response = self._orbax.save_checkpointables_async(step, parts, force=True)
        except Exception as error:
            raise self._failed(step, error) from error
        self._pending = (step, response)

    def wait(self) -> None:
        """Returns when what was begun is on disk; raises InputError if it could not be written."""
        if self._pending is None:
            return
        (step, response), self._pending = self._pending, None
        try:
            response.result()
        except Exception as error:
            raise self._failed(step, error) from error

    def _failed(self, step: int, error: Exception) -> InputError:
        whole = [s for s in self.steps if s != step]
        last = f"the last good one is of step {whole[-1]}" if whole else "there is none before it"
        return InputError(
            f"the {self.name} of step {step} could not be written to {self.folder} "
            f"({_line(error)}); {last}. Make room, then run the same command to go on"
        )


class Checkpoints(_Saves):
    """The checkpoints of a run, in `workdir/checkpoints`.

    Args:
      workdir: of the run.
      keep: how many of the newest to keep; None only reads.
    """

    name = "checkpoint"

    def __init__(self, workdir: Path, keep: int | None = None):
        super().__init__(workdir)
        self.policy, self.write = POLICIES.LatestN(keep), keep is not None

    def save(self, step: int, state: Any) -> None:
        """Starts to write; the state may be given up as soon as this returns.

        Raises InputError if this save, or the one before it, cannot be written.
        """
        self._save(step, state)

    def restore(self, abstract: Any) -> Any:
        """The state of the newest checkpoint that can be read, or None where there is none.

        A damaged one is reported, put aside in `checkpoints-damaged/` unless this only reads, and
        the one before it is used. `abstract` has the shapes, dtypes and shardings wanted.
        """
        return self._load(abstract)

    def restore_ema(self, abstract: Any) -> Any:
        """The averaged parameters of the newest checkpoint; InputError where there is none."""
        found = self._load({"ema": abstract})
        if found is None:
            raise InputError(f"{self.folder}: no checkpoint is there yet; train first")
        return found["ema"]

    def _load(self, parts: dict[str, Any]) -> dict[str, Any] | None:
        for step in reversed(self.steps):
            try:
                # One by one: where one fails, Orbax would leave the others begun and not awaited.
                return {
                    name: self._orbax.load_checkpointables(step, {name: part})[name]
                    for name, part in parts.items()
                }
            except Exception as error:
                if jax.process_index() == 0:
                    print(
                        f"warning: the checkpoint of step {step} is damaged "
                        f"({_line(error)}); the one before it is used",
                        file=sys.stderr,
                    )
                if self.write:
                    self._put_aside(step)
        return None

    def _put_aside(self, step: int) -> None:
        self._close()
        aside = self.folder.with_name("checkpoints-damaged")
        if jax.process_index() == 0:
            aside.mkdir(exist_ok=True)
            os.replace(self.folder / str(step), tempfile.mkdtemp(prefix=f"{step}-", dir=aside))
        multihost_utils.sync_global_devices("damaged checkpoint put aside")


class Snapshots(_Saves):
    """The snapshots of a run's power-function averages, in `workdir/snapshots`.

    Args:
      workdir: of the run.
      widths: their relative widths.
      write: False only reads.
    """

    name = "snapshot"
    policy = POLICIES.PreserveAll()

    def __init__(self, workdir: Path, widths: Sequence[float], write: bool = False):
        super().__init__(workdir)
        self.widths, self.write = tuple(widths), write

    def save(self, step: int, profiles: Sequence[Any]) -> None:
        """Starts to write what is not there yet, as `Checkpoints.save` does."""
        self._save(step, dict(zip(map(str, self.widths), profiles, strict=True)))

    def average(self, width: float, abstract: Any) -> tuple[Any, float]:
        """The average of any `width` at the newest step, and what is missed: `ema.reconstruct`.

        Raises InputError for a width out of range, and where nothing was kept or can be read.
        `abstract` is that of the parameters.
        """
        if not self.widths:
            raise InputError(
                f"the run in {self.folder.parent} kept no profiles (its config.ema.widths is "
                "empty): use the plain EMA, or train with --config.ema.widths='(0.05, 0.1)'"
            )
        if not self.steps:
            raise InputError(f"{self.folder}: no snapshot is there yet; train first")
        kept = (
            self._load(step, str(width), abstract) for step in self.steps for width in self.widths
        )
        return ema.reconstruct(kept, self.widths, self.steps, width, self.steps[-1])

    def _load(self, step: int, part: str, abstract: Any) -> Any:
        try:
            return self._orbax.load_checkpointables(step, {part: abstract})[part]
        except Exception as error:
            raise InputError(
                f"{self.folder / str(step)} is damaged ({_line(error)}): "
                "take it away to use the others"
            ) from error


def _parts(state: Any) -> dict[str, Any]:
    train = ("step", "params", "profiles", "opt_state")
    return {"ema": state.ema, "train": {name: getattr(state, name) for name in train}}


def _line(error: Exception) -> str:
    """The end of what went wrong first, of which Orbax's own errors only tell the consequence."""
    while error.__cause__ is not None:
        error = error.__cause__
    line = str(error).splitlines()[0] if str(error) else type(error).__name__
    line = re.split(r" \[\w+(?:\[\d+\])?='", line)[0]  # what TensorStore was asked, for pages
    return line if len(line) <= LONGEST else f"…{line[-LONGEST:]}"
