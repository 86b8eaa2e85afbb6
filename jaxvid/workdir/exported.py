"""One file with the weights of a model and its config, in the format safetensors.

Its arrays have the names of the parameters, such as "blocks_0/space_0/qkv/kernel". Reading it runs
no code of whoever wrote it.
"""

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import safetensors
import safetensors.numpy
from ml_collections import ConfigDict

from jaxvid.config import complete
from jaxvid.errors import InputError
from jaxvid.files import Path, local
from jaxvid.workdir import reading
from jaxvid.workdir.disk import write_whole
from jaxvid.workdir.migrations import FORMAT, upgrade_config

SUFFIX = ".safetensors"


def write(path: Path, params: Any, config: ConfigDict) -> None:
    """Writes the parameters of a model, and the config of its run.

    Raises InputError if the file cannot be written.
    """
    arrays = {name: np.asarray(x) for name, x in reading.leaves(params).items()}
    about = {"format": FORMAT, "config": json.loads(config.to_json())}
    content = safetensors.numpy.save(arrays, {"jaxvid": json.dumps(about, sort_keys=True)})
    write_whole(path, content)


def read_config(path: Path) -> ConfigDict:
    """The config in a file, with current keys; raises InputError if it has none."""
    with _opened(path) as file:
        about = (file.metadata() or {}).get("jaxvid")
        if about is None:
            raise InputError(f"{path} has no config: give a file that jaxvid.export wrote")
        return complete(upgrade_config(json.loads(about)))


def read(path: Path, wanted: Any) -> Any:
    """The parameters in a file, in the shapes, dtypes and shardings of `wanted`.

    Raises InputError if an array is missing, of another shape, or cannot be read.
    """
    params, taken = read_fitting(path, wanted)
    if taken.left:
        name, why = next(iter(taken.left.items()))
        raise InputError(f"{path}: its arrays are not those of its config: {name} ({why})")
    return params


def read_fitting(path: Path, params: Any) -> tuple[Any, reading.Taken]:
    """Replaces each array of `params` that the file has with the same name and shape.

    Raises InputError if no array fits, or the file cannot be read.
    """
    with _opened(path) as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        shapes = {name: tuple(x.get_shape()) for name, x in slices.items()}
        fits, left = reading.fitting(path, shapes, params)

        def choose(where: Any, leaf: Any) -> Any:
            name = reading.name_of(where)
            if name not in fits:
                return leaf
            x = slices[fits[name]]
            return jax.make_array_from_callback(
                leaf.shape, leaf.sharding, lambda part: np.asarray(x[part], leaf.dtype)
            )

        return jax.tree_util.tree_map_with_path(choose, params), reading.Taken([*fits], left)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """An open file, here or a copy of one in a bucket."""
    try:
        with local(path) as here, safetensors.safe_open(here, framework="numpy") as file:
            yield file
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is no file of jaxvid.export, or damaged ({error})") from error
