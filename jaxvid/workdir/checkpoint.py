"""Checkpoints and snapshots: a step on disk, written atomically in the background.

Both consist of named parts, which are plain trees of arrays. A checkpoint has two: `ema` is all
that sampling needs, and resuming also needs `train`. The position in the data and all randomness
follow from the step, so nothing else is saved. A snapshot has a part for each power-function
average, and is never deleted.
"""

import contextlib
import functools
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import optax
from orbax.checkpoint import v1 as ocp

from jaxvid.config import POSITIVE, declare, key
from jaxvid.errors import InputError
from jaxvid.files import Path, absolute
from jaxvid.workdir import exported, reading
from jaxvid.workdir.agree import Damaged, from_first, together
from jaxvid.workdir.disk import move_into

declare(
    "checkpoint",
    every=key(2000, POSITIVE, "steps between checkpoints", free=True),
    keep=key(3, POSITIVE, "number of newest checkpoints to keep", free=True),
)

POLICIES = ocp.training.preservation_policies
NAMES = ocp.path.step.standard_name_format()


def steps_in(folder: Path) -> list[int]:
    """The steps that were saved to a folder, oldest first; one whose save did not end is not there.

    Raises InputError if the folder cannot be read.
    """
    try:
        return sorted(saved.step for saved in NAMES.find_all(folder))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise InputError(f"{folder} cannot be read ({error.strerror or error})") from error


class _Saves(contextlib.AbstractContextManager):
    """The saved steps in `workdir/NAMEs/STEP`. A context manager, whose exit waits for the disk."""

    name: str
    policy: Any  # which steps to keep
    write: bool  # if False, nothing is moved or deleted, because the run may still be active

    def __init__(self, workdir: Path):
        self.folder = absolute(workdir) / f"{self.name}s"
        self._pending: tuple[int, Any] | None = None

    @functools.cached_property
    def _orbax(self) -> ocp.training.Checkpointer:
        # Checkpoints and snapshots may be written at once; the prefix keeps their barriers apart.
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
            # `wait` has reported a failed save; Orbax would raise it again.
            with contextlib.suppress(Exception):
                self._close()

    @property
    def steps(self) -> list[int]:
        """Steps on disk, oldest first."""
        return steps_in(self.folder)

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
        """Waits until the pending save is on disk; raises InputError if it failed."""
        if self._pending is None:
            return
        (step, response), self._pending = self._pending, None
        try:
            response.result()
        except Exception as error:
            raise self._failed(step, error) from error

    def _failed(self, step: int, error: Exception) -> InputError:
        whole = [s for s in self.steps if s != step]
        last = f"the last good one is of step {whole[-1]}" if whole else "there is no earlier one"
        return InputError(
            f"the {self.name} of step {step} could not be written to {self.folder} "
            f"({reading.first_line(error)}); {last}. Make room, then run the same command to resume"
        )


class Checkpoints(_Saves):
    """The checkpoints of a run, in `workdir/checkpoints`.

    Args:
      workdir: work directory of the run.
      keep: number of newest checkpoints to keep; None only reads.
    """

    name = "checkpoint"

    def __init__(self, workdir: Path, keep: int | None = None):
        super().__init__(workdir)
        self.policy, self.write = POLICIES.LatestN(keep), keep is not None
        self._aside = self.folder.with_name("checkpoints-damaged")

    def save(self, step: int, parts: Mapping[str, Any]) -> None:
        """Starts to write; the arrays may be deleted or donated when this returns.

        Raises InputError if this save, or the previous one, cannot be written.
        """
        self._save(step, parts)

    def restore(self, wanted: Mapping[str, Any]) -> dict[str, Any] | None:
        """Reads parts of the newest undamaged checkpoint; None if the run has no checkpoint yet.

        A damaged checkpoint is reported, and the previous one is used. If this object may write, it
        moves the damaged one to `checkpoints-damaged/`. All processes make the same decision.

        Args:
          wanted: for each part, a tree with the wanted shapes, dtypes and shardings.

        Raises:
          InputError: all checkpoints are damaged; the newest has other arrays than `wanted`; or
            memory or the file system failed. In the last two cases nothing is moved.
        """
        step = self._newest()
        while step >= 0:
            try:
                return together(lambda step=step: reading.read(self.folder / str(step), wanted))
            except Damaged as error:
                before = self._newest(below=step)
                self._report(step, before, error)
                if self.write:
                    self._move_away(step)
                step = before
        together(self._check_no_checkpoint)
        return None

    def restore_part(self, part: str, wanted: Any, step: int | None = None) -> Any:
        """Reads one part of the newest undamaged checkpoint, or of the checkpoint of `step`.

        Args:
          part: name such as "ema"; "train/params" is a tree within the part "train".
          wanted: a tree with the wanted shapes, dtypes and shardings.
          step: step of the checkpoint.

        Raises:
          InputError: as in `restore`, or there is no checkpoint.
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

    def _move_away(self, step: int) -> None:
        self._close()

        def move() -> None:
            if jax.process_index() == 0:
                move_into(self.folder / str(step), self._aside)

        together(move)

    def _check_no_checkpoint(self) -> None:
        damaged = self._aside.is_dir() and any(self._aside.iterdir())
        if not self.steps and not damaged:
            return
        where = f", and {self._aside} has damaged ones" if damaged else ""
        raise InputError(
            f"{self.folder} has no usable checkpoint{where}. A new run does not replace an old "
            "one: restore a checkpoint from a copy, give another --workdir, or delete these "
            "folders to start from step 0"
        )


def start_from(path: Path, params: Any, part: str = "ema") -> tuple[Any, reading.Taken]:
    """Initial parameters for a new run: those of another run where they fit.

    Args:
      path: the other run's work directory, one of its `checkpoints/STEP`, or a file of
        `exported`.
      params: the initial parameters of the new network; their shardings are kept.
      part: "ema", or "train/params" for the raw parameters.

    Returns:
      The parameters; and a report of which were taken, which were not, and why.

    Raises:
      InputError: there is no such checkpoint, it cannot be read, or none of its arrays fits.
    """
    path = absolute(path)
    if path.suffix == exported.SUFFIX:
        return exported.read_fitting(path, params)
    chosen = path.name.isdigit() and path.parent.name == "checkpoints"
    with Checkpoints(path.parents[1] if chosen else path) as checkpoints:
        step = int(path.name) if chosen else checkpoints._newest()
        if step < 0:
            raise InputError(
                f"{path}: there is no checkpoint to start from; give the work directory of a run, "
                "or one of its checkpoints/STEP"
            )
        return checkpoints._read(step, lambda folder: reading.read_fitting(folder, part, params))


class Best(_Saves):
    """The EMA weights with the best score so far, in `workdir/best`.

    Args:
      workdir: work directory of the run.
      write: False only reads.
    """

    name = "best checkpoint"
    policy = POLICIES.LatestN(1)

    def __init__(self, workdir: Path, write: bool = False):
        super().__init__(workdir)
        self.folder, self.write = absolute(workdir) / "best", write

    def save(self, step: int, ema: Any) -> None:
        """Starts to write weights that replace those before; see `Checkpoints.save`."""
        self._save(step, {"ema": ema})

    def restore(self, wanted: Any) -> Any:
        """Reads the weights, in the shapes, dtypes and shardings of `wanted`.

        Raises InputError if there are none, or they cannot be read.
        """
        step = self._newest()
        if step < 0:
            raise InputError(
                f"{self.folder}: no checkpoint was best; train with config.evals.every and "
                "config.evals.best"
            )
        try:
            return together(lambda: reading.read(self.folder / str(step), {"ema": wanted}))["ema"]
        except Damaged as error:
            raise InputError(f"{self.folder / str(step)} is damaged ({error})") from error


class Snapshots(_Saves):
    """The snapshots of a run's power-function averages, in `workdir/snapshots`.

    Args:
      workdir: work directory of the run.
      widths: relative widths of the averages.
      dtype: the type of the averages in new snapshots; None only reads.
    """

    name = "snapshot"
    policy = POLICIES.PreserveAll()

    def __init__(self, workdir: Path, widths: Sequence[float], dtype: str | None = None):
        super().__init__(workdir)
        self.widths, self.write = tuple(widths), dtype is not None
        self._cast = jax.jit(lambda tree: optax.tree.cast(tree, dtype))

    def save(self, step: int, profiles: Sequence[Any]) -> None:
        """Starts to write the snapshot, unless it exists; see `Checkpoints.save`."""
        self._save(step, dict(zip(map(str, self.widths), self._cast(profiles), strict=True)))

    def averages(self, wanted: Any) -> Iterator[Any]:
        """Yields the saved averages one at a time, ordered by step and then by width.

        Args:
          wanted: the shapes, dtypes and shardings of the parameters; saved dtypes are converted.

        Raises:
          InputError: at once, if there are none; from the iterator, if one cannot be read.
        """
        if not self.widths:
            raise InputError(
                f"the run in {self.folder.parent} has no snapshots (its config.ema.widths is "
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
            return together(lambda: reading.read(folder, {part: wanted}, cast=True))[part]
        except Damaged as error:
            raise InputError(
                f"{folder} is damaged ({error}): move it away to use the others"
            ) from error
