"""Normalisation against its definition, on the devices that compute it in their own way."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvid.models.layers import EPSILON, layer_norm, row_mean, squared_relu, standardised

ON_CPU = [False, True]


def mesh(on_cpu: bool):
    """Layers know their devices by the mesh."""
    return jax.set_mesh(jax.make_mesh((1,), ("data",))) if on_cpu else contextlib.nullcontext()


def by_definition(x, centred):
    x = x - x.mean(-1, keepdims=True) if centred else x
    return x / jnp.sqrt(jnp.square(x).mean(-1, keepdims=True) + EPSILON)


@pytest.mark.parametrize("on_cpu", ON_CPU)
@pytest.mark.parametrize("width", [24, 200])
@pytest.mark.parametrize("centred", [False, True])
def test_rows_are_standardised_and_so_are_their_gradients(centred, width, on_cpu):
    x, weights = jax.random.normal(jax.random.key(0), (2, 3, 5, width)) * 3 + 1

    def gradient(of):
        return jax.value_and_grad(lambda x: jnp.sum(weights * of(x, centred)))(x)

    with mesh(on_cpu):
        ours = gradient(standardised)
    for a, b in zip(ours, gradient(by_definition), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("on_cpu", ON_CPU)
def test_a_row_of_equal_values_has_a_finite_gradient(on_cpu):
    with mesh(on_cpu):
        y, pull = jax.vjp(lambda x: standardised(x, True), jnp.full((4, 64), 1000.3))
        np.testing.assert_allclose(y, 0, atol=1)
        assert np.isfinite(pull(jnp.ones((4, 64)))[0]).all()


def test_the_statistics_of_bfloat16_rows_are_in_float32():
    x = (jax.random.normal(jax.random.key(0), (8, 512)) + 4).astype(jnp.bfloat16)
    expected = by_definition(x.astype(jnp.float32), True)
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
