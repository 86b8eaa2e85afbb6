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
    ("frames", "context"),
    ("places", "context"),
    ("width", None),
    ("embed", "fsdp"),
    ("mlp", "tensor"),
    ("heads", "tensor"),
    ("whole heads", ("tensor", "context")),
    ("patch", None),
    ("layers", None),
)


HOST = "pinned_host"  # memory of the hosts that devices can read


def on_device(tree: Any, like: Any) -> Any:
    """Inside `jit`: arrays in the memory of devices, from those of `like` that are on hosts."""

    def fetch(x: jax.Array, abstract: Any) -> jax.Array:
        sharding = abstract.sharding
        if sharding.memory_kind != HOST:
            return x
        return jax.device_put(x, sharding.with_memory_kind("device"))

    return jax.tree.map(fetch, tree, like)


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


def like_params(tree: Any, params: Any, mesh: Mesh, on_host: bool = False) -> Any:
    """Shardings of an optimizer's state: arrays of a parameter's shape are sharded like it.

    Others, such as factors of a second moment, are sharded over `fsdp` along the longest side that
    divides.

    Args:
      tree: the state. The path of a per-parameter array ends with the path of its parameter.
      params: abstract parameters, with their shardings.
      mesh: the mesh of the run.
      on_host: whether the arrays are in the memory of the hosts; single numbers never are.
    """
    table = dict(jax.tree_util.tree_leaves_with_path(params))

    def find(path: tuple, x: Any) -> NamedSharding:
        ends = (path[i:] for i in range(len(path)))
        param = next((table[end] for end in ends if end in table), None)
        if param is not None and param.shape == x.shape:
            sharding = param.sharding
        else:
            longest = sorted(range(x.ndim), key=lambda i: -x.shape[i])
            axis = next((i for i in longest if x.shape[i] % mesh.shape["fsdp"] == 0), x.ndim)
            spec = [None] * axis + ["fsdp"] * (axis < x.ndim)
            sharding = NamedSharding(mesh, PartitionSpec(*spec))
        return sharding.with_memory_kind(HOST) if on_host and x.ndim else sharding

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


def bytes_of_part(tree: Any) -> int:
    """The bytes of a device's part of a tree of arrays, which may be abstract; whole without a
    sharding.
    """
    return sum(
        math.prod(x.sharding.shard_shape(x.shape) if x.sharding else x.shape) * x.dtype.itemsize
        for x in jax.tree.leaves(tree)
    )
