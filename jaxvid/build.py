"""From a config to all that a run is made of."""

import sys
from collections.abc import Sequence

from jax.sharding import Mesh
from ml_collections import ConfigDict

from jaxvid import config as configs
from jaxvid.errors import InputError
from jaxvid.parallel import mesh as meshes  # noqa: F401
from jaxvid.parallel import rules
from jaxvid.sampling import plans  # noqa: F401
from jaxvid.training import step  # noqa: F401
from jaxvid.workdir import checkpoint, log  # noqa: F401


def default_config() -> ConfigDict:
    """A config in which every key has its default: what a config file starts from."""
    return configs.defaults()


def check_mesh(config: ConfigDict, mesh: Mesh) -> None:
    """Raises InputError if the batch or the width does not divide over the mesh."""
    parts, accumulate = rules.batch_parts(mesh), config.optimizer.accumulate
    if config.batch_size // accumulate % parts:
        raise InputError(
            f"config.batch_size={config.batch_size} in config.optimizer.accumulate={accumulate} "
            f"part(s) does not divide over the {parts} devices of the mesh's replica, data and "
            f"fsdp axes: make it a multiple of {parts * accumulate}"
        )
    if config.model.width % mesh.shape["fsdp"]:
        raise InputError(
            f"config.model.width={config.model.width} does not divide over config.mesh.fsdp="
            f"{mesh.shape['fsdp']}"
        )


def check_labels(config: ConfigDict, labels: Sequence[str]) -> None:
    """Raises InputError if the network's classes are not those of the data."""
    if config.model.labels and config.model.labels != len(labels):
        raise InputError(
            f"config.model.labels={config.model.labels}, but the data has {len(labels)} classes"
            f"{': ' + ', '.join(labels[:8]) if labels else ''}; set it to {len(labels)}, or to 0 "
            "to train without them"
        )


if __name__ == "__main__":
    sys.stdout.write(configs.document())
