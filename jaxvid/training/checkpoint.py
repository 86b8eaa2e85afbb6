"""Checkpoints: the state of a step on disk, written in the background, whole or not at all.

Two parts lie side by side: `ema`, which sampling reads alone, and `train`, which resuming needs as
well. The position in the data and all randomness follow from the step, so there is nothing else.
"""

import contextlib
import os
import sys
from pathlib import Path
from typing import Any

import jax
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp

from jaxvid.errors import InputError
from jaxvid.training.state import TrainState

POLICIES = ocp.training.preservation_policies


class Checkpoints:
    """The checkpoints of a work directory. Use as a context manager: leaving waits for the disk.

    Args:
      workdir: they lie in `workdir/checkpoints/STEP`.
      keep: how many of the newest to keep; None only reads, and leaves everything in its place,
        for the run that the directory belongs to may be going on.
    """

    def __init__(self, workdir: Path, keep: int | None = None):
        self.folder = workdir.absolute() / "checkpoints"
        self._keep = keep
        self._pending: tuple[int, Any] | None = None
        self._open()

    def _open(self) -> None:
        self._orbax = ocp.training.Checkpointer(
            self.folder,
            preservation_policy=POLICIES.LatestN(self._keep),
            cleanup_tmp_directories=self._keep is not None,
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: Any) -> None:
        try:
            self.wait()
        finally:
            # A save that failed has been told by `wait`; Orbax would raise its history again.
            with contextlib.suppress(Exception):
                self._orbax.close()

    @property
    def steps(self) -> list[int]:
        """Steps with a checkpoint, oldest first."""
        return sorted(c.step for c in self._orbax.checkpoints)

    def save(self, step: int, state: TrainState) -> None:
        """Starts to write; the state may be given up as soon as this returns.

        Raises InputError if this save, or the one before it, cannot be written.
        """
        self.wait()
        if step in self.steps:
            return
        parts = {
            "ema": state.ema,
            "train": {"step": state.step, "params": state.params, "opt_state": state.opt_state},
        }
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
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        return InputError(
            f"the checkpoint of step {step} could not be written to {self.folder} ({reason}); "
            f"{last}. Make room, then run the same command to go on from it"
        )

    def restore(self, abstract: TrainState) -> TrainState | None:
        """The state of the newest checkpoint that can be read, or None where there is none.

        A damaged one is reported, put aside as `checkpoints-damaged/STEP` unless this only reads,
        and the one before it is used. `abstract` has the shapes, dtypes and shardings wanted.
        """
        parts = {
            "ema": abstract.ema,
            "train": {
                "step": abstract.step,
                "params": abstract.params,
                "opt_state": abstract.opt_state,
            },
        }
        found = self._load(parts)
        return None if found is None else TrainState(ema=found["ema"], **found["train"])

    def restore_ema(self, abstract: Any) -> Any:
        """The averaged parameters of the newest checkpoint; InputError where there is none."""
        found = self._load({"ema": abstract})
        if found is None:
            raise InputError(f"{self.folder}: no checkpoint is there yet; train first")
        return found["ema"]

    def _load(self, parts: dict[str, Any]) -> dict[str, Any] | None:
        for step in reversed(self.steps):
            try:
                return self._orbax.load_checkpointables(step, parts)
            except Exception as error:
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                if jax.process_index() == 0:
                    print(
                        f"warning: the checkpoint of step {step} is damaged ({reason[:100]}…); "
                        "the one before it is used",
                        file=sys.stderr,
                    )
                if self._keep is not None:
                    self._put_aside(step)
        return None

    def _put_aside(self, step: int) -> None:
        self._orbax.close()
        aside = self.folder.with_name("checkpoints-damaged")
        if jax.process_index() == 0:
            aside.mkdir(exist_ok=True)
            os.replace(self.folder / str(step), aside / str(step))
        multihost_utils.sync_global_devices("damaged checkpoint put aside")
        self._open()
