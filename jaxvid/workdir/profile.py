"""A profile of some steps: what the devices and the host did, and when."""

import pathlib
import shutil
import tempfile
from collections.abc import Callable
from typing import Any

import jax
from ml_collections import ConfigDict

from jaxvid.config import Rule, declare, is_int, key, requirement
from jaxvid.errors import InputError
from jaxvid.files import Path, is_local, store_of
from jaxvid.workdir.disk import make_folder, writing

WINDOW = Rule(
    "() or (FIRST, COUNT): a step of at least 2, as the first one compiles, and a number of steps",
    lambda v: (
        isinstance(v, tuple | list)
        and all(map(is_int, v))
        and (len(v) == 0 or (len(v) == 2 and v[0] > 1 and v[1] > 0))
    ),
)

declare(
    "log",
    profile=key((), WINDOW, "first step and number of steps to profile; () for none", free=True),
)


class Profile:
    """Traces the steps of `log.profile` in the first process, to `workdir/profile`.

    Args:
      config: of the run.
      workdir: work directory of the run.
      say: is told where the profile is.
    """

    def __init__(self, config: ConfigDict, workdir: Path, say: Callable[[str], None]):
        first, count = config.log.profile or (0, 0)
        self._steps = range(first, first + count)
        self._folder, self._say, self._on = workdir / "profile", say, False
        self._here = self._folder

    def begins(self, step: int) -> bool:
        """Whether `begin` is due after `step`; a run may also resume amid the steps."""
        return step + 1 in self._steps and not self._on

    def begin(self, *_: Any) -> None:
        """Starts to trace."""
        self._on = True
        if jax.process_index() == 0:
            if is_local(self._folder):
                make_folder(self._folder)
            else:  # traced here, then uploaded
                self._here = pathlib.Path(tempfile.mkdtemp(prefix="jaxvid-profile-"))
            options = jax.profiler.ProfileOptions()
            options.python_tracer_level = 0  # every call in Python would be an event
            jax.profiler.start_trace(self._here, profiler_options=options)

    def ends(self, step: int) -> bool:
        """Whether `end` is due after `step`."""
        return self._on and step + 1 not in self._steps

    def end(self, step: int, state: Any) -> None:
        """Writes the trace, when the devices have computed `state`."""
        self._on = False
        if jax.process_index() == 0:
            jax.block_until_ready(state)
            jax.profiler.stop_trace()
            if not is_local(self._folder):
                with writing(self._folder):
                    store = store_of(self._folder)
                    store.put(f"{self._here}/", f"{self._folder}/", recursive=True)
                shutil.rmtree(self._here)
            self._say(
                f"profiled up to step {step}: pip install xprof, then tensorboard --logdir="
                f"{self._folder}; or open its trace.json.gz in ui.perfetto.dev"
            )


@requirement
def _check_window(config: ConfigDict) -> None:
    if config.log.profile and sum(config.log.profile) - 1 > config.steps:
        raise InputError(
            f"config.log.profile={tuple(config.log.profile)}: these steps end after the last one, "
            f"config.steps={config.steps}"
        )
