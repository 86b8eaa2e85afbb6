"""The table that maps logical axis names of arrays to axes of the mesh."""

import functools
import math
from typing import Any

import jax
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxvid.errors import InputError

# "embed" is the width of a parameter, "width" that of an activation: parameters are sharded over
# `fsdp` and gathered for use, while activations are sharded along their batch.
RULES = (
    ("batch", ("replica", "data", "fsdp")),
    ("frames", None),
    ("tokens", None),
    ("width", None),
    ("embed", "fsdp"),
    ("mlp", "tensor"),
    ("heads", "tensor"),
    ("patch", None),
    ("layers", None),
)


def shardings(mesh: Mesh, boxed: Any) -> Any:
    """A `NamedSharding` for each array of a tree with Flax's logical partitioning boxes."""
    return nn.logical_to_mesh_sharding(nn.get_partition_spec(boxed), mesh, RULES)


def check_divides(mesh: Mesh, boxed: Any) -> None:
    """Raises InputError if an array of a tree with Flax's boxes does not divide over the mesh."""
    shapes = nn.meta.unbox(boxed)
    for path, sharding in jax.tree_util.tree_leaves_with_path(shardings(mesh, boxed)):
        shape = functools.reduce(lambda tree, step: tree[step.key], path, shapes).shape
        for size, axis in zip(shape, sharding.spec, strict=False):
            if axis is not None and size % mesh.shape[axis]:
                name = "/".join(step.key for step in path)
                raise InputError(
                    f"config.mesh.{axis}={mesh.shape[axis]}: a side of {size} of the parameter "
                    f"{name} does not divide over it; change the mesh or the model"
                )


def like_params(tree: Any, of_params: Any, otherwise: NamedSharding) -> Any:
    """Shardings of an optimizer's state: per-parameter arrays are sharded like their parameter.

    Args:
      tree: the state. The path of a per-parameter array ends with the path of its parameter.
      of_params: shardings of the parameters.
      otherwise: sharding of all other arrays.
    """
    table = dict(jax.tree_util.tree_leaves_with_path(of_params))

    def find(path: tuple, _: Any) -> NamedSharding:
        ends = (path[i:] for i in range(len(path)))
        return next((table[end] for end in ends if end in table), otherwise)

    return jax.tree_util.tree_map_with_path(find, tree)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The sharding of arrays whose first dimension is the batch."""
    return NamedSharding(mesh, PartitionSpec(dict(RULES)["batch"]))


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of arrays that every device holds in full."""
    return NamedSharding(mesh, PartitionSpec())


def batch_parts(mesh: Mesh) -> int:
    """The number of equal parts into which a batch is split."""
    parts = 1
    for axis in dict(RULES)["batch"]:
        parts *= mesh.shape[axis]
    return parts


def bytes_per_device(tree: Any) -> int:
    """The bytes of a tree of arrays on one device."""
    return sum(
        x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(tree) if x.addressable_shards
    )


def bytes_of_part(tree: Any) -> int:
    """The bytes of a device's part of a tree of abstract arrays; whole without a sharding."""
    return sum(
        math.prod(x.sharding.shard_shape(x.shape) if x.sharding else x.shape) * x.dtype.itemsize
        for x in jax.tree.leaves(tree)
    )
