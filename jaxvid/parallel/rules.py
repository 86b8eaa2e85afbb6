"""The one table from logical names, which arrays carry, to mesh axes, which devices have."""

from typing import Any

import jax
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding, PartitionSpec

# "embed" is the width of a parameter, "width" that of an activation: parameters are spread over
# `fsdp` and gathered when used, activations are spread by their batch.
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
    """A `NamedSharding` for each array of a tree that Flax's logical partitioning boxes name."""
    return nn.logical_to_mesh_sharding(nn.get_partition_spec(boxed), mesh, RULES)


def like_params(tree: Any, of_params: Any, otherwise: NamedSharding) -> Any:
    """Shardings of an optimizer's state: arrays kept per parameter lie as the parameters do.

    Args:
      tree: arrays, of which those kept per parameter have the parameter's path at their path's end.
      of_params: the parameters' shardings.
      otherwise: the sharding of all else.
    """
    table = dict(jax.tree_util.tree_leaves_with_path(of_params))

    def find(path: tuple, _: Any) -> NamedSharding:
        ends = (path[i:] for i in range(len(path)))
        return next((table[end] for end in ends if end in table), otherwise)

    return jax.tree_util.tree_map_with_path(find, tree)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Of arrays whose first dimension is the batch."""
    return NamedSharding(mesh, PartitionSpec(dict(RULES)["batch"]))


def replicated(mesh: Mesh) -> NamedSharding:
    """The same on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_parts(mesh: Mesh) -> int:
    """Into how many equal parts a batch is split."""
    parts = 1
    for axis in dict(RULES)["batch"]:
        parts *= mesh.shape[axis]
    return parts


def bytes_per_device(tree: Any) -> int:
    """Bytes that one device holds of a tree of arrays."""
    return sum(
        x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(tree) if x.addressable_shards
    )
