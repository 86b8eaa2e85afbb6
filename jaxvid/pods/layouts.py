"""Other settings of a run for the same devices: lighter ones, and other shapes of the mesh."""

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from jaxvid.parallel.mesh import AXES

Changes = dict[str, Any]  # new values of keys, by their full names


def changed(config: ConfigDict, changes: Changes) -> ConfigDict:
    """A copy of a config with other values of some keys."""
    copy = config.copy_and_resolve_references()
    copy.update_from_flattened_dict(changes)
    return copy


def written(changes: Changes) -> str:
    """Changes in one line, without axes of size 1, such as "data=4 fsdp=2 batch_size=64"."""
    some = {k: v for k, v in changes.items() if v != 1 or not k.startswith("mesh.")}
    return " ".join(f"{name.removeprefix('mesh.')}={v}" for name, v in some.items()) or "one device"


def lighter(config: ConfigDict, mesh: Mapping[str, int]) -> Iterator[Changes]:
    """Changes by which a training step needs less memory, the nearest first.

    Results of training stay the same but for the last, which takes fewer clips. Some may not be
    valid for the model.

    Args:
      config: of the run.
      mesh: sizes of its axes.
    """
    parts = mesh["replica"] * mesh["data"] * mesh["fsdp"]
    each, now = config.batch_size // parts, config.optimizer.accumulate
    rest = each // now
    sharded = {"mesh.data": 1, "mesh.fsdp": mesh["data"] * mesh["fsdp"]}
    shard = sharded if mesh["data"] > 1 else {}
    twice = {"optimizer.accumulate": 2 * now} if rest % 2 == 0 else {}
    most = {"optimizer.accumulate": each} if rest > 1 else {}
    again = {"model.remat": "full", "model.unroll": 1} if config.model.remat != "full" else {}
    fewest = {"batch_size": parts, "optimizer.accumulate": 1} if config.batch_size > parts else {}
    tried: list[Changes] = [{}]
    for changes in (
        twice, shard, again, most, shard | most, shard | most | again, shard | again | fewest,
    ):  # fmt: skip
        if changes not in tried:
            tried.append(changes)
            yield changes


def shapes(devices: int, slices: int) -> list[Changes]:
    """All meshes of a number of devices, those first that split arrays the least.

    `replica` is the number of slices; every other axis may have any size that divides the rest.
    """
    axes, rest = AXES[1:], devices // slices
    sizes = [size for size in range(1, rest + 1) if rest % size == 0]
    found = [
        {"mesh.replica": slices} | dict(zip((f"mesh.{axis}" for axis in axes), shape, strict=True))
        for shape in itertools.product(sizes, repeat=len(axes))
        if math.prod(shape) == rest
    ]
    # From the last axis, which is for the fastest network and the smallest parts, to the first.
    return sorted(found, key=lambda mesh: [mesh[f"mesh.{axis}"] for axis in reversed(axes)])
