"""One mesh of devices with named axes; a config sets only their sizes."""

import math
from collections.abc import Mapping, Sequence

import jax
from jax.sharding import AxisType, Mesh
from ml_collections import ConfigDict

from jaxvid.config import Rule, declare, is_int, key
from jaxvid.errors import InputError

# Slowest network first: `replica` crosses slices (DCN), `tensor` stays among neighbours (ICI).
AXES = ("replica", "data", "fsdp", "context", "tensor")

AXIS = Rule("an integer of at least 1, or -1 for the rest", lambda v: is_int(v) and v != 0)

declare(
    "mesh",
    replica=key(1, AXIS, "slices of a pod, joined by the data-centre network", free=True),
    data=key(-1, AXIS, "parts of the batch", free=True),
    fsdp=key(1, AXIS, "parts of the batch, and of every parameter's width", free=True),
    context=key(1, AXIS, "parts of a clip's tokens", free=True),
    tensor=key(1, AXIS, "parts of the attention's heads and the MLP's hidden width", free=True),
)


def make_mesh(
    sizes: Mapping[str, int] | ConfigDict, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """A mesh over all devices, of all hosts.

    Args:
      sizes: size of each of `AXES`; -1, at most once, takes the devices that the others leave.
      devices: defaults to `jax.devices()`.

    Raises:
      InputError: the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    shape = [sizes[axis] for axis in AXES]
    written = ", ".join(f"mesh.{axis}={size}" for axis, size in zip(AXES, shape, strict=True))
    if any(size < 1 and size != -1 for size in shape) or shape.count(-1) > 1:
        raise InputError(f"{written}: sizes are at least 1, and at most one is -1, the rest")
    fixed = math.prod(size for size in shape if size != -1)
    rest, left_over = divmod(len(devices), fixed)
    if left_over or (-1 not in shape and rest != 1):
        raise InputError(
            f"{written}: {fixed} does not fit the {len(devices)} device(s) here; "
            "set one axis to -1 to take the rest"
        )
    shape = [rest if size == -1 else size for size in shape]
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)
