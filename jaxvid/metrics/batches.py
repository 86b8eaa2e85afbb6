"""Functions of clips on all devices of a mesh, in batches of a fixed size."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxvid.metrics.metric import Clips, Features
from jaxvid.parallel import rules
from jaxvid.parallel.hosts import to_hosts


def on_devices(
    function: Callable[..., Any], params: Any, mesh: Mesh, each: int
) -> Callable[..., Features]:
    """Makes a function of any number of clips in memory, which gives a row per clip.

    Args:
      function: a pure function of `params` and batches of clips.
      params: arrays in memory; each device gets all of them.
      mesh: the clips of a batch are divided over its devices.
      each: clips that a device takes at once. All batches have the same size, so that the row of a
        clip does not depend on how many there are.
    """
    params = jax.device_put(params, rules.replicated(mesh))
    size, by_clip = each * rules.batch_parts(mesh), rules.batch_sharding(mesh)
    run = jax.jit(function, out_shardings=by_clip)

    def put(clips: Clips) -> jax.Array:
        whole = np.resize(clips, (size, *clips.shape[1:]))
        return jax.make_array_from_callback(whole.shape, by_clip, whole.__getitem__)

    def rows(*clips: Clips) -> Features:
        starts = range(0, len(clips[0]), size)
        parts = [run(params, *(put(x[start : start + size]) for x in clips)) for start in starts]
        return np.concatenate([to_hosts(part) for part in parts])[: len(clips[0])]

    return rows
