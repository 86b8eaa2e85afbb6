"""Muon: momentum, made orthogonal, with the work divided among the devices of the mesh."""

import collections
import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import optax.contrib
from flax import linen as nn
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

from jaxvid.parallel.rules import RULES

STEPS = 5
EPSILON = 1e-8
MOMENTUM = 0.95


class Matrix(NamedTuple):
    """The axes of a parameter that are a matrix's. The others stack matrices.

    Attributes:
      inputs, outputs: the axes that are its rows, and those that are its columns.
      names: the logical name of each axis of the parameter, see `parallel.rules`.
    """

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    names: tuple[str | None, ...]


def is_matrix(x: Any) -> bool:
    """Whether this is a leaf of `matrices`."""
    return x is None or isinstance(x, Matrix)


def matrices(boxed: Any) -> Any:
    """A tree like the parameters: the `Matrix` of each, None where it has declared none.

    Args:
      boxed: the abstract parameters in the boxes that declare which of them are matrices.
    """

    def axes(box: Any) -> Matrix | None:
        declared = getattr(box, "matrix", None)
        return declared and Matrix(*declared, box.names)

    return jax.tree.map(axes, boxed, is_leaf=lambda x: isinstance(x, nn.meta.AxisMetadata))


def scale_by_muon(matrices: list[Matrix]) -> optax.GradientTransformation:
    """Nesterov's momentum, orthogonalised. Its state is that of `optax.contrib.scale_by_muon`.

    Args:
      matrices: for each leaf of the parameters.
    """

    def update(updates: Any, state: optax.contrib.MuonState, params: Any = None):
        count = optax.safe_increment(state.count)
        mu = optax.tree.update_moment(updates, state.mu, MOMENTUM, 1)
        ahead = jax.tree.map(
            lambda m, g: MOMENTUM * m + (1 - MOMENTUM) * g,
            optax.tree.bias_correction(mu, MOMENTUM, optax.safe_increment(count)),
            optax.tree.bias_correction(updates, MOMENTUM, count),
        )
        orthogonal = orthogonalise(ahead, matrices, state.ns_coeffs)
        return orthogonal, optax.contrib.MuonState(count, mu, state.ns_coeffs)

    return optax.GradientTransformation(optax.contrib.scale_by_muon().init, update)


def scale_by_size(matrices: list[Matrix]) -> optax.GradientTransformation:
    """Scales orthogonal updates to the size of AdamW's (Liu et al. 2025, arXiv 2502.16982), so that
    one learning rate serves both.
    """

    def scaled(updates: Any, params: Any = None) -> Any:
        arrays, structure = jax.tree.flatten(updates)
        sizes = (max(_flat(x, m).shape[1:]) for x, m in zip(arrays, matrices, strict=True))
        return structure.unflatten(
            0.2 * math.sqrt(size) * x for x, size in zip(arrays, sizes, strict=True)
        )

    return optax.stateless(scaled)


def orthogonalise(tree: Any, matrices: list[Matrix], coefficients: Float[Array, "3"]) -> Any:
    """U V^T of each matrix U S V^T, approximately, by the iteration of Newton and Schulz.

    The matrices that have the same shape and sharding are one stack, which is divided equally among
    the devices: a device has whole matrices, and nothing is computed twice.

    Args:
      tree: of arrays float.
      matrices: for each leaf of `tree`.
      coefficients: of x, x x^T x and (x x^T)^2 x.
    """
    arrays, structure = jax.tree.flatten(tree)
    stacks = collections.defaultdict(list)
    for i, (x, matrix) in enumerate(zip(arrays, matrices, strict=True)):
        flat = _flat(x, matrix)
        sides = tuple(matrix.names[axes[0]] for axes in matrix[:2])
        stacks[sides, flat.shape[1:]].append((i, flat))
    for (sides, _), members in stacks.items():
        stack = jnp.concatenate([flat for _, flat in members])
        way, devices = _way(sides, len(stack))
        stack = _move(jnp.pad(stack, ((0, -len(stack) % devices), (0, 0), (0, 0))), way)
        stack = _move(_iterate(stack, coefficients), reversed(way))
        begin = 0
        for i, flat in members:
            part = stack[begin : begin + len(flat)]
            arrays[i] = _unflat(part, arrays[i].shape, matrices[i])
            begin += len(flat)
    return structure.unflatten(arrays)


def _order(matrix: Matrix) -> list[int]:
    of_matrix = [*matrix.inputs, *matrix.outputs]
    return [i for i in range(len(matrix.names)) if i not in of_matrix] + of_matrix


def _flat(x: Float[Array, "..."], matrix: Matrix) -> Float[Array, "n a b"]:
    rows, columns = (math.prod(x.shape[i] for i in axes) for axes in matrix[:2])
    return x.transpose(_order(matrix)).reshape(-1, rows, columns)


def _unflat(
    x: Float[Array, "n a b"], shape: tuple[int, ...], matrix: Matrix
) -> Float[Array, "..."]:
    order = _order(matrix)
    moved = x.reshape([shape[i] for i in order])
    return moved.transpose([order.index(i) for i in range(len(order))])


def _way(sides: tuple[str | None, str | None], count: int) -> tuple[list[PartitionSpec], int]:
    """From matrices whose sides are divided among devices, to devices with whole matrices.

    Each step is an all-to-all along one axis of the mesh, or moves nothing. An axis takes no part
    where that would leave most devices without a matrix.

    Args:
      sides: the logical names of rows and columns.
      count: the number of matrices.

    Returns:
      The steps, and how many devices have different matrices.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.size <= 1:  # 0 is no mesh
        return [], 1
    _, rows, columns = nn.logical_to_mesh_axes((None, *sides), RULES)
    used, devices = [], 1
    for axis in dict.fromkeys((rows, columns, *mesh.axis_names)):
        if axis and mesh.shape[axis] * devices <= 2 * count:
            used.append(axis)
            devices *= mesh.shape[axis]
    first = [tuple(axis for axis in used if axis in some) for some in ((rows,), (rows, columns))]
    ends = [(None, rows, columns), (first[0], None, columns), (first[1],), (tuple(used),)]
    return [PartitionSpec(*end) for end in ends], devices


def _move(x: Float[Array, "n a b"], way: Iterable[PartitionSpec]) -> Float[Array, "n a b"]:
    for spec in way:
        x = jax.lax.with_sharding_constraint(x, spec)
    return x


def _iterate(x: Float[Array, "n a b"], coefficients: Float[Array, "3"]) -> Float[Array, "n a b"]:
    if x.shape[1] > x.shape[2]:
        return _iterate(x.swapaxes(1, 2), coefficients).swapaxes(1, 2)
    c0, c1, c2 = coefficients
    x = x / (jnp.linalg.norm(x, axis=(1, 2), keepdims=True) + EPSILON)
    for _ in range(STEPS):
        a = x @ x.swapaxes(1, 2)
        x = c0 * x + (c1 * a + c2 * (a @ a)) @ x
    return x
