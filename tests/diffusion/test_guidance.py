import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvid.diffusion.guidance import guide

X = jax.random.normal(jax.random.key(0), (3, 2, 4, 4, 1))
NOISE = jnp.linspace(0.1, 0.9, 6).reshape(3, 2)
CONDITION = {"label": jnp.array([1.0, 2.0, 3.0]), "text": jnp.ones((3, 5)), "action": None}
NULL = jax.tree.map(jnp.zeros_like, CONDITION)


class Network:
    """Mixes its inputs clip by clip, and remembers the batch sizes it was called with."""

    def __init__(self):
        self.batches = []

    def __call__(self, x, noise, condition):
        self.batches.append(len(x))
        gain = 1 + condition["label"] + condition["text"].sum(1)
        return jnp.sin(x * gain[:, None, None, None, None]) * noise[:, :, None, None, None]


@pytest.mark.parametrize("scale", [0.0, 0.5, 2.0, 7.5])
def test_linear_in_the_scale_and_one_call(scale):
    network = Network()
    guided = guide(network, CONDITION, NULL, scale)(X, NOISE)
    assert network.batches == [6]
    conditional, unconditional = (network(X, NOISE, c) for c in (CONDITION, NULL))
    assert jnp.abs(conditional - unconditional).max() > 0.1
    expected = unconditional + scale * (conditional - unconditional)
    np.testing.assert_allclose(guided, expected, atol=1e-5)


def test_scale_one_is_no_guidance_to_the_last_bit():
    network = Network()
    guided = guide(network, CONDITION, NULL, 1.0)(X, NOISE)
    assert network.batches == [3]
    np.testing.assert_array_equal(guided, network(X, NOISE, CONDITION))


def test_guidance_without_a_condition_changes_nothing():
    network = Network()
    guided = guide(network, NULL, NULL, 3.0)(X, NOISE)
    np.testing.assert_allclose(guided, network(X, NOISE, NULL), atol=1e-6)
