"""The mesh of devices: its axes are fixed, and a config sets their sizes."""

import math
from collections.abc import Mapping, Sequence

import jax
from jax.experimental.mesh_utils import create_hybrid_device_mesh
from jax.sharding import AxisType, Mesh
from ml_collections import ConfigDict

from jaxvid.config import Rule, declare, is_int, key
from jaxvid.errors import InputError

# From the slowest network to the fastest: `replica` crosses slices (DCN), `tensor` connects
# neighbours (ICI).
AXES = ("replica", "data", "fsdp", "context", "tensor")

AXIS = Rule("an integer of at least 1, or -1 for the rest", lambda v: is_int(v) and v != 0)

declare(
    "mesh",
    replica=key(1, AXIS, "slices of a pod, connected by the data-centre network", free=True),
    data=key(-1, AXIS, "devices that split the batch", free=True),
    fsdp=key(1, AXIS, "devices that split the batch and the width of the parameters", free=True),
    context=key(1, AXIS, "devices that split the frames, places and heads of a clip", free=True),
    tensor=key(1, AXIS, "devices that split attention heads and the MLP's hidden width", free=True),
)


def make_mesh(
    sizes: Mapping[str, int] | ConfigDict, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """Makes a mesh over all devices of all hosts.

    Args:
      sizes: the size of each of `AXES`; at most one may be -1, for all remaining devices.
      devices: the devices to use, by default `jax.devices()`.

    Raises:
      InputError: the product of the sizes is not the number of devices, or the slices of a pod do
        not divide `replica`.
    """
    devices = jax.devices() if devices is None else devices
    shape = [sizes[axis] for axis in AXES]
    written = ", ".join(f"mesh.{axis}={size}" for axis, size in zip(AXES, shape, strict=True))
    if any(size < 1 and size != -1 for size in shape) or shape.count(-1) > 1:
        raise InputError(f"{written}: sizes must be at least 1; one may be -1, the rest")
    fixed = math.prod(size for size in shape if size != -1)
    rest, left_over = divmod(len(devices), fixed)
    if left_over or (-1 not in shape and rest != 1):
        raise InputError(
            f"{written}: {fixed} does not fit the {len(devices)} device(s) of this run; "
            "set one axis to -1 for the rest"
        )
    shape = [rest if size == -1 else size for size in shape]
    kinds = (AxisType.Auto,) * len(AXES)
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices == 1:
        return jax.make_mesh(shape, AXES, axis_types=kinds, devices=devices)
    if shape[0] % slices:
        raise InputError(
            f"config.mesh.replica={shape[0]}: the devices are in {slices} slices, between which "
            f"only replicas may lie; make it a multiple of {slices}"
        )
    within, between = [shape[0] // slices, *shape[1:]], [slices, *[1] * len(shape[1:])]
    # An axis may have a part of a side of the torus.
    arranged = create_hybrid_device_mesh(within, between, devices, allow_split_physical_axes=True)
    return Mesh(arranged, AXES, axis_types=kinds)
