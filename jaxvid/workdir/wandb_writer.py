"""The log of a run in a project of Weights & Biases too: metrics, samples and the config."""

import contextlib
import hashlib
import importlib.util
import io
import os
from collections.abc import Mapping
from typing import SupportsFloat

from ml_collections import ConfigDict

from jaxvid.config import TEXT, declare, flatten, key, requirement
from jaxvid.errors import InputError
from jaxvid.files import Path, absolute, is_local

declare(
    "log",
    wandb=key(
        "",
        TEXT,
        "project (or ENTITY/PROJECT) of Weights & Biases that gets metrics and samples too",
        free=True,
    ),
)


class WandbWriter(contextlib.AbstractContextManager):
    """Writes to Weights & Biases as its own variables say, such as WANDB_MODE=offline.

    A work directory has one run there, which goes on when the run is resumed.

    Args:
      config: of the run; `log.wandb` names the project.
      workdir: of the run; its name is that of the run there.

    Raises:
      InputError: it refuses the run, for example because nobody is logged in.
    """

    def __init__(self, config: ConfigDict, workdir: Path):
        import wandb

        entity, _, project = config.log.wandb.rpartition("/")
        place = str(absolute(workdir))
        try:
            self._run = wandb.init(
                entity=entity or None,
                project=project,
                name=workdir.name,
                id=hashlib.sha256(place.encode()).hexdigest()[:12],
                resume="allow",
                dir=os.environ.get("WANDB_DIR") or (place if is_local(workdir) else None),
                config=flatten(config),
                save_code=False,
            )
        except wandb.Error as error:
            raise InputError(
                f"config.log.wandb={config.log.wandb}: {' '.join(str(error).split())}; run "
                "`wandb login`, set WANDB_MODE=offline, or leave it out"
            ) from error

    def __exit__(self, kind: type | None, *_: object) -> None:
        self._run.finish(exit_code=int(kind is not None))

    def metrics(self, step: int, values: Mapping[str, SupportsFloat]) -> None:
        """Adds metrics of a step. Steps that a resumed run repeats are left as they were."""
        self._run.log({name: float(value) for name, value in values.items()}, step=step)

    def animation(self, step: int, name: str, gif: bytes) -> None:
        """Adds an animated GIF."""
        import wandb

        video = wandb.Video(io.BytesIO(gif), format="gif")
        self._run.log({f"samples/{name}": video}, step=step)


@requirement
def _check_wandb(config: ConfigDict) -> None:
    if config.log.wandb and not importlib.util.find_spec("wandb"):
        raise InputError(f"config.log.wandb={config.log.wandb}: first pip install wandb")
