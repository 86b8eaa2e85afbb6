"""The fused kernel against plain attention, in interpret mode; and that TPUs compile it."""

import functools
import importlib.util
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvid.models import embeddings
from jaxvid.models.attention import Causal, attention
from jaxvid.models.flops import count
from jaxvid.models.kernels.factorized import fused_attention, supports


def inputs(B, T, N, heads, d, over, turned=True, scale=1.0, dtype="float32"):
    random = np.random.default_rng(0)

    def normal(*shape):
        return random.normal(size=shape)

    qkv, dy = (jnp.asarray(normal(B, T, N, w * heads * d), dtype) for w in (3, 1))
    scales = [jnp.asarray(scale * (1 + 0.3 * normal(d)), jnp.float32) for _ in range(2)]
    angle = normal(*((N,) if over == "space" else (B, T)), d // 2)
    turn = jnp.asarray([np.cos(angle), np.sin(angle)], jnp.float32) if turned else None
    return (qkv, *scales), turn, dy


def plain(qkv, query_scale, key_scale, turn, heads, over, causal):
    """The same from the pieces that the mixers use."""
    B, T, N, _ = qkv.shape
    query, key, value = jnp.moveaxis(qkv.reshape(B, T, N, 3, heads, -1), 3, 0)

    def prepared(x, scale):
        y = x.astype(jnp.float32)
        y = y * jax.lax.rsqrt(jnp.mean(y**2, axis=-1, keepdims=True) + 1e-6) * scale
        y = y.astype(x.dtype)
        if turn is None:
            return y
        everywhere = turn[:, None, None] if over == "space" else turn[:, :, :, None]
        return embeddings.rotate(y, jnp.broadcast_to(everywhere, (2, B, T, N, turn.shape[-1])))

    query, key = prepared(query, query_scale), prepared(key, key_scale)
    if over == "space":
        y = attention(*(a.reshape(B * T, N, heads, -1) for a in (query, key, value)))
        return y.reshape(B, T, N, -1)
    groups = [jnp.swapaxes(a, 1, 2).reshape(B * N, T, heads, -1) for a in (query, key, value)]
    y = attention(*groups, Causal() if causal else None)
    return jnp.swapaxes(y.reshape(B, N, T, -1), 1, 2)


def run(function, parameters, dy):
    """The output and the gradients, in float32."""

    @jax.jit
    def both(parameters, dy):
        y, pull = jax.vjp(function, *parameters)
        return y, *pull(dy)

    return [np.asarray(a, np.float32) for a in both(parameters, dy)]


def fused(turn, heads, over, causal=False):
    return functools.partial(
        fused_attention, turn=turn, heads=heads, over=over, causal=causal, interpret=True
    )


CASES = [
    # B, T, N, heads, d, over, causal, turned
    (1, 2, 32, 2, 72, "space", False, True),
    (2, 3, 49, 1, 64, "space", False, True),  # frames of no even size, two of them in a block
    (1, 1, 5, 2, 8, "space", False, True),
    (1, 2, 1, 1, 128, "space", False, True),  # one token
    (1, 1, 300, 1, 4, "space", False, False),  # blocks of queries
    (1, 16, 16, 2, 72, "time", False, True),  # two groups
    (2, 3, 49, 1, 72, "time", True, True),
    (1, 1, 9, 1, 8, "time", False, True),  # one frame
    (1, 4, 1, 2, 128, "time", True, False),
    (1, 17, 8, 1, 8, "time", True, True),  # long enough to be reordered
]


@pytest.mark.parametrize(("B", "T", "N", "heads", "d", "over", "causal", "turned"), CASES)
def test_it_is_plain_attention(B, T, N, heads, d, over, causal, turned):
    parameters, turn, dy = inputs(B, T, N, heads, d, over, turned)
    assert supports(parameters[0].shape, heads, parameters[0].dtype, over)
    got = run(fused(turn, heads, over, causal), parameters, dy)
    expected = run(lambda *a: plain(*a, turn, heads, over, causal), parameters, dy)
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * max(1, np.abs(b).max()))


@pytest.mark.parametrize("over", ["space", "time"])
def test_in_bfloat16_it_is_as_exact_as_plain_attention(over):
    size = (1, 8, 16, 2, 72, over)
    parameters, turn, dy = inputs(*size, dtype="bfloat16")
    exact = [a.astype(jnp.float32) for a in parameters]
    truth = run(lambda *a: plain(*a, turn, 2, over, False), exact, dy.astype(jnp.float32))
    got = run(fused(turn, 2, over), parameters, dy)
    usual = run(lambda *a: plain(*a, turn, 2, over, False), parameters, dy)
    for a, b, c in zip(got, usual, truth, strict=True):
        assert np.linalg.norm(a - c) <= 2 * np.linalg.norm(b - c)


@pytest.mark.parametrize("over", ["space", "time"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_large_scales_are_safe(over, dtype):
    parameters, turn, dy = inputs(1, 4, 9, 1, 72, over, scale=30.0, dtype=dtype)
    got = run(fused(turn, 1, over), parameters, dy)
    assert all(np.isfinite(a).all() for a in got)
    if dtype == "float32":
        expected = run(lambda *a: plain(*a, turn, 1, over, False), parameters, dy)
        for a, b in zip(got, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=2e-3 * np.abs(b).max())


@pytest.mark.parametrize(("over", "group"), [("space", 16), ("time", 3)])
def test_flops_are_those_of_the_scores_in_a_group(over, group):
    parameters, turn, _ = inputs(2, 3, 16, 2, 8, over)
    jaxpr = jax.make_jaxpr(fused(turn, 2, over))(*parameters).jaxpr
    assert count(jaxpr).total() == 2 * 3 * 16 * group * 2 * 4 * 8


def test_what_is_supported():
    def xl(T, N):
        return (4, T, N, 3 * 1152)

    assert supports(xl(16, 256), 16, jnp.bfloat16, "space")
    assert supports(xl(16, 256), 9, jnp.bfloat16, "space")
    assert supports(xl(64, 256), 16, jnp.bfloat16, "time")
    assert not supports(xl(16, 1024), 16, jnp.bfloat16, "space")  # too large
    assert not supports(xl(16, 256), 16, jnp.float16, "space")
    assert not supports((1, 1, 16, 3 * 7), 1, jnp.float32, "space")  # no pairs to rotate


COMPILE = """
import jax, jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding
from jaxvid.models.kernels.factorized import fused_attention

def compile(chip, T, N, heads, d, over, dtype=jnp.bfloat16):
    device = topologies.get_topology_desc(platform="tpu", topology_name=chip).devices[0]

    def like(*shape, dtype=jnp.float32):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=SingleDeviceSharding(device))

    turn = like(2, *((N,) if over == "space" else (1, T)), d // 2)
    qkv, dy = (like(1, T, N, w * heads * d, dtype=dtype) for w in (3, 1))

    def both(qkv, query_scale, key_scale, turn, dy):
        f = lambda *a: fused_attention(*a, turn, heads=heads, over=over)
        y, pull = jax.vjp(f, qkv, query_scale, key_scale)
        return y, pull(dy)

    jax.jit(both).lower(qkv, like(d), like(d), turn, dy).compile()

for chip in ("v5e:2x2", "v5p:2x2x1", "v6e:2x2"):
    compile(chip, 16, 256, 4, 72, "space")
    compile(chip, 16, 256, 4, 72, "time")
for T, N, d, over in [(3, 49, 8, "space"), (3, 5, 72, "time"), (20, 9, 8, "time")]:
    compile("v5p:2x2x1", T, N, 2, d, over)
compile("v5e:2x2", 4, 16, 2, 72, "time", jnp.float32)
"""


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")
def test_tpus_compile_it():
    environment = dict(
        TPU_SKIP_MDS_QUERY="1",
        TPU_WORKER_HOSTNAMES="localhost",
        TPU_ACCELERATOR_TYPE="v5litepod-16",
        ALLOW_MULTIPLE_LIBTPU_LOAD="1",
        JAX_PLATFORMS="cpu",
    )
    command = [sys.executable, "-c", COMPILE]
    result = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
