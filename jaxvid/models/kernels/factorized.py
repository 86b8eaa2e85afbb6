"""Attention within frames or within places on TPU, as one kernel from projection to output.

The kernel turns a block of tokens on its side: tokens lie along the lanes of the vector registers,
the features of a head along their sublanes. Heads of any size are then aligned, and the sums of
norms and softmax need no exchange between lanes. Scores never leave the chip, forward or backward.
The backward kernel computes everything again from the projection, so it needs no other residual.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Bool, Float, Float32

from jaxvid.models.layers import EPSILON

MASKED = -1e30  # added to scores that do not count; finite, so that no difference is nan
LOG2_E = math.log2(math.e)
LANES, SUBLANES = 128, 8
STAGES = 4  # buffers for reordering, so that tiles do not wait for one another
VMEM = 56 * 2**20  # bytes the compiler may use, of at least 64 MiB
BLOCKS = 40 * 2**20  # bytes of them for the blocks of `_memory`; the rest is for temporaries


def fused_attention(
    qkv: Float[Array, "B T N E"],
    query_scale: Float[Array, " d"],
    key_scale: Float[Array, " d"],
    turn: Float32[Array, "2 *S F"] | None,
    *,
    heads: int,
    over: str,
    causal: bool = False,
    interpret: bool = False,
) -> Float[Array, "B T N D"]:
    """Normalises and rotates queries and keys, and attends within frames or within places.

    Norms, rotation and softmax are in float32; operands of matrix products are of the dtype of
    `qkv`, which is all that the backward pass needs.

    Args:
      qkv: queries, keys and values, E = 3 * heads * d: each is `heads` heads of d features.
      query_scale, key_scale: scales of the RMS norms.
      turn: cosines and sines that rotate the F = d / 2 pairs (i, i + F) of a head: [2,N,F] over
        space, [2,B,T,F] over time. None: no rotation. It gets no gradient.
      heads: number of heads.
      over: "space", the tokens of a frame attend to one another, or "time", those of a place.
      causal: only over time: a frame sees itself and the frames before it.
      interpret: run without a TPU, slowly.

    Returns:
      The heads, joined: D = heads * d.
    """
    plan = _plan(qkv.shape, heads, over, causal, interpret)
    return _attention(plan, qkv, query_scale, key_scale, turn)


def supports(shape: tuple[int, int, int, int], heads: int, dtype: Any, over: str) -> bool:
    """Whether the kernel can run on a projection of `shape` [B,T,N,E].

    The dtype is bfloat16 or float32, and the features of a head are even. Over space all tokens of
    a frame, over time the frames of at least 8 places are in VMEM at once, with all their heads,
    which limits N * E or T * E. There are at most 1024 tokens in a frame and 1024 frames.
    """
    size = shape[-1] // (3 * heads)
    if jnp.dtype(dtype) not in (jnp.bfloat16, jnp.float32) or size % 2 or 3 * heads * size < 1:
        return False
    plan = _plan(shape, heads, over)
    return plan.tokens <= 1024 and _memory(plan, jnp.dtype(dtype).itemsize) <= BLOCKS


class _Plan(NamedTuple):
    """How the tokens are divided among the steps of the grid, and in a step among groups.

    Tokens attend to one another only within a group. A group has `tokens` tokens of several frames
    or places; a mask tells those apart.

    Attributes:
      heads, d: heads and features of a head.
      over, causal, interpret: as in `fused_attention`.
      T, N: frames and places of a clip.
      grid: steps, (clips, blocks of a clip).
      frames, places: size of the block of a step; the last block may lie partly outside the clip.
      groups: groups of a block, which divide its places.
      tokens: size of a group.
      run: a group is made of runs of `run` tokens that are next to one another in space or time.
      by_place: the tokens of a group are ordered (place, frame); otherwise (frame, place).
    """

    heads: int
    d: int
    over: str
    causal: bool
    interpret: bool
    T: int
    N: int
    grid: tuple[int, int]
    frames: int
    places: int
    groups: int
    tokens: int
    run: int
    by_place: bool = False

    @property
    def units(self) -> int:
        """Heads of all groups: the pieces of work of a step."""
        return self.heads * self.groups

    @property
    def half(self) -> int:
        """Sublanes of half a head."""
        return _up(self.d // 2, SUBLANES)


def _up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


def _plan(
    shape: tuple[int, ...], heads: int, over: str, causal: bool = False, interpret: bool = False
) -> _Plan:
    """Groups have about 128 tokens where that is possible: as many as the matrix unit is wide."""
    B, T, N, E = shape
    whole = (heads, E // (3 * heads), over, causal, interpret, T, N)
    if over == "space":
        places = _up(N, 2 * SUBLANES if N <= 2 * LANES else LANES)
        frames = max(1, min(T, LANES // places))
        steps = -(-T // frames)
        return _Plan(*whole, (B, steps), frames, places, 1, frames * places, places)
    if T > LANES // SUBLANES:  # 8 places, the fewest that a block can have, are too large a group
        run = _up(T, SUBLANES if T <= 2 * LANES else LANES)
        together = max(n for n in (1, 2, 4, 8) if n == 1 or n * run <= LANES)
        steps, groups = -(-N // SUBLANES), SUBLANES // together
        return _Plan(*whole, (B, steps), T, SUBLANES, groups, together * run, run, True)
    run = min(_up(N, SUBLANES), LANES // T // SUBLANES * SUBLANES)
    groups = min(-(-N // run), 2)  # two, because registers of bfloat16 have twice the sublanes
    steps = -(-N // (groups * run))
    return _Plan(*whole, (B, steps), T, groups * run, groups, T * run, run)


def _memory(plan: _Plan, itemsize: int) -> int:
    """Bytes of VMEM for the blocks and the scratch of the backward kernel."""
    tokens = plan.frames * plan.places * plan.heads
    inputs = 2 * 7 * tokens * plan.d * itemsize  # qkv, dy and dqkv, twice because of prefetching
    return inputs + 7 * 4 * plan.units * 2 * plan.half * plan.tokens + 2 * 4 * plan.tokens**2


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(
    plan: _Plan,
    qkv: Float[Array, "B T N E"],
    query_scale: Float[Array, " d"],
    key_scale: Float[Array, " d"],
    turn: Float32[Array, "2 *S F"] | None,
) -> Float[Array, "B T N D"]:
    out = jax.ShapeDtypeStruct((*qkv.shape[:3], plan.heads * plan.d), qkv.dtype)
    scratch = [_heads(plan, 2, 2 * plan.half), _heads(plan, 1, plan.d), _heads(plan, 1, plan.d)]
    (y,) = _call(_forward, plan, [qkv], query_scale, key_scale, turn, [out], scratch, products=2)
    return y


def _attention_fwd(
    plan: _Plan, qkv: Array, query_scale: Array, key_scale: Array, turn: Any
) -> tuple[Array, tuple[Any, ...]]:
    y = _attention(plan, qkv, query_scale, key_scale, turn)
    return y, (qkv, query_scale, key_scale, turn)


def _attention_bwd(
    plan: _Plan, residuals: tuple[Any, ...], dy: Float[Array, "B T N D"]
) -> tuple[Array, Array, Array, None]:
    qkv, query_scale, key_scale, turn = residuals
    dqkv = jax.ShapeDtypeStruct(qkv.shape, qkv.dtype)
    dscales = jax.ShapeDtypeStruct((*plan.grid, 1, 2, 2 * plan.half), jnp.float32)
    pair, one = _heads(plan, 2, 2 * plan.half), _heads(plan, 1, plan.d)
    scratch = [pair, one, one, pair, one]
    dqkv, dscales = _call(
        _backward, plan, [qkv, dy], query_scale, key_scale, turn, [dqkv, dscales],
        scratch, products=5,
    )  # fmt: skip
    dscales = jnp.sum(dscales, axis=(0, 1, 2)).reshape(2, 2, plan.half)[..., : plan.d // 2]
    dquery_scale, dkey_scale = dscales.reshape(2, plan.d)
    dquery_scale = (dquery_scale * plan.d**-0.5).astype(query_scale.dtype)
    dkey_scale = (dkey_scale / LOG2_E).astype(key_scale.dtype)
    return dqkv, dquery_scale, dkey_scale, None


_attention.defvjp(_attention_fwd, _attention_bwd)


def _heads(plan: _Plan, parts: int, features: int) -> Any:
    """Scratch for the heads of `parts` arrays, on their side: [parts, unit, feature, token]."""
    return pltpu.VMEM((parts, plan.units, _up(features, SUBLANES), plan.tokens), jnp.float32)


def _call(
    kernel: Callable[..., None],
    plan: _Plan,
    arrays: list[Array],
    query_scale: Float[Array, " d"],
    key_scale: Float[Array, " d"],
    turn: Float32[Array, "2 *S F"] | None,
    outputs: list[jax.ShapeDtypeStruct],
    scratch: list[Any],
    products: int,
) -> Sequence[Array]:
    """Runs the kernel on the grid; it has `products` matrix products of 2 * d FLOPs per score."""

    tokens = arrays[0].shape[:3]
    constants = {
        "scales": _scales(plan, query_scale, key_scale),
        "turn": None if turn is None else _turn(plan, turn),
        "mask": _mask(plan),
    }

    def block(array: Any) -> pl.BlockSpec:
        if array.ndim == 5:  # one for each step
            return pl.BlockSpec((1, 1, *array.shape[2:]), lambda b, i: (b, i, 0, 0, 0))
        shape = (1, plan.frames, plan.places, array.shape[3])
        if plan.over == "space":
            return pl.BlockSpec(shape, lambda b, i: (b, i, 0, 0))
        return pl.BlockSpec(shape, lambda b, i: (b, 0, i, 0))

    def constant(array: Array) -> pl.BlockSpec:
        if array.ndim == 4 and len(array) > 1:  # one for each clip
            return pl.BlockSpec((1, *array.shape[1:]), lambda b, i: (b, 0, 0, 0))
        return pl.BlockSpec(array.shape, lambda b, i: (0,) * array.ndim)

    if plan.by_place:
        scratch = [*scratch, pltpu.VMEM((STAGES, plan.run * plan.places, LANES), jnp.float32)]
    scores = math.prod(tokens) * plan.heads * (plan.N if plan.over == "space" else plan.T)
    cost = pl.CostEstimate(
        flops=products * 2 * plan.d * scores,
        transcendentals=scores,
        bytes_accessed=sum(a.size * a.dtype.itemsize for a in (*arrays, *outputs)),
    )
    return pl.pallas_call(
        functools.partial(kernel, plan),
        grid=plan.grid,
        in_specs=[[block(a) for a in arrays], jax.tree.map(constant, constants)],
        out_specs=[block(a) for a in outputs],
        out_shape=outputs,
        scratch_shapes=scratch,
        cost_estimate=cost,
        interpret=plan.interpret,
        name=f"attention{kernel.__name__}",
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel"), vmem_limit_bytes=VMEM
        ),
    )(arrays, constants)


def _scales(
    plan: _Plan, query_scale: Float[Array, " d"], key_scale: Float[Array, " d"]
) -> Float32[Array, "4 P L"]:
    """Factors of normalised queries and keys, then those of their gradients, for all tokens.

    Queries are divided by sqrt(d) and multiplied by log2(e) beforehand, so that the softmax is
    that of powers of two.
    """
    query, key = query_scale.astype(jnp.float32) * plan.d**-0.5, key_scale.astype(jnp.float32)
    scales = jnp.stack([query * LOG2_E, key, query, key / LOG2_E]).reshape(4, 2, plan.d // 2)
    scales = jnp.pad(scales, ((0, 0), (0, 0), (0, plan.half - plan.d // 2)))
    return jnp.broadcast_to(scales.reshape(4, -1, 1), (4, 2 * plan.half, plan.tokens))


def _turn(plan: _Plan, turn: Float32[Array, "2 *S F"]) -> Float32[Array, "#B 2 P L"]:
    """Cosines and sines for the tokens of a group."""
    if plan.over == "space":
        turn, length = turn[None], plan.N
    else:
        turn, length = jnp.moveaxis(turn, 1, 0), plan.T
    turn = jnp.moveaxis(turn, 3, 2)
    pairs = ((0, 0), (0, 0), (0, plan.half - plan.d // 2))
    if plan.over == "time" and not plan.by_place:
        return jnp.repeat(jnp.pad(turn, (*pairs, (0, 0))), plan.run, axis=3)
    turn = jnp.pad(turn, (*pairs, (0, plan.run - length)))
    return jnp.tile(turn, plan.tokens // plan.run)


def _mask(plan: _Plan) -> Float32[Array, "L L"] | None:
    """0 where a key (row) counts for a query (column) of a group; None: everywhere."""
    outer, inner = jnp.divmod(jnp.arange(plan.tokens), plan.run)
    if plan.over == "time" and not plan.by_place:
        outer, inner = inner, outer  # now (place, frame), or (frame, place) over space
    length = plan.N if plan.over == "space" else plan.T
    if plan.over == "space" and plan.tokens == length:
        return None
    seen = (outer[:, None] == outer) & (inner < length)[:, None]
    if plan.over == "time" and plan.causal:
        seen &= inner[:, None] <= inner
    return jnp.where(seen, 0.0, MASKED)


def _forward(plan: _Plan, inputs: Any, constants: Any, y: Any, *scratch: Any) -> None:
    """The forward kernel: a step of the grid. All arguments but the plan are references."""
    (qkv,), (pairs, values, outs, *stages) = inputs, scratch
    width = plan.heads * plan.d
    _turn_over(plan, qkv, 0, pairs, 0, stages)
    _turn_over(plan, qkv, width, pairs, 1, stages)
    _turn_over(plan, qkv, 2 * width, values, 0, stages)

    def attend(units: list[Array], _: None) -> None:
        query = [_prepared(plan, pairs, 0, u, constants)[0].astype(qkv.dtype) for u in units]
        key = [_prepared(plan, pairs, 1, u, constants)[0].astype(qkv.dtype).T for u in units]
        value = [values[0, u, : plan.d].astype(qkv.dtype) for u in units]
        for some in _queries(plan):
            logits = [_dot(plan, k, q[:, some]) for k, q in zip(key, query, strict=True)]
            weights = [_softmax(a, constants, some) for a in logits]
            for u, v, (power, norm) in zip(units, value, weights, strict=True):
                outs[0, u, : plan.d, some] = _dot(plan, v, power.astype(qkv.dtype)) * norm

    _for_units(plan, attend, None)
    _turn_back(plan, outs, 0, y, 0, stages)


def _backward(
    plan: _Plan, inputs: Any, constants: Any, dqkv: Any, dscales: Any, *scratch: Any
) -> None:
    """The backward kernel: a step of the grid. All arguments but the plan are references."""
    (qkv, dy), (pairs, values, douts, dpairs, dvalues, *stages) = inputs, scratch
    width, dtype = plan.heads * plan.d, qkv.dtype
    _turn_over(plan, qkv, 0, pairs, 0, stages)
    _turn_over(plan, qkv, width, pairs, 1, stages)
    _turn_over(plan, qkv, 2 * width, values, 0, stages)
    _turn_over(plan, dy, 0, douts, 0, stages)

    def attend(units: list[Array], sums: tuple[Array, Array]) -> tuple[Array, Array]:
        prepared = [[_prepared(plan, pairs, i, u, constants) for u in units] for i in range(2)]
        query, key = ([a.astype(dtype) for a, _, _ in part] for part in prepared)
        value = [values[0, u, : plan.d].astype(dtype) for u in units]
        dout = [douts[0, u, : plan.d].astype(dtype) for u in units]
        upright_key, upright_value = [a.T for a in key], [a.T for a in value]
        dquery, dkey, dvalue = ([[] for _ in units] for _ in range(3))
        for some in _queries(plan):
            # The order of these lines matters to the compiler's schedule.
            logits = [_dot(plan, k, q[:, some]) for k, q in zip(upright_key, query, strict=True)]
            softmax = [_softmax(a, constants, some) for a in logits]
            dweights = [_dot(plan, v, d[:, some]) for v, d in zip(upright_value, dout, strict=True)]
            for i, (power, norm) in enumerate(softmax):
                weights = power * norm
                both = weights * dweights[i]
                dlogits = (both - weights * jnp.sum(both, axis=0, keepdims=True)).astype(dtype)
                dvalue[i].append(
                    _dot(plan, dout[i][:, some], weights.astype(dtype), transposed=True)
                )
                dkey[i].append(_dot(plan, query[i][:, some], dlogits, transposed=True))
                dquery[i].append(_dot(plan, key[i], dlogits))
        for i, u in enumerate(units):
            dvalues[0, u, : plan.d] = sum(dvalue[i][1:], dvalue[i][0])
            gradients = jnp.concatenate(dquery[i], axis=1), sum(dkey[i][1:], dkey[i][0])
            sums = tuple(
                total + _unprepare(plan, gradient, prepared[part][i], dpairs, part, u, constants)
                for part, (total, gradient) in enumerate(zip(sums, gradients, strict=True))
            )
        return sums

    zero = jnp.zeros((2 * plan.half, plan.tokens), jnp.float32)
    for part, total in enumerate(_for_units(plan, attend, (zero, zero))):
        dscales[0, 0, 0, part : part + 1] = jnp.sum(total.T, axis=0, keepdims=True)
    _turn_back(plan, dpairs, 0, dqkv, 0, stages)
    _turn_back(plan, dpairs, 1, dqkv, width, stages)
    _turn_back(plan, dvalues, 0, dqkv, 2 * width, stages)


def _for_units(plan: _Plan, body: Callable[[list[Array], Any], Any], init: Any) -> Any:
    """Runs the body for several units at a time.

    The compiler fills the time that one unit waits for a matrix product with work of the others.
    """
    together, steps, unroll = _loop(plan)

    def step(i: Array, carry: Any) -> Any:
        return body([i * together + j for j in range(together)], carry)

    return jax.lax.fori_loop(0, steps, step, init, unroll=unroll)


def _loop(plan: _Plan) -> tuple[int, int, int]:
    """Units that a step of the loop takes together, steps, and how far the loop is unrolled.

    They are those for which the compiler schedules the fewest instructions.
    """
    together = _divisor(plan.units, max(1, min(8, 1024 // plan.tokens)))
    steps = plan.units // together
    return together, steps, _divisor(steps, 3) if LANES < plan.tokens <= 2 * LANES else 1


def iterations(shape: tuple[int, int, int, int], heads: int, over: str) -> tuple[int, int]:
    """How often the compiled kernel runs the body of its grid, and in it that of its loop."""
    plan = _plan(shape, heads, over)
    _, steps, unroll = _loop(plan)
    return math.prod(plan.grid), steps // unroll


def _divisor(number: int, limit: int) -> int:
    return max(n for n in range(1, limit + 1) if number % n == 0)


def _queries(plan: _Plan) -> list[slice]:
    """Blocks of queries whose scores are computed at once, so that they fit into fast memory."""
    size = max(LANES, (2 * LANES) ** 2 // plan.tokens // LANES * LANES)
    if plan.tokens % size:
        size = plan.tokens
    return [slice(i, i + size) for i in range(0, plan.tokens, size)]


def _prepared(
    plan: _Plan, pairs: Any, part: int, unit: Array, constants: Any
) -> tuple[Float32[Array, "P L"], Float32[Array, "P L"], Float32[Array, "1 L"]]:
    """Queries (part 0) or keys (1): the operand, the normalised head, and the factor that did."""
    x = pairs[part, unit]
    factor = jax.lax.rsqrt(jnp.sum(x * x, axis=0, keepdims=True) * (1 / plan.d) + EPSILON)
    normalised = x * factor
    return _rotated(normalised * constants["scales"][part], constants["turn"]), normalised, factor


def _unprepare(
    plan: _Plan,
    dx: Float32[Array, "P L"],
    prepared: tuple[Array, Array, Array],
    dpairs: Any,
    part: int,
    unit: Array,
    constants: Any,
) -> Float32[Array, "P L"]:
    """Writes the gradient of a head, given that of its operand; returns that of the scale."""
    _, normalised, factor = prepared
    dx = _rotated(dx, constants["turn"], back=True)
    dnormalised = dx * constants["scales"][part + 2]
    along = jnp.sum(dnormalised * normalised, axis=0, keepdims=True) * (1 / plan.d)
    dpairs[part, unit] = factor * (dnormalised - normalised * along)
    return dx * normalised


def _rotated(x: Float32[Array, "P L"], turn: Any, back: bool = False) -> Float32[Array, "P L"]:
    """Rotates the pairs of (first half, second half)."""
    if turn is None:
        return x
    half = len(x) // 2
    first, second, cos, sin = x[:half], x[half:], turn[0, 0], turn[0, 1]
    if back:
        return jnp.concatenate([first * cos + second * sin, second * cos - first * sin])
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin])


def _softmax(
    logits: Float32[Array, "L Q"], constants: Any, queries: slice
) -> tuple[Float32[Array, "L Q"], Float32[Array, "1 Q"]]:
    """Powers of two, and the factors that make those of each query (column) sum to 1."""
    if constants["mask"] is not None:
        logits = logits + constants["mask"][:, queries]
    power = jnp.exp2(logits - jnp.max(logits, axis=0, keepdims=True))
    return power, 1 / jnp.sum(power, axis=0, keepdims=True)


def _dot(
    plan: _Plan, a: Float[Array, "I J"], b: Float[Array, "_ _"], transposed: bool = False
) -> Float32[Array, "I _"]:
    """a b, or a b^T."""
    dimensions = (((1,), (1 if transposed else 0,)), ((), ()))
    if plan.interpret:  # CPUs do not multiply bfloat16 in all cases; the products are exact
        a, b = a.astype(jnp.float32), b.astype(jnp.float32)
    precision = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    return jax.lax.dot_general(a, b, dimensions, precision, jnp.float32)


def _turn_over(plan: _Plan, flat: Any, start: int, heads: Any, part: int, stages: Any) -> None:
    """Reads the heads whose features begin at `start` of a block, [1,frames,places,features].

    Queries and keys, which have two parts, have zeros after each half, so that both are aligned.
    """
    for tile, (first, last) in enumerate(_tiles(plan)):
        x = flat[0, :, :, start + first : start + last]
        for group, rows in enumerate(_groups(plan, x, stages, tile)):
            rows = rows.T.astype(jnp.float32)
            for head, row, a, b in _pieces(plan, heads, first, last):
                heads[part, head * plan.groups + group, row : row + b - a] = rows[a:b]
    zeros = plan.half - plan.d // 2
    if len(heads) == 2 and zeros:
        for unit in range(plan.units):
            for row in (plan.half, 2 * plan.half):
                heads[part, unit, row - zeros : row] = jnp.zeros((zeros, plan.tokens), jnp.float32)


def _turn_back(plan: _Plan, heads: Any, part: int, flat: Any, start: int, stages: Any) -> None:
    """The inverse of `_turn_over`."""
    for tile, (first, last) in enumerate(_tiles(plan)):
        groups = []
        for group in range(plan.groups):
            rows = [
                heads[part, head * plan.groups + group, row : row + b - a]
                for head, row, a, b in _pieces(plan, heads, first, last)
            ]
            groups.append(jnp.concatenate(rows).astype(flat.dtype).T)
        x = _ungrouped(plan, groups, stages, tile).astype(flat.dtype)
        flat[0, :, :, start + first : start + last] = x


def _tiles(plan: _Plan) -> list[tuple[int, int]]:
    """The features of all heads, divided at lane tiles."""
    width = plan.heads * plan.d
    return [(i, min(i + LANES, width)) for i in range(0, width, LANES)]


def _pieces(plan: _Plan, heads: Any, first: int, last: int) -> list[tuple[int, int, int, int]]:
    """Where features first to last are: head, row in the head, and range from `first` on."""
    halves = len(heads)
    size = plan.d // halves
    return [
        (
            i // halves,
            i % halves * plan.half + max(first - i * size, 0),
            max(i * size - first, 0),
            min((i + 1) * size, last) - first,
        )
        for i in range(first // size, -(-last // size))
    ]


def _groups(
    plan: _Plan, x: Float[Array, "A S W"], stages: Any, tile: int
) -> list[Float[Array, "L W"]]:
    """Divides a block among its groups. Tokens outside the clip become zeros."""
    exists = _exists(plan, x.shape)
    if exists is not None:
        x = jnp.where(exists, x.astype(jnp.float32), 0).astype(x.dtype)
    A, S, W = x.shape
    if plan.groups == 1 and S % (2 * SUBLANES) == 0:
        return [x.reshape(plan.tokens, W)]
    size, dtype, x = S // plan.groups, x.dtype, x.astype(jnp.float32)
    if not plan.by_place:
        groups = [x[:, i : i + size].reshape(plan.tokens, W) for i in range(0, S, size)]
    else:
        if plan.run > A:
            x = jnp.concatenate([x, jnp.zeros((plan.run - A, S, W), x.dtype)])
        stage = stages[0].at[tile % STAGES]
        stage[:, :W] = x.reshape(plan.run * S, W)
        runs = [stage[pl.ds(i, plan.run, stride=S), :W] for i in range(S)]
        groups = [jnp.concatenate(runs[i : i + size]) for i in range(0, S, size)]
    return [group.astype(dtype) for group in groups]


def _ungrouped(
    plan: _Plan, groups: list[Float[Array, "L W"]], stages: Any, tile: int
) -> Float[Array, "A S W"]:
    """The inverse of `_groups`."""
    A, S, W = plan.frames, plan.places, groups[0].shape[1]
    if plan.groups == 1 and S % (2 * SUBLANES) == 0:
        return groups[0].reshape(A, S, W)
    size, groups = S // plan.groups, [group.astype(jnp.float32) for group in groups]
    if not plan.by_place:
        return jnp.concatenate([group.reshape(A, size, W) for group in groups], axis=1)
    stage = stages[0].at[tile % STAGES]
    for i in range(S):
        run = groups[i // size][i % size * plan.run :][: plan.run]
        stage[pl.ds(i, plan.run, stride=S), :W] = run
    return stage[: A * S, :W].reshape(A, S, W)


def _exists(plan: _Plan, shape: tuple[int, ...]) -> Bool[Array, "A S W"] | None:
    """Which tokens of a block are in the clip; None: all, in all blocks."""
    frames = jax.lax.broadcasted_iota(jnp.int32, shape, 0)
    places = jax.lax.broadcasted_iota(jnp.int32, shape, 1)
    if plan.over == "space":
        if plan.T % plan.frames == 0 and plan.places == plan.N:
            return None
        return (frames + pl.program_id(1) * plan.frames < plan.T) & (places < plan.N)
    if plan.N % plan.places == 0:
        return None
    return places + pl.program_id(1) * plan.places < plan.N
