"""Every implementation of attention against the plain one, and masks against what they say."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.flatten_util import ravel_pytree

from jaxvid.build import build
from jaxvid.errors import InputError
from jaxvid.models import attention as seam
from jaxvid.models.attention import Causal, Dense, Lengths, attention, choose, dense
from jaxvid.models.transformer import SpaceTimeTransformer
from tests import tiny

MASKS = {
    "full": None,
    "causal": Causal(),
    "frames": Causal(tokens=2),
    "reach": Causal(reach=2),
    "later": Causal(first=jnp.int32(1)),
    "lengths": Lengths(jnp.array([6, 1, 3])),
    "dense": Dense(jnp.tril(jnp.ones((6, 6), bool))[None, None]),
}
SEEN = {  # by (query, key), for the second of three groups
    "full": lambda q, k: True,
    "causal": lambda q, k: k <= q,
    "frames": lambda q, k: k // 2 <= q // 2,
    "reach": lambda q, k: q - 1 <= k <= q,
    "later": lambda q, k: 1 <= k <= q,
    "lengths": lambda q, k: k < 1,
    "dense": lambda q, k: k <= q,
}


@pytest.mark.parametrize("name", MASKS)
def test_a_mask_hides_what_it_says(name):
    expected = [[SEEN[name](q, k) for k in range(6)] for q in range(6)]
    seen = dense(MASKS[name], 6, 6)
    seen = np.ones((1, 1, 6, 6), bool) if seen is None else seen
    np.testing.assert_array_equal(np.broadcast_to(seen, (3, 1, 6, 6))[1, 0], expected)


def test_the_queries_of_a_stream_are_the_last_frames():
    seen = dense(Causal(tokens=1, reach=2), 2, 5)[0, 0]
    np.testing.assert_array_equal(seen, [[0, 0, 1, 1, 0], [0, 0, 0, 1, 1]])


@pytest.mark.parametrize("name", MASKS)
def test_the_arguments_for_cudnn_say_the_same_as_the_mask(name):
    """They are checked with JAX's own implementation, because cuDNN needs a GPU."""
    if name == "later":
        pytest.skip("its first row sees nothing, which is not defined")
    query, key, value, weights = jax.random.normal(jax.random.key(0), (4, 3, 6, 2, 8))
    options = seam.cudnn_options(MASKS[name], 6, 6)

    def jaxs(*arrays):
        return jnp.sum(weights * jax.nn.dot_product_attention(*arrays, **options))

    def plain(*arrays):
        return jnp.sum(weights * attention(*arrays, MASKS[name]))

    gradients = [jax.grad(f, argnums=(0, 1, 2))(query, key, value) for f in (jaxs, plain)]
    for a, b in zip(*gradients, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_cudnn_runs_where_it_can_and_says_why_where_not():
    forced, chosen = seam.Implementation("cudnn", forced=True), seam.Implementation("cudnn")
    query = jnp.ones((1, 5, 1, 8))
    with pytest.raises(InputError, match=r"attention=cudnn: .* float32; set model.dtype=bfloat16"):
        attention(query, query, query, None, forced)
    np.testing.assert_allclose(attention(query, query, query, None, chosen), query, rtol=1e-6)
    half = jnp.ones((1, 5, 1, 12), jnp.bfloat16)
    assert "a head has 12 features" in forced.refuses(half, half, None)
    half = half[..., :8]
    assert "odd number of tokens" in forced.refuses(half, half, None)
    half = jnp.ones((1, 6, 1, 8), jnp.bfloat16)
    assert not forced.refuses(half, half, MASKS["reach"])
    assert chosen.refuses(half, half, None) == "it is slow for 6 keys"
    half = jnp.ones((1, 64, 1, 8), jnp.bfloat16)
    assert not chosen.refuses(half, half, None)


@pytest.mark.parametrize(
    ("capability", "runs"), [("7.5", False), ("8.0", True), ("12.0", True), ("gfx90a", False)]
)
def test_gpus_without_cudnns_attention_take_products(monkeypatch, capability, runs):
    gpu = SimpleNamespace(platform="gpu", device_kind="Tesla T4", compute_capability=capability)
    monkeypatch.setattr(seam.jax, "local_devices", lambda: [gpu])
    half = jnp.ones((1, 64, 1, 8), jnp.bfloat16)
    assert bool(seam.Implementation("cudnn").refuses(half, half, None)) is not runs
    if not runs:
        attention(half, half, half, None, seam.Implementation("cudnn"))
        with pytest.raises(
            InputError, match=rf"capability 8.0; a Tesla T4 has {capability}; choose auto"
        ):
            attention(half, half, half, None, seam.Implementation("cudnn", forced=True))


@pytest.mark.parametrize(
    ("platform", "name"), [("cpu", "einsum"), ("gpu", "cudnn"), ("tpu", "pallas")]
)
def test_auto_takes_what_the_devices_are_fastest_with(platform, name):
    assert choose("auto", platform) == seam.Implementation(name)


def test_kernels_for_tpus_are_refused_on_a_gpu():
    with pytest.raises(InputError, match=r"attention=pallas needs a TPU; the devices are gpus"):
        choose("pallas", "gpu")


def test_cudnn_without_a_gpu_is_refused_before_anything_is_compiled(config):
    config.model.attention = "cudnn"
    with pytest.raises(InputError, match=r"attention=cudnn needs a GPU; the devices are cpus"):
        build(config)


@pytest.mark.thorough
def test_the_kernel_trains_as_the_plain_code_does(config, batch):
    """Through the config, on a mesh whose axes divide clips and heads, and on one device."""
    config.model.update(depth=1, blocks="space time", remat="dots")
    plain = build(config, jax.devices()[:1])
    config.model.attention = "pallas"
    config.mesh.update(data=2, fsdp=2, tensor=2)
    kernel = build(config, jax.devices())
    state, results = jax.device_get(plain.init().replace(params=tiny.trained(plain))), []
    for run in (plain, kernel):
        with jax.set_mesh(run.mesh):
            placed = jax.tree.map(lambda x, y: jax.device_put(x, y.sharding), state, run.state)
            results.append(np.asarray(run.train_step(placed, batch)[1]))
    np.testing.assert_allclose(results[0], results[1], rtol=2e-4)


@pytest.mark.parametrize(
    ("blocks", "remat", "causal"), [("space time", "none", False), ("time", "full", True)]
)
def test_the_kernel_has_the_gradients_of_the_plain_code(blocks, remat, causal):
    video = jax.random.normal(jax.random.key(2), (2, 4, 4, 4, 3))
    level, seconds = jax.random.uniform(jax.random.key(3), (2, 2, 4))
    nets = [
        SpaceTimeTransformer(
            blocks, depth=1, width=32, heads=2, causal=causal, remat=remat, attention=name
        )
        for name in ("einsum", "pallas")
    ]
    shapes = nn.meta.unbox(jax.eval_shape(nets[0].init, jax.random.key(0), video, level, seconds))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: (0.2 * rng.normal(size=x.shape)).astype(x.dtype), shapes)

    def gradients(net):
        loss = lambda params: jnp.sum(net.apply(params, video, level, seconds) ** 2)  # noqa: E731
        return ravel_pytree(jax.jit(jax.grad(loss))(params))[0]

    plain, kernels = map(gradients, nets)
    np.testing.assert_allclose(plain, kernels, rtol=1e-3, atol=1e-5 * jnp.abs(plain).max())


@pytest.mark.parametrize("name", sorted(MASKS.keys() - {"later"}))
def test_few_keys_are_mixed_on_a_cpu_as_elsewhere(name):
    query, key, value, weights = jax.random.normal(jax.random.key(0), (4, 3, 6, 2, 8))

    def gradients():
        loss = lambda *arrays: jnp.sum(weights * attention(*arrays, MASKS[name]))  # noqa: E731
        return jax.value_and_grad(loss, argnums=(0, 1, 2))(query, key, value)

    elsewhere = gradients()
    with jax.set_mesh(jax.make_mesh((1,), ("data",))):
        here = gradients()
    for a, b in zip(jax.tree.leaves(here), jax.tree.leaves(elsewhere), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
