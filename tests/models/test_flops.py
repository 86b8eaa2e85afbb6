"""The FLOPs of the jaxpr against XLA's count, and against the parameters."""

import functools

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn
from jax.experimental import pallas as pl
from jax.extend.core import Primitive
from jax.sharding import PartitionSpec

from jaxvid.conditions.text import Text
from jaxvid.models.flops import forward_flops, train_flops
from jaxvid.models.mixers import MIXERS, MixerConfig, mixer
from jaxvid.models.transformer import SpaceTimeTransformer

SHAPE = (1, 8, 32, 32, 3)
LINES = ["space mlp time mlp", "joint mlp", "space+time mlp"]


def network(blocks: str, **sizes) -> SpaceTimeTransformer:
    # Unrolled, because XLA counts the body of a loop once however often it runs; and wide, because
    # it counts elementwise work too, whose share falls with the width.
    defaults = dict(depth=2, unroll=2, width=512, heads=8, patch=(1, 4, 4))
    return SpaceTimeTransformer(blocks, dtype=jnp.dtype("float32"), **(defaults | sizes))


def abstract(net: SpaceTimeTransformer, shape=SHAPE, condition=None):
    video, level = (jax.ShapeDtypeStruct(s, jnp.float32) for s in (shape, shape[:2]))
    inputs = (video, level, level, condition)
    return jax.eval_shape(net.init, jax.random.key(0), *inputs), *inputs


def forward(net: SpaceTimeTransformer, *arguments) -> dict[str, int]:
    return forward_flops(net.apply, *abstract(net, *arguments))


def xla_flops(function, *arguments) -> float:
    # The level is of LLVM, which does not change what XLA counts and takes most of the time.
    options = {"xla_backend_optimization_level": 0}
    cost = jax.jit(function).lower(*arguments).compile(options).cost_analysis()
    return (cost[0] if isinstance(cost, list) else cost)["flops"]


@pytest.mark.parametrize(
    ("blocks", "within"),
    [
        *((line, 0.01) for line in LINES),
        ("window swiglu", 0.01),
        # The recurrence's gates and scan are elementwise work, which XLA counts too.
        ("recur conv", 0.03),
    ],
)
def test_forward_and_backward_are_as_xla_counts_them(blocks: str, within: float):
    net = network(blocks)
    arguments = abstract(net)

    def loss(*arguments):
        return jnp.sum(net.apply(*arguments) ** 2)

    once, both = xla_flops(net.apply, *arguments), xla_flops(jax.grad(loss), *arguments)
    counted = forward_flops(net.apply, *arguments), train_flops(net.apply, *arguments)
    assert sum(counted[0].values()) == pytest.approx(once, rel=within)
    assert sum(counted[1].values()) == pytest.approx(both, rel=within)


@pytest.mark.parametrize("patch", [(1, 4, 4), (2, 8, 4)])
@pytest.mark.parametrize("blocks", [*LINES, "space time mlp"])
def test_layers_take_two_flops_per_weight_and_use(blocks: str, patch: tuple[int, int, int]):
    """What is left beside the kernels is attention: 4 D FLOPs per pair of tokens that meet."""
    net = network(blocks, depth=3, unroll=1, width=64, heads=2, mlp_ratio=3, patch=patch)
    B, T, H, W, _ = SHAPE
    t, n = T // patch[0], (H // patch[1]) * (W // patch[2])
    kernels = {
        jax.tree_util.keystr(path): x.size
        for path, x in jax.tree_util.tree_leaves_with_path(abstract(net)[0])
        if "kernel" in jax.tree_util.keystr(path)
    }
    per_frame = ("modulation", "noise")
    layers = sum(
        2 * size * B * t * (1 if any(word in path for word in per_frame) else n)
        for path, size in kernels.items()
    )
    pairs = {"space": t * n * n, "time": n * t * t, "joint": (t * n) ** 2}
    meetings = sum(pairs.get(word, 0) for word in blocks.replace("+", " ").split())
    expected = layers + net.depth * B * 4 * net.width * meetings
    assert sum(forward(net).values()) == expected


def test_counts_follow_batch_depth_and_line():
    short, deep = (network("space mlp time mlp", depth=d, unroll=1) for d in (1, 5))
    once, five = forward(short), forward(deep)
    assert all(five[word] == 5 * once[word] for word in ("space", "time", "mlp"))
    assert five["embedding"] == once["embedding"]
    assert forward(short, (3, *SHAPE[1:])) == {k: 3 * v for k, v in once.items()}
    assert once.keys() == {"space", "time", "mlp", "modulation", "embedding"}
    assert forward(network("5*(space mlp time mlp)", depth=1, unroll=1)) == five


@pytest.mark.parametrize("how", [dict(remat="full"), dict(unroll=1), dict(adaln="shared")])
def test_how_it_is_computed_changes_no_count(how: dict):
    line = "window swiglu recur"
    plain, other = forward(network(line)), forward(network(line, **how))
    if "adaln" in how:
        assert other.pop("modulation") < plain.pop("modulation")
    assert other == plain


def test_a_caption_costs_what_its_layers_and_scores_do():
    L, D, t, n = 5, 64, 8, 64
    sizes = dict(depth=3, unroll=1, width=D, heads=2)
    net = network("text mlp", conditions=(Text(L, dim=7),), **sizes)
    text = {
        "embedding": jax.ShapeDtypeStruct((1, L, 7), jnp.float32),
        "mask": jax.ShapeDtypeStruct((1, L), bool),
    }
    without = forward(network("mlp", width=D, heads=2))
    counted = forward(net, SHAPE, {"text": text})
    query_out, key_value, attended = 2 * t * n * D * D, 2 * L * D * D, 2 * t * n * L * D
    assert counted["text"] == 3 * 2 * (query_out + key_value + attended)
    assert counted["embedding"] == without["embedding"] + 2 * L * 7 * D + 2 * D * D


@pytest.fixture
def blur():
    @mixer("blur")
    class Blur(nn.Module):
        config: MixerConfig
        size: int = 3

        @nn.compact
        def __call__(self, x, context):
            B, T, N, D = x.shape
            x = x.reshape(B * T, N, D)
            return nn.Conv(D, (self.size,), name="conv")(x).reshape(B, T, N, D)

    yield
    del MIXERS["blur"]


@pytest.mark.usefixtures("blur")
def test_a_word_from_outside_is_counted_without_a_declaration():
    counted = forward(network("blur(size=5) mlp", width=64, heads=2))
    assert counted["blur"] == 2 * (2 * 5 * 64 * 64) * 8 * 64


def matmul_kernel(x_ref, y_ref):
    y_ref[...] = x_ref[...] @ x_ref[...]


def fused(x, cost=None):
    shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
    return pl.pallas_call(matmul_kernel, out_shape=shape, cost_estimate=cost)(x)


def loop(x):
    return jax.lax.while_loop(lambda x: x.sum() < 9, lambda x: x @ x, x)


def sharded(x):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = PartitionSpec("data")
    return jax.shard_map(lambda x: x @ x.T, mesh=mesh, in_specs=spec, out_specs=spec)(x)


def cudnn(x):
    """The equation that cuDNN's attention leaves in a jaxpr, which only a GPU can run."""
    primitive = Primitive("dot_product_attention_fwd_wrapper")
    primitive.def_abstract_eval(lambda query, key: query)
    return primitive.bind(jnp.ones((2, 3, 5, 8)), jnp.ones((2, 7, 5, 8)))


PRODUCT = 2 * 8**3
DECLARED = pl.CostEstimate(flops=7, transcendentals=0, bytes_accessed=0)


@pytest.mark.parametrize(
    ("function", "flops"),
    [
        (lambda x: jax.lax.scan(lambda c, _: (c @ x, None), x, length=3)[0], 3 * PRODUCT),
        (lambda x: jax.lax.cond(x[0, 0] > 0, lambda: x @ x, lambda: x @ x @ x), 2 * PRODUCT),
        (jax.checkpoint(jax.jit(lambda x: x @ x)), PRODUCT),
        (functools.partial(fused, cost=DECLARED), 7),
        (sharded, 8 * 2 * 8),
        (cudnn, 2 * 2 * 5 * 3 * 7 * 2 * 8),
        (lambda x: jax.lax.ragged_dot(x, jnp.ones((2, 8, 8)), jnp.array([3, 5])), PRODUCT),
        (lambda x: jax.lax.fori_loop(0, x[0, 0].astype(int), lambda i, y: y + i, x), 0),
    ],
)
def test_what_runs_inside_is_counted_as_often_as_it_runs(function, flops):
    assert sum(forward_flops(function, jnp.ones((8, 8))).values()) == flops


@pytest.mark.parametrize(
    ("function", "line"),
    [
        (fused, "declares no cost; give pallas_call a cost_estimate"),
        (loop, "no known number of steps"),
        (lambda x: jax.ffi.ffi_call("kernel", x)(x), "ffi_call declares no cost"),
    ],
)
def test_what_cannot_be_counted_is_refused(function, line):
    with pytest.raises(ValueError, match=line):
        forward_flops(function, jnp.ones((8, 8)))
