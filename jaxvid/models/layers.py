"""Basic layers, with logical axis names on every parameter."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Float32

from jaxvid.models.devices import sharded

Axes = tuple[int, ...]
EPSILON = 1e-6  # added to variances before their root
SHORT = 128  # features of a row that a CPU sums by a product


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


class Linear(nn.Module):
    """A linear layer, computed as one product of two matrices.

    Attributes:
      features: shape of the output's last axes.
      dtype: the type of the product.
      kernel_init: of the kernel, whose axes are those contracted, then `features`.
      bias_init: of the bias, shaped like `features`; None for a layer without bias.
      inputs: the number of the last axes of `x` that are contracted.
    """

    features: tuple[int, ...]
    dtype: jnp.dtype
    kernel_init: nn.initializers.Initializer
    bias_init: nn.initializers.Initializer | None = None
    inputs: int = 1

    @nn.compact
    def __call__(self, x: Float[Array, "*S"]) -> Float[Array, "*R"]:
        outer, inner = x.shape[: -self.inputs], x.shape[-self.inputs :]
        weights = self.param("kernel", self.kernel_init, (*inner, *self.features))
        flat = x.astype(self.dtype).reshape(*outer, -1)
        weights = jnp.asarray(weights, self.dtype).reshape(flat.shape[-1], -1)
        y = product(flat, weights).reshape(*outer, *self.features)
        if self.bias_init is not None:
            y += self.param("bias", self.bias_init, self.features).astype(self.dtype)
        return y


class Linears(nn.Module):
    """Several linear layers of the same size and input, computed as one product.

    Attributes:
      features: the number of layers, then the shape of the last axes of each output.
      dtype: the type of the product.
      names: the logical names of the kernel's axes [D, *features].
      bias: whether there are biases.
      matrix: as in `kernel`.
      scale: as in `kernel`.
    """

    features: tuple[int, ...]
    dtype: jnp.dtype
    names: tuple[str | None, ...]
    bias: bool = False
    matrix: bool = True
    scale: float = 1.0

    @nn.compact
    def __call__(self, x: Float[Array, "*S D"]) -> list[Float[Array, "*S _"]]:
        """The outputs, whose last axes are flattened."""
        D, count = x.shape[-1], self.features[0]
        init = kernel(*self.names, stacked=(1,), matrix=self.matrix, scale=self.scale)
        weights = self.param("kernel", init, (D, *self.features))
        weights, x = jnp.asarray(weights, self.dtype).reshape(D, count, -1), x.astype(self.dtype)
        if sharded(*self.names[2:]):  # which the flattened axis of all layers could not be
            parts = [product(x, weights[:, i]) for i in range(count)]
        else:
            parts = jnp.split(product(x, weights.reshape(D, -1)), count, axis=-1)
        if self.bias:
            zeros = nn.with_logical_partitioning(nn.initializers.zeros, self.names[1:])
            biases = self.param("bias", zeros, self.features).astype(self.dtype)
            parts = [y + b.reshape(-1) for y, b in zip(parts, biases, strict=True)]
        return parts


def product(x: Float[Array, "*S D"], weights: Float[Array, "D E"]) -> Float[Array, "*S E"]:
    """x times `weights`.

    All axes of `x` but the last are flattened, and the barrier keeps the gradient of the weights a
    matrix. Otherwise XLA transposes whole arrays for that gradient, which takes a quarter of a
    layer's time on a CPU. Axes that different devices divide cannot be flattened.
    """
    if sharded("frames"):
        return x @ weights
    y = x.reshape(-1, x.shape[-1]) @ jax.lax.optimization_barrier(weights)
    return y.reshape(*x.shape[:-1], -1)


def dense(
    features: int,
    dtype: jnp.dtype,
    names: tuple[str | None, str | None],
    name: str,
    scale: float = 1.0,
) -> Linear:
    """A linear layer with bias and logical axis names, for use outside of blocks; not for Muon."""
    return Linear(
        (features,),
        dtype,
        kernel(*names, matrix=False, scale=scale),
        nn.with_logical_partitioning(nn.initializers.zeros, names[-1:]),
        name=name,
    )


def layer_norm(x: Float[Array, "*S D"], dtype: jnp.dtype) -> Float[Array, "*S D"]:
    """Layer normalisation without parameters: the modulation scales and shifts.

    The statistics are in float32, and "dots" keeps them; the rest is in `dtype`.
    """
    return _centred(x.astype(dtype))


@jax.custom_vjp
def _centred(x: Array) -> Array:
    """y = (x - mean(x)) / std(x). The gradient is (g - mean(g) - y mean(g y)) / std(x): two sums
    over each row, where JAX's own derivative takes more."""
    return _centre(x)[0]


def _centre(x: Array) -> tuple[Array, tuple[Array, ...]]:
    exact = x.astype(jnp.float32)
    mean, size = row_mean(exact), row_mean(jnp.square(exact))
    scale = jax.lax.rsqrt(jnp.maximum(size - jnp.square(mean), 0) + EPSILON)
    kept = x, checkpoint_name(mean, "statistics"), checkpoint_name(scale, "statistics")
    return _standardised(*kept), kept


def _standardised(x: Array, mean: Array, scale: Array) -> Array:
    return (x - mean.astype(x.dtype)[..., None]) * scale.astype(x.dtype)[..., None]


def _centre_back(kept: tuple[Array, ...], gradient: Array) -> tuple[Array]:
    y, scale = _standardised(*kept).astype(jnp.float32), kept[2]
    g = gradient.astype(jnp.float32)
    part = g - y * row_mean(g * y)[..., None] - row_mean(g)[..., None]
    return ((scale[..., None] * part).astype(gradient.dtype),)


_centred.defvjp(_centre, _centre_back)


def row_mean(x: Float32[Array, "*S D"]) -> Float32[Array, "*S"]:
    """The mean over the last axis.

    On a CPU, short rows are summed by a product, which takes half the time of XLA's reduction.
    """
    D = x.shape[-1]
    if D > SHORT or not on_cpu():
        return x.mean(-1)
    return (x @ jnp.full((D, 1), 1 / D, jnp.float32))[..., 0]


def on_cpu() -> bool:
    """Whether the devices of the current mesh are CPUs; False without a mesh."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return device is not None and device.device_kind == "cpu"


class Scale(nn.Module):
    """The learned scales of a normalisation."""

    @nn.compact
    def __call__(self, size: int) -> Float32[Array, " {size}"]:
        init = nn.with_logical_partitioning(nn.initializers.ones, (None,))
        return self.param("scale", init, (size,))


@jax.custom_vjp
def rms_norm(x: Float[Array, "*S d"], scale: Float32[Array, " d"]) -> Float[Array, "*S d"]:
    """y * scale, y = x / rms(x) over the last axis, in float32 (Zhang & Sennrich 2019).

    The gradient for g' = g * scale is (g' - y mean(g' y)) / rms(x). The backward pass reads x in
    its own dtype, where JAX's derivative would keep x and y in float32.
    """
    return _scaled(x, scale)[0]


def _scaled(x: Array, scale: Array) -> tuple[Array, tuple[Array, ...]]:
    exact = x.astype(jnp.float32)
    inverse = jax.lax.rsqrt(row_mean(jnp.square(exact)) + EPSILON)
    return (exact * inverse[..., None] * scale).astype(x.dtype), (x, inverse, scale)


def _scale_back(kept: tuple[Array, ...], gradient: Array) -> tuple[Array, Array]:
    x, inverse, scale = kept
    y, g = x.astype(jnp.float32) * inverse[..., None], gradient.astype(jnp.float32)
    along = g * scale
    part = along - y * row_mean(along * y)[..., None]
    return (inverse[..., None] * part).astype(x.dtype), (g * y).sum(range(g.ndim - 1))


rms_norm.defvjp(_scaled, _scale_back)


@jax.custom_vjp
def squared_relu(x: Float[Array, "*S"]) -> Float[Array, "*S"]:
    """y = max(x, 0)^2. Its derivative is 2 sqrt(y): the backward pass reads no array but y.

    The product that follows needs y for the gradient of its weights, so "dots" keeps it.
    """
    return jax.nn.relu(x) ** 2


def _squared(x: Array) -> tuple[Array, Array]:
    y = checkpoint_name(squared_relu(x), "hidden")
    return y, y


squared_relu.defvjp(_squared, lambda y, gradient: (2 * jnp.sqrt(y) * gradient,))


def modulation(parts: int, width: int, dtype: jnp.dtype, name: str):
    """A layer for `parts` zero-initialised vectors [B, T, 1, D] per frame (adaLN-zero).

    Its kernel is not for Muon. The rank of its gradient is at most the number of noise levels and
    conditions in the batch. The rest is rounding error, which orthogonalisation would amplify.
    """
    names = ("embed", None, "width")
    layers = Linears((parts, width), dtype, names, bias=True, matrix=False, scale=0.0, name=name)

    def apply(frame: Float[Array, "B T D"]) -> list[Float[Array, "B T 1 D"]]:
        return [m[:, :, None] for m in layers(frame)]

    return apply
