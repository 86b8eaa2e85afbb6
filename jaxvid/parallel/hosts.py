"""Arrays of all hosts of a run, as each of them needs them."""

import functools

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Shaped


def to_hosts(x: Shaped[jax.Array, "B ..."]) -> Shaped[np.ndarray, "B ..."]:
    """An array on a mesh, whole, on every host. Every host must call this.

    Rows come one at a time where hosts have different ones, so a device holds no more than a row.
    """
    if x.is_fully_addressable or x.is_fully_replicated:
        return np.asarray(x)
    row = _row(NamedSharding(x.sharding.mesh, PartitionSpec()))
    return np.stack([np.asarray(row(x, i)) for i in range(len(x))])


@functools.lru_cache
def _row(whole: NamedSharding):
    return jax.jit(lambda x, i: x[i], out_shardings=whole)
