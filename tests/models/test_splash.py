import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvid.models.attention import EINSUM, Causal, Implementation, attention
from tests.parallel.test_layouts import compiled, make

INTERPRETED = Implementation("pallas", forced=True, interpret=True)


@pytest.mark.parametrize("mask", [None, Causal(64), Causal(128, reach=2)])
def test_many_keys_are_mixed_as_by_products_with_the_same_gradient(mask):
    rng = np.random.default_rng(0)
    arrays = [jnp.asarray(rng.normal(size=(2, 512, 2, 24)).astype(np.float32)) for _ in range(3)]

    def result(implementation):
        def loss(*arrays):
            return jnp.sum(attention(*arrays, mask, implementation) ** 2)

        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))

    assert "pallas_call" in str(result(INTERPRETED).trace(*arrays).jaxpr)
    for a, b in zip(
        *(jax.tree.leaves(result(i)(*arrays)) for i in (INTERPRETED, EINSUM)), strict=True
    ):
        assert np.abs(a - b).max() <= 2e-6 * np.abs(b).max()


@pytest.mark.thorough
def test_each_device_runs_it_on_its_own_clips_and_heads():
    kinds, gradients = ("einsum", "pallas"), []
    for kind in kinds:
        mesh = {"data": 2, "context": 2} if kind == "pallas" else {"data": 1}
        step, arguments = compiled(make("joint", mesh, patch=(1, 4, 2), attention=kind))
        gradients.append(jax.device_get(step(*arguments)))
    for a, b in zip(*map(jax.tree.leaves, gradients), strict=True):
        assert np.linalg.norm(a - b) <= 1e-4 * max(np.linalg.norm(b), 1e-2)
