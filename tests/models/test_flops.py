"""The analytic FLOPs against XLA's count, and against the parameters."""

import jax
import jax.numpy as jnp
import pytest

from jaxvid.models.flops import WORDS, forward_flops, train_flops
from jaxvid.models.mixers import MIXERS
from jaxvid.models.transformer import SpaceTimeTransformer

SHAPE = (1, 8, 32, 32, 3)
LINES = ["space mlp time mlp", "joint mlp", "space+time mlp"]


def network(blocks: str, **sizes) -> SpaceTimeTransformer:
    # Unrolled, because XLA counts the body of a loop once however often it runs; and wide, because
    # it counts elementwise work too, whose share falls with the width.
    defaults = dict(depth=2, unroll=2, width=512, heads=8, patch=(1, 4, 4))
    return SpaceTimeTransformer(blocks, dtype=jnp.dtype("float32"), **(defaults | sizes))


def abstract(net: SpaceTimeTransformer):
    video, level = (jax.ShapeDtypeStruct(s, jnp.float32) for s in (SHAPE, SHAPE[:2]))
    variables = jax.eval_shape(net.init, jax.random.key(0), video, level, level)
    return variables, video, level, level


def xla_flops(function, *arguments) -> float:
    # The level is of LLVM, which does not change what XLA counts and takes most of the time.
    options = {"xla_backend_optimization_level": 0}
    cost = jax.jit(function).lower(*arguments).compile(options).cost_analysis()
    return (cost[0] if isinstance(cost, list) else cost)["flops"]


def test_every_word_has_a_count():
    assert WORDS.keys() == MIXERS.keys()


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

    forward, both = xla_flops(net.apply, *arguments), xla_flops(jax.grad(loss), *arguments)
    assert sum(forward_flops(net, SHAPE).values()) == pytest.approx(forward, rel=within)
    assert sum(train_flops(net, SHAPE).values()) == pytest.approx(both, rel=within)


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
    assert sum(forward_flops(net, SHAPE).values()) == expected


def test_counts_follow_batch_depth_and_line():
    short, deep = (network("space mlp time mlp", depth=d, unroll=1) for d in (1, 5))
    once, five = forward_flops(short, SHAPE), forward_flops(deep, SHAPE)
    assert all(five[word] == 5 * once[word] for word in ("space", "time", "mlp"))
    assert five["embedding"] == once["embedding"]
    assert forward_flops(short, (3, *SHAPE[1:])) == {k: 3 * v for k, v in once.items()}
    assert once.keys() == {"space", "time", "mlp", "modulation", "embedding"}
