"""Checkpoints and snapshots: a step on disk, written in the background, whole or not at all.

Both hold plain trees of arrays by name, their parts. A checkpoint has two: `ema`, which sampling
reads alone, and `train`, which resuming needs as well. The position in the data and all randomness
follow from the step, so nothing else is saved. A snapshot has a part for each power-function
average, and is never deleted.
"""

import contextlib
import functools
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from jaxvid.config import POSITIVE, declare, key
from jaxvid.errors import InputError
from jaxvid.workdir import reading
from jaxvid.workdir.agree import Damaged, from_first, together
from jaxvid.workdir.disk import writing

declare(
    "checkpoint",
    every=key(2000, POSITIVE, "steps between checkpoints", free=True),
    keep=key(3, POSITIVE, "how many of the newest stay", free=True),
)

POLICIES = ocp.training.preservation_policies
NAMES = ocp.path.step.standard_name_format()


class _Saves(contextlib.AbstractContextManager):
    """What is in `workdir/NAMEs/STEP`. Use as a context manager: leaving waits for the disk."""

    name: str
    policy: Any  # which of them to keep
    write: bool  # if not, everything stays in its place: the run may be going on

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
            # `wait` has reported a save that failed; Orbax would raise its history again.
            with contextlib.suppress(Exception):
                self._close()

    @property
    def steps(self) -> list[int]:
        """Steps that are on disk, oldest first."""
        try:
            return sorted(saved.step for saved in NAMES.find_all(self.folder))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise InputError(f"{self.folder} cannot be read ({error.strerror})") from error

    def _newest(self, below: int | None = None) -> int:
        """The newest step that process 0 sees, before `below` if given; -1 if there is none."""
        steps = together(lambda: self.steps)
        return from_first(max((s for s in steps if below is None or s < below), default=-1))

    def _save(self, step: int, parts: Mapping[str, Any]) -> None:
        self.wait()
        if step in self.steps:
            return
        try:
            response = self._orbax.save_checkpointables_async(step, dict(parts), force=True)
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
            f"({reading.first_line(error)}); {last}. Make room, then run the same command to go on"
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
        self._aside = self.folder.with_name("checkpoints-damaged")

    def save(self, step: int, parts: Mapping[str, Any]) -> None:
        """Starts to write; the arrays may be given up as soon as this returns.

        Raises InputError if this save, or the one before it, cannot be written.
        """
        self._save(step, parts)

    def restore(self, wanted: Mapping[str, Any]) -> dict[str, Any] | None:
        """Reads parts of the newest checkpoint that is whole; None where a run has yet to begin.

        A damaged checkpoint is reported, put aside in `checkpoints-damaged/` unless this only
        reads, and the one before it is used. All processes decide alike.

        Args:
          wanted: by part, a tree with the shapes, dtypes and shardings wanted.

        Raises:
          InputError: no checkpoint is left although there were some; the newest has other arrays
            than those wanted; or memory or the file system failed. Everything stays in its place.
        """
        step = self._newest()
        while step >= 0:
            try:
                return together(lambda step=step: reading.read(self.folder / str(step), wanted))
            except Damaged as error:
                before = self._newest(below=step)
                self._report(step, before, error)
                if self.write:
                    self._put_aside(step)
                step = before
        together(self._check_never_begun)
        return None

    def restore_part(self, part: str, wanted: Any, step: int | None = None) -> Any:
        """One part of the newest checkpoint that is whole, or of that of `step`.

        Args:
          part: such as "ema"; "train/params" is a tree within the part "train".
          wanted: a tree with the shapes, dtypes and shardings wanted.
          step: of the checkpoint.

        Raises:
          InputError: as `restore` does, or there is no checkpoint.
        """
        if step is not None:
            return self._read(step, lambda folder: reading.read(folder, {part: wanted}))[part]
        found = self.restore({part: wanted})
        if found is None:
            raise InputError(f"{self.folder}: there is no checkpoint yet; train first")
        return found[part]

    def _read(self, step: int, read: Any) -> Any:
        def find_and_read() -> Any:
            if step not in self.steps:
                there = ", ".join(map(str, self.steps)) or "none"
                raise InputError(f"{self.folder} has no checkpoint of step {step}; it has {there}")
            return read(self.folder / str(step))

        try:
            return together(find_and_read)
        except Damaged as error:
            raise InputError(f"{self.folder / str(step)} is damaged ({error})") from error

    def _report(self, step: int, before: int, error: Damaged) -> None:
        if jax.process_index() == 0:
            then = f"; that of step {before} is used" if before >= 0 else ""
            print(
                f"warning: the checkpoint of step {step} is damaged ({error}){then}",
                file=sys.stderr,
            )

    def _put_aside(self, step: int) -> None:
        self._close()

        def move() -> None:
            if jax.process_index() == 0:
                with writing(self._aside):
                    self._aside.mkdir(exist_ok=True)
                    target = tempfile.mkdtemp(prefix=f"{step}-", dir=self._aside)
                    os.replace(self.folder / str(step), target)

        together(move)

    def _check_never_begun(self) -> None:
        damaged = self._aside.is_dir() and any(self._aside.iterdir())
        if not self.steps and not damaged:
            return
        where = f", and {self._aside} holds damaged ones" if damaged else ""
        raise InputError(
            f"{self.folder} holds no checkpoint that can be used{where}. A run does not start anew "
            "by itself where another was: restore a checkpoint from a copy, give another "
            "--workdir, or delete these folders to start from step 0"
        )


def start_from(path: Path, params: Any, part: str = "ema") -> tuple[Any, reading.Taken]:
    """Initial parameters for a new run: those of another run where they fit.

    Args:
      path: the other run's work directory, or one of its `checkpoints/STEP`.
      params: the new network's own initial parameters; their shardings are kept.
      part: "ema", or "train/params" for those that are not averaged.

    Returns:
      The parameters; and which were taken, which were left, and why.

    Raises:
      InputError: there is no such checkpoint, it cannot be read, or nothing of it fits.
    """
    path = path.absolute()
    chosen = path.name.isdigit() and path.parent.name == "checkpoints"
    with Checkpoints(path.parents[1] if chosen else path) as checkpoints:
        step = int(path.name) if chosen else checkpoints._newest()
        if step < 0:
            raise InputError(
                f"{path}: no checkpoint is there to start from; give the work directory of a run, "
                "or one of its checkpoints/STEP"
            )
        return checkpoints._read(step, lambda folder: reading.read_fitting(folder, part, params))


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

    def averages(self, wanted: Any) -> Iterator[Any]:
        """The averages that were kept, one at a time: by step, and within a step by width.

        Args:
          wanted: the shapes, dtypes and shardings of the parameters.

        Raises:
          InputError: at once, if none were kept; on the way, for one that cannot be read.
        """
        if not self.widths:
            raise InputError(
                f"the run in {self.folder.parent} kept no profiles (its config.ema.widths is "
                "empty): use the plain EMA, or train with --config.ema.widths='(0.05, 0.1)'"
            )
        if not self.steps:
            raise InputError(f"{self.folder}: there is no snapshot yet; train first")
        return (
            self._load(step, str(width), wanted) for step in self.steps for width in self.widths
        )

    def _load(self, step: int, part: str, wanted: Any) -> Any:
        folder = self.folder / str(step)
        try:
            return together(lambda: reading.read(folder, {part: wanted}))[part]
        except Damaged as error:
            raise InputError(
                f"{folder} is damaged ({error}): move it away to use the others"
            ) from error
