"""How tokens are divided among devices, by the logical names of `parallel/rules.py`.

The mesh axis `context` divides the tokens of a clip. Words that mix within a frame need all of its
places, words that mix within a place need all frames, so tokens are divided by frames or by places,
and move from one to the other by an all-to-all. A recurrence takes either, and passes on states.
Attention among all tokens needs both: there, heads are divided. Everything else takes tokens as
they are (DeepSpeed-Ulysses: Jacobs et al. 2023, arXiv 2309.14509; for factorized attention, Zhao et
al. 2024, arXiv 2403.10266).
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
from flax import linen as nn
from jaxtyping import Array, Float

Names = tuple[str | None, ...]

# What the devices along `context` divide of frames and places, by name. With "heads" they divide
# the heads of queries, keys and values.
SPLITS: dict[str, Names] = {
    "frames": ("frames", None),
    "places": (None, "places"),
    "heads": (None, None),
}
# What must be whole while a word mixes decides what is divided; by the `over` of the word.
SPLIT_OF = {"frame": "frames", "place": "places", "cell": "places"}
BY_HEADS = ("clip", "window")


def devices_of(axes: str | tuple[str, ...] | None) -> int:
    """The number of devices along axes of the mesh, an entry of a `PartitionSpec`."""
    shape = jax.sharding.get_abstract_mesh().shape
    axes = (axes,) if isinstance(axes, str) else axes or ()
    return math.prod(shape.get(axis, 1) for axis in axes)


def sharded(*names: str | None) -> bool:
    """Whether an axis with one of these logical names is divided among devices."""
    return any(devices_of(axes) > 1 for axes in nn.logical_to_mesh_axes(names) or ())


def parts_of(name: str) -> int:
    """Among how many devices an axis with a logical name is divided."""
    return devices_of(*nn.logical_to_mesh_axes((name,)) or (None,))


def names_of(split: str, axes: int = 4) -> Names:
    """The logical names of the axes of tokens [B,T,N,D], or of their heads [B,T,N,K,d]."""
    heads = "whole heads" if split == "heads" else "heads"
    return ("batch", *SPLITS[split], *((heads, None) if axes == 5 else ("width",)))


def move(x: Float[Array, "B T N *S"], start: str, end: str) -> Float[Array, "B T N *S"]:
    """Tokens or their heads, divided by `end`, from those that are divided by `start`.

    Both are said, so that the gradient goes the same way back.
    """
    if start == end or not sharded("frames"):
        return x
    return constrain(constrain(x, start), end)


def constrain(x: Float[Array, "B T N *S"], split: str) -> Float[Array, "B T N *S"]:
    """Tokens or their heads, divided among devices."""
    return nn.with_logical_constraint(x, names_of(split, x.ndim))


def per_frame(x: Float[Array, "B T *S D"], split: str) -> Float[Array, "B T *S D"]:
    """What belongs to each frame, divided as tokens are; every device has all if these are by
    places.
    """
    if not sharded("frames"):
        return x
    return nn.with_logical_constraint(x, ("batch", SPLITS[split][0], *[None] * (x.ndim - 2)))


def locally(
    function: Callable[..., Any],
    names: Sequence[Names],
    result: Names,
    *arrays: Array,
    kernels: bool = False,
    checked: bool = True,
) -> Any:
    """`function(*arrays)`, computed by each device on its own parts.

    XLA cannot divide a reshape that joins the axes of batch and context, such as that from frames
    to groups. Where `context` divides nothing it can divide all but kernels.

    Args:
      function: of arrays that need no others of their divided axes.
      names: the logical names of the axes of each array.
      result: those of the result, or of each of several.
      arrays: may lie otherwise; they are moved.
      kernels: whether the function may have some.
      checked: whether JAX knows which results are the same on several devices. It does not know of
        kernels, and the gradient then adds up what is.
    """
    if not (sharded("frames") or (kernels and any(sharded(*each) for each in names))):
        return function(*arrays)
    *specs, out = map(nn.logical_to_mesh_axes, (*names, result))
    part = jax.shard_map(function, in_specs=tuple(specs), out_specs=out, check_vma=checked)
    return part(*arrays)
