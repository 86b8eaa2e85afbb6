"""Normalisation against its definition, on the devices that compute it in their own way."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvid.models.layers import EPSILON, layer_norm, rms_norm, row_mean, squared_relu

ON_CPU = [False, True]


def mesh(on_cpu: bool):
    """Layers know their devices by the mesh."""
    return jax.set_mesh(jax.make_mesh((1,), ("data",))) if on_cpu else contextlib.nullcontext()


def by_definition(x, scale=None):
    """Layer normalisation, or with a scale RMS normalisation."""
    x = x - x.mean(-1, keepdims=True) if scale is None else x
    y = x / jnp.sqrt(jnp.square(x).mean(-1, keepdims=True) + EPSILON)
    return y if scale is None else y * scale


def ours(x, scale=None):
    return layer_norm(x, x.dtype) if scale is None else rms_norm(x, scale)


@pytest.mark.parametrize("on_cpu", ON_CPU)
@pytest.mark.parametrize("width", [24, 200])
@pytest.mark.parametrize("arguments", [1, 2], ids=["layer_norm", "rms_norm"])
def test_norms_and_their_gradients_are_those_of_their_definition(arguments, width, on_cpu):
    x, weights = jax.random.normal(jax.random.key(0), (2, 3, 5, width)) * 3 + 1
    inputs = (x, jnp.linspace(-1, 2, width))[:arguments]

    def gradients(of):
        return jax.value_and_grad(lambda x: jnp.sum(weights * of(*x)))(inputs)

    with mesh(on_cpu):
        found = gradients(ours)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(gradients(by_definition)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_the_backward_pass_of_an_rms_norm_keeps_its_input_alone():
    x = jnp.ones((3, 5, 24), jnp.bfloat16)
    _, back = jax.vjp(rms_norm, x, jnp.ones(24))
    assert [a.dtype for a in jax.tree.leaves(back) if a.size == x.size] == [jnp.bfloat16]


@pytest.mark.parametrize("on_cpu", ON_CPU)
def test_a_row_of_equal_values_has_a_finite_gradient(on_cpu):
    with mesh(on_cpu):
        y, pull = jax.vjp(ours, jnp.full((4, 64), 1000.3))
        np.testing.assert_allclose(y, 0, atol=1)
        assert np.isfinite(pull(jnp.ones((4, 64)))[0]).all()


def test_the_statistics_of_bfloat16_rows_are_in_float32():
    x = (jax.random.normal(jax.random.key(0), (8, 512)) + 4).astype(jnp.bfloat16)
    expected = by_definition(x.astype(jnp.float32))
    np.testing.assert_allclose(
        layer_norm(x, jnp.dtype("bfloat16")).astype(jnp.float32), expected, atol=0.05
    )


def test_a_cpu_sums_short_rows_by_a_product():
    def products(width, on_cpu):
        with mesh(on_cpu):
            return str(jax.make_jaxpr(row_mean)(jnp.ones((2, width)))).count("dot_general")

    assert products(128, True) == 1
    assert products(129, True) == products(128, False) == 0


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_derivative_of_a_squared_relu_follows_from_its_result(dtype):
    x = jnp.array([-2.0, -0.0, 0.0, 1e-3, 0.3, 5.0], dtype)
    slopes = jax.grad(lambda x: squared_relu(x).sum())(x)
    tolerance = 4 * jnp.finfo(dtype).eps
    np.testing.assert_allclose(slopes.astype(float), 2 * np.maximum(x, 0), rtol=tolerance)
