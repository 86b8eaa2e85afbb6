"""The collectives of a compiled program: over which axes of the mesh, how often, how many bytes."""

import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int

from jaxvid.parallel.program import Instruction, Program, collective_of


class Collective(NamedTuple):
    """The collectives of one kind over the same axes.

    Attributes:
      kind: such as "all-gather".
      axes: of the mesh over which their groups extend, such as "data+fsdp".
      network: "ICI" within a slice, "DCN" between slices, "chip" between the cores of a chip.
      dimensions: of the torus of a slice over which their groups extend.
      times: how often they run, all together.
      bytes: that a device sends, with the best algorithm.
    """

    kind: str
    axes: str
    network: str
    dimensions: int
    times: int = 0
    bytes: float = 0.0


def collectives(program: Program, mesh: Mesh) -> list[Collective]:
    """The collectives of a program that is compiled for the devices of a mesh, largest first.

    A pod of several slices runs a program for one slice, which sends to the others by its hosts.
    """
    devices = list(mesh.devices.flat)
    slices = len({getattr(d, "slice_index", 0) for d in devices})
    torus = np.array([getattr(d, "coords", None) or (d.id,) for d in devices])
    found: dict[tuple[str, str, str, int], Collective] = {}
    for kind, op, size, times in _running(program):
        if op.code == "send":
            key, members = (kind, "replica", "DCN", 0), slices
        else:
            groups = groups_of(op.text, mesh.size // slices)
            places = np.stack(np.unravel_index(groups, mesh.devices.shape), -1)
            over = [a for a, vary in zip(mesh.axis_names, _vary(places), strict=True) if vary]
            dimensions, members = sum(_vary(torus[groups])), groups.shape[1]
            if not over:
                continue
            key = kind, "+".join(over), "ICI" if dimensions else "chip", dimensions
        old = found.get(key, Collective(*key))
        sent = old.bytes + times * _sent(kind, size, members)
        found[key] = old._replace(times=old.times + times, bytes=sent)
    return sorted(found.values(), key=lambda c: (c.network, -c.bytes))


def _vary(places: Int[np.ndarray, "groups size dims"]) -> list[bool]:
    """For each coordinate, whether it differs between members of a group."""
    return np.any(np.ptp(places, axis=1) > 0, axis=0).tolist()


def _sent(kind: str, size: int, members: int) -> float:
    """Bytes that a device sends in a collective with an input of `size` bytes on each device."""
    if kind == "all-gather":
        return float(size * (members - 1))
    if kind == "collective-permute":
        return float(size)
    ways = 2 if kind == "all-reduce" else 1  # scattered, and gathered again
    return ways * size * (members - 1) / members


def _running(program: Program) -> Iterator[tuple[str, Instruction, int, int]]:
    """Each collective with its kind, the bytes of its input on a device, and how often it runs.

    XLA for TPUs may write a transfer three times, in the fusions in which it begins, goes on and
    ends: only the beginning counts. A reduce-scatter is a fusion of an all-reduce and a slice.
    """
    for op, body, times in program.walk():
        inside, name = program.fused(op), op.attribute("calls") or ""
        if name.startswith("async_collective_fusion") or any(
            '"AsyncCollectiveDone"' in part.text for part in inside.values()
        ):
            continue
        around = inside or body
        for part in inside.values() or [op]:
            if part.code == "send" and (
                between := re.search(r'_rendezvous="([a-z\-]+)', part.text)
            ):
                yield between[1], part, part.arrays[0].bytes, times
            elif kind := collective_of(part):
                scattered = kind == "all-reduce" and name.startswith("all-reduce-scatter")
                size = sum(around[operand].bytes for operand in part.operands)
                yield "reduce-scatter" if scattered else kind, part, size, times


def groups_of(text: str, devices: int) -> Int[np.ndarray, "groups size"]:
    """The groups of devices that a collective runs over, as numbers of devices in the mesh.

    XLA writes them as lists, as a transposed range (`[4,2]<=[2,4]T(1,0)`), or as axes of a mesh of
    its own. A collective-permute has pairs of a source and a target.
    """
    if pairs := re.search(r"source_target_pairs=\{((?:\{\d+,\d+\},?)*)\}", text):
        return np.array(re.findall(r"\d+", pairs[1]), int).reshape(-1, 2)
    if listed := re.search(r"replica_groups=\{(\{.*?\})\}", text):
        return np.array([row.split(",") for row in re.findall(r"\{([\d,]+)\}", listed[1])], int)
    if tiled := re.search(r"replica_groups=\[([\d,]+)\]<=(\[\S+)", text):
        return _range(tiled[2]).reshape(_numbers(tiled[1]))
    if own := re.search(
        r"replica_groups=mesh\[(.*?)\](?:, device_ids=\((.*?\))\))? \{(.*?)\}", text
    ):
        axes = re.findall(r"'(\w+)'=(\d+)", own[1])
        ids = _range(own[2]) if own[2] else np.arange(devices)
        # A part of an axis is written 'axis':(before)size.
        parts = {a: (int(b or 1), int(n or 0)) for a, b, n in _PART.findall(own[3])}
        shape, chosen = [], []
        for axis, size in axes:
            before, part = parts.get(axis, (int(size), 1))
            part = part or int(size)
            chosen.append(len(shape) + 1)
            shape += [before, part, int(size) // before // part]
        rest = [axis for axis in range(len(shape)) if axis not in chosen]
        ids = ids.reshape(shape).transpose(rest + chosen)
        return ids.reshape(-1, int(np.prod(ids.shape[len(rest) :])))
    return np.arange(devices)[None]


_PART = re.compile(r"'(\w+)'(?::\((\d+)\)(\d+))?")


def _range(text: str) -> Int[np.ndarray, "..."]:
    """The numbers of `[2,4]T(1,0)`: a range in that shape, its axes in that order."""
    ids = np.arange(int(np.prod(_numbers(re.match(r"\[([\d,]+)\]", text)[1]))))
    ids = ids.reshape(_numbers(re.match(r"\[([\d,]+)\]", text)[1]))
    order = re.match(r"\[[\d,]+\]T\(([\d,]+)\)", text)
    return ids.transpose(_numbers(order[1])) if order else ids


def _numbers(text: str) -> list[int]:
    return [int(word) for word in text.split(",")]
