"""How tokens are divided among devices, by the logical names of `parallel/rules.py`.

The mesh axis `context` divides the tokens of a clip. Words that mix within a frame need all of its
places, words that mix within a place need all frames, so tokens are divided by frames or by places,
and move from one to the other by an all-to-all. Attention among all tokens needs both: there, heads
are divided. Everything else takes tokens as they are (DeepSpeed-Ulysses: Jacobs et al. 2023, arXiv
2309.14509; for factorized attention, Zhao et al. 2024, arXiv 2403.10266).
"""

import math
from collections.abc import Callable, Sequence

import jax
from flax import linen as nn
from jaxtyping import Array, Float

Names = tuple[str | None, ...]

# The logical names of the axes of tokens [B,T,N,D], by what is divided.
SPLITS: dict[str, Names] = {
    "frames": ("batch", "frames", None, "width"),
    "places": ("batch", None, "places", "width"),
}
# Those of queries, keys and values [B,T,N,K,d] in attention among all tokens.
WHOLE: Names = ("batch", None, None, "whole heads", None)
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


def move(x: Float[Array, "B T N D"], start: str, end: str) -> Float[Array, "B T N D"]:
    """Tokens that are divided by `end`, from tokens that are divided by `start`; see `SPLITS`.

    Both are said, so that the gradient goes the same way back.
    """
    if start == end or not sharded("frames"):
        return x
    return constrain(constrain(x, start), end)


def constrain(
    x: Float[Array, "B T N D"], split: str, features: str = "width"
) -> Float[Array, "B T N D"]:
    """Tokens, divided among devices."""
    return nn.with_logical_constraint(x, (*SPLITS[split][:-1], features))


def per_frame(x: Float[Array, "B T *S D"], split: str) -> Float[Array, "B T *S D"]:
    """What belongs to each frame, divided as tokens are; every device has all if these are by
    places.
    """
    if not sharded("frames"):
        return x
    frames = "frames" if split == "frames" else None
    return nn.with_logical_constraint(x, ("batch", frames, *[None] * (x.ndim - 2)))


def by_heads(x: Float[Array, "B T N K d"], split: str) -> Float[Array, "B T N K d"]:
    """All tokens of some heads, for attention among all, from tokens divided by `split`."""
    if not sharded("frames"):
        return x
    x = nn.with_logical_constraint(x, (*SPLITS[split][:-1], "heads", None))
    return nn.with_logical_constraint(x, WHOLE)


def from_heads(x: Float[Array, "B T N K d"], split: str) -> Float[Array, "B T N K d"]:
    """The inverse of `by_heads`."""
    if not sharded("frames"):
        return x
    x = nn.with_logical_constraint(x, WHOLE)
    return nn.with_logical_constraint(x, (*SPLITS[split][:-1], "heads", None))


def locally(
    function: Callable[..., Array],
    names: Sequence[Names],
    result: Names,
    *arrays: Array,
    kernels: bool = False,
) -> Array:
    """`function(*arrays)`, computed by each device on its own parts.

    XLA cannot divide a reshape that joins the axes of batch and context, such as that from frames
    to groups. Where `context` divides nothing it can divide all but kernels.

    Args:
      function: of arrays that need no others of their divided axes.
      names: the logical names of the axes of each array.
      result: those of the result.
      arrays: may lie otherwise; they are moved.
      kernels: whether the function may have some.
    """
    if not (sharded("frames") or (kernels and any(sharded(*each) for each in names))):
        return function(*arrays)
    *specs, out = map(nn.logical_to_mesh_axes, (*names, result))
    return jax.shard_map(function, in_specs=tuple(specs), out_specs=out, check_vma=False)(*arrays)
