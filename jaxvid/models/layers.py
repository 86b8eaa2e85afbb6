"""Basic layers, with logical axis names on every parameter."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from flax import struct
from jaxtyping import Array, Float

Axes = tuple[int, ...]


class Weight(nn.LogicallyPartitioned, eq=False):
    """A kernel with the logical names of its axes, and the axes that form a matrix.

    Attributes:
      matrix: the input axes and the output axes of the matrix; the other axes stack matrices. None
        if matrix optimizers, such as Muon, must not use it as a matrix.
    """

    matrix: tuple[Axes, Axes] | None = struct.field(default=None, pytree_node=False)

    def add_axis(self, index: int, params: dict[Any, Any]) -> "Weight":
        """The box of the weights of all layers, which `nn.scan` stacks along axis `index`."""
        return self._moved(lambda axis: axis + (axis >= index), super().add_axis(index, params))

    def remove_axis(self, index: int, params: dict[Any, Any]) -> "Weight":
        """The inverse of `add_axis`."""
        return self._moved(lambda axis: axis - (axis > index), super().remove_axis(index, params))

    def _moved(self, move: Callable[[int], int], box: "Weight") -> "Weight":
        if self.matrix is None:
            return box
        return box.replace(matrix=tuple(tuple(map(move, axes)) for axes in self.matrix))


def kernel(
    *names: str | None,
    inputs: int = 1,
    stacked: Axes = (),
    matrix: bool = True,
    scale: float = 1.0,
) -> nn.initializers.Initializer:
    """A kernel's initializer with its logical axis names: variance `scale` / fan-in.

    Args:
      names: the logical name of each axis.
      inputs: the first `inputs` axes are contracted with the layer's input.
      stacked: axes along which several matrices are stacked, such as query, key and value.
      matrix: whether matrix optimizers use it as a matrix; see `Weight`.
      scale: 0 means all zeros.
    """
    in_axis, out_axis = tuple(range(inputs)), tuple(range(inputs, len(names)))
    init = nn.initializers.variance_scaling(
        scale or 1.0, "fan_in", "truncated_normal", in_axis=in_axis, out_axis=out_axis
    )
    init = init if scale else nn.initializers.zeros
    axes = (in_axis, tuple(i for i in out_axis if i not in stacked)) if matrix else None
    return lambda *args: Weight(init(*args), names, matrix=axes)


def dense(
    features: int,
    dtype: jnp.dtype,
    names: tuple[str | None, str | None],
    name: str,
    scale: float = 1.0,
) -> nn.Dense:
    """A dense layer with logical axis names, for use outside of the blocks; not for Muon."""
    return nn.Dense(
        features,
        dtype=dtype,
        kernel_init=kernel(*names, matrix=False, scale=scale),
        bias_init=nn.with_logical_partitioning(nn.initializers.zeros, names[-1:]),
        name=name,
    )


def layer_norm(x: Float[Array, "B T N D"], dtype: jnp.dtype) -> Float[Array, "B T N D"]:
    """Layer normalisation without parameters: the modulation scales and shifts."""
    return nn.LayerNorm(use_bias=False, use_scale=False, dtype=dtype)(x)


def modulation(parts: int, dtype: jnp.dtype, name: str):
    """`parts` zero-initialised vectors [B, T, 1, D] per frame (adaLN-zero).

    Its kernel is not for Muon. The rank of its gradient is at most the number of noise levels and
    conditions in the batch. The rest is rounding error, which orthogonalisation would amplify.
    """

    def apply(frame: Float[Array, "B T D"]) -> list[Float[Array, "B T 1 D"]]:
        D = frame.shape[-1]
        layer = nn.Einsum(
            (D, parts, D),
            "btd,dpe->pbte",
            dtype=dtype,
            kernel_init=kernel("embed", None, "width", matrix=False, scale=0.0),
            bias_init=nn.with_logical_partitioning(nn.initializers.zeros, (None, "width")),
            name=name,
        )
        return [m[:, :, None] for m in layer(frame)]

    return apply
