"""Which part of an array is a host's, and arrays of all hosts on each of them."""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Bool, Int32, Shaped


class Share(NamedTuple):
    """A host's rows of a batch: the parts `mine` of `of` equal parts."""

    mine: tuple[int, ...] = (0,)
    of: int = 1


def share_of(sharding: NamedSharding, parts: int, process: int | None = None) -> Share:
    """The rows of a batch that the devices of a process hold, whatever the order of the devices.

    Processes whose devices divide something else, such as heads, hold the same rows.

    Args:
      sharding: of arrays whose first axis is the batch.
      parts: into how many it divides the batch.
      process: its index; by default this one.
    """
    process = jax.process_index() if process is None else process
    of_device = sharding.devices_indices_map((parts,)).items()
    rows = (
        range(parts)[index[0]] for device, index in of_device if device.process_index == process
    )
    return joined(set(itertools.chain.from_iterable(rows)), parts)


def joined(mine: set[int], of: int) -> Share:
    """The share of these parts, with as many neighbours as possible in one part."""
    ends = [i for i in range(of + 1) if (i in mine) != (i - 1 in mine)]
    size = math.gcd(*ends, of)
    return Share(tuple(sorted(i // size for i in mine if i % size == 0)), of // size)


def put(batch: Any, sharding: jax.sharding.Sharding, share: Share) -> Any:
    """Puts a tree of arrays [b,...], this host's share of batches, on the devices, as [B,...]."""
    mine, of = share

    def to_global(x: np.ndarray) -> jax.Array:
        size = len(x) // len(mine)

        def part(index: tuple[slice, ...]) -> np.ndarray:
            start, end, _ = index[0].indices(size * of)
            first = mine.index(start // size) * size + start % size
            return x[(slice(first, first + end - start), *index[1:])]

        return jax.make_array_from_callback((size * of, *x.shape[1:]), sharding, part)

    with jax.transfer_guard_host_to_device("allow"):
        return jax.tree.map(to_global, batch)


def put_whole(batch: Any, sharding: jax.sharding.Sharding) -> Any:
    """`put`, where every host has all rows."""
    return put(batch, sharding, Share())


def to_hosts(x: Shaped[jax.Array, "B ..."]) -> Shaped[np.ndarray, "B ..."]:
    """An array on a mesh, whole, on every host. Every host must call this.

    Rows come one at a time where hosts have different ones, so a device holds no more than a row.
    """
    if x.is_fully_addressable or x.is_fully_replicated:
        return np.asarray(x)
    row = _row(NamedSharding(x.sharding.mesh, PartitionSpec()))
    return np.stack([np.asarray(row(x, i)) for i in range(len(x))])


def union(values: Sequence[Int32[np.ndarray, "..."]]) -> Int32[np.ndarray, " n"]:
    """The values of all hosts that are not negative, each once. Every host must call this."""
    mine = _natural(np.concatenate([np.ravel(x) for x in values]))
    if jax.process_count() == 1:
        return mine
    most = int(multihost_utils.process_allgather(np.int32(len(mine))).max())
    padded = np.pad(mine, (0, most - len(mine)), constant_values=-1)
    return _natural(multihost_utils.process_allgather(padded)) if most else mine


def any_host(mesh: Mesh) -> Callable[[bool], Bool[jax.Array, ""]]:
    """Returns a function of a host's answer: whether any host's is yes. Every host must call it.

    It does not wait for the others; who looks at its result does.
    """
    each = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    any_of = jax.jit(jnp.any, out_shardings=NamedSharding(mesh, PartitionSpec()))
    return lambda mine: any_of(
        jax.make_array_from_callback((mesh.size,), each, lambda _: np.array([mine]))
    )


def _natural(values: Int32[np.ndarray, "..."]) -> Int32[np.ndarray, " n"]:
    return np.unique(values[values >= 0])


@functools.lru_cache
def _row(whole: NamedSharding):
    return jax.jit(lambda x, i: x[i], out_shardings=whole)
