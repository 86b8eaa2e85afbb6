"""Attention within frames or within places as one kernel on TPU: norms, rotation, softmax, sums.

In the kernel, the tokens of a block lie along the lanes of the vector registers and the features of
a head along their sublanes. Then heads of any size are aligned, and the sums of norms and softmax
need no exchange between lanes.
"""

import functools
import math
import os
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float, Float32

f32 = jnp.float32
EPSILON = 1e-6  # of the RMS norms, as in flax
MASKED = -1e30
LOG2_E = math.log2(math.e)
WIDTH = [int(s) for s in os.environ.get("WIDTH", "2,2").split(",")]
UNROLL = [int(s) for s in os.environ.get("UNROLL", "2,2").split(",")]
QB = int(os.environ.get("QB", "0"))
NOMAX = int(os.environ.get("NOMAX", "0"))


class Plan(NamedTuple):
    heads: int
    d: int
    over: str
    causal: bool
    T: int
    N: int
    A: int  # frames of a block
    S: int  # places of a block
    n: int  # groups of rows into which a block is divided
    R: int  # rows of a group
    order: str  # "frames": rows are ordered (frame, place); "places": (place, frame)
    grid: tuple

    @property
    def F(self): return self.d // 2
    @property
    def D(self): return 2 * up(self.d // 2, 8)
    @property
    def V(self): return up(self.d, 8)
    @property
    def units(self): return self.heads * self.n
    @property
    def Tp(self): return up(self.T, 8)


def up(n, m): return -(-n // m) * m


def make_plan(shape, heads, over, causal):
    B, T, N, E = shape
    d = E // (3 * heads)
    if over == "space":
        S = up(N, 16) if N <= 256 else up(N, 128)
        A = max(1, min(T, 128 // S))
        return Plan(heads, d, over, causal, T, N, A, S, 1, A * S, "frames", (B, -(-T // A)))
    if T > 16:
        g = max(g for g in (1, 2, 4, 8) if g == 1 or g * up(T, 8) <= 128)
        return Plan(heads, d, over, causal, T, N, T, 8, 8 // g, g * up(T, 8), "places", (B, -(-N // 8)))
    G = min(up(N, 8), max(8, 128 // T // 8 * 8))
    n = min(-(-N // G), 2)
    return Plan(heads, d, over, causal, T, N, T, n * G, n, T * G, "frames", (B, -(-N // (n * G))))


def dot(a, b, da, db):
    prec = jax.lax.Precision.HIGHEST if a.dtype == f32 else None
    return jax.lax.dot_general(a, b, (((da,), (db,)), ((), ())), preferred_element_type=f32, precision=prec)


def tiles(width):
    return [(i, min(i + 128, width)) for i in range(0, width, 128)]


def pieces(p, lo, hi, halves):
    """[(head, row, first, last)]: features lo..hi (relative to lo: first..last) are rows of head."""
    out = []
    size = p.F if halves else p.d
    for i in range(p.heads * p.d // size):
        s, e = max(lo, i * size), min(hi, (i + 1) * size)
        if s < e:
            h, row = (i // 2, i % 2 * (p.D // 2)) if halves else (i, 0)
            out.append((h, row + s - i * size, s - lo, e - lo))
    return out


def valid(p, shape):
    """which tokens of a block exist"""
    i = pl.program_id(1)
    a = jax.lax.broadcasted_iota(jnp.int32, shape, 0)
    s = jax.lax.broadcasted_iota(jnp.int32, shape, 1)
    if p.over == "space":
        return (a + i * p.A < p.T) & (s < p.N)
    return s + i * p.S < p.N


def ragged(p):
    if p.over == "space": return p.T % p.A > 0 or p.N < p.S
    return p.N % p.S > 0


def groups_of(p, y, stage):
    """[A,S,w] to n of [R,w]"""
    w = y.shape[-1]
    if ragged(p):
        y = jnp.where(valid(p, y.shape), y.astype(f32), 0.0).astype(y.dtype)
    if p.order == "places":
        z = y.astype(f32)
        if p.Tp > p.T: z = jnp.concatenate([z, jnp.zeros((p.Tp - p.T, *z.shape[1:]), f32)], 0)
        stage[:, :w] = z.reshape(p.Tp * p.S, w)
        rows = [stage[pl.ds(s, p.Tp, stride=p.S), :w] for s in range(p.S)]
        g = p.S // p.n
        return [jnp.concatenate(rows[i : i + g], 0).astype(y.dtype) for i in range(0, p.S, g)]
    G = p.S // p.n
    if p.n == 1 and p.S % 16 == 0: return [y.reshape(p.R, w)]
    z = y.astype(f32)
    return [z[:, i : i + G].reshape(p.R, w).astype(y.dtype) for i in range(0, p.S, G)]


def block_of(p, ys, stage, dtype):
    """inverse of groups_of"""
    w = ys[0].shape[-1]
    if p.order == "places":
        g = p.S // p.n
        for s in range(p.S):
            at = s % g * p.Tp
            stage[pl.ds(s, p.Tp, stride=p.S), :w] = ys[s // g][at : at + p.Tp].astype(f32)
        return stage[: p.T * p.S, :w].reshape(p.T, p.S, w).astype(dtype)
    G = p.S // p.n
    if p.n == 1 and p.S % 16 == 0: return ys[0].reshape(p.A, p.S, w)
    return jnp.concatenate([y.astype(f32).reshape(p.A, G, w) for y in ys], 1).astype(dtype)


def spread(p, x, first, into, part, halves, stages):
    """features first.. of the block [1,A,S,E] to [K,d,R]."""
    for t, (lo, hi) in enumerate(tiles(p.heads * p.d)):
        y = x[0, :, :, first + lo : first + hi]
        for g, z in enumerate(groups_of(p, y, stages and stages[0].at[t % 4])):
            z = z.T.astype(f32)
            for h, row, s, e in pieces(p, lo, hi, halves):
                into[part, h * p.n + g, row : row + e - s] = z[s:e]
    zero = p.D // 2 - p.F
    if halves and zero:
        for u in range(p.units):
            for row in (p.F, p.D // 2 + p.F):
                into[part, u, row : row + zero] = jnp.zeros((zero, p.R), f32)


def gather(p, ref, part, halves, x, first, stages):
    for t, (lo, hi) in enumerate(tiles(p.heads * p.d)):
        ys = []
        for g in range(p.n):
            z = [ref[part, h * p.n + g, row : row + e - s] for h, row, s, e in pieces(p, lo, hi, halves)]
            z = z[0] if len(z) == 1 else jnp.concatenate(z, 0)
            ys.append(z.astype(x.dtype).T)
        x[0, :, :, first + lo : first + hi] = block_of(p, ys, stages and stages[0].at[t % 4], x.dtype)


def rotate(p, x, turn, sign):
    if turn is None: return x
    h = p.D // 2
    a, b = x[:h], x[h:]
    c, s = turn[0, 0], turn[0, 1]
    if sign < 0: return jnp.concatenate([a * c + b * s, b * c - a * s], 0)
    return jnp.concatenate([a * c - b * s, b * c + a * s], 0)


def blocks(p):
    n = QB or max(128, 65536 // p.R // 128 * 128)
    n = n if p.R % n == 0 else p.R
    return [slice(j, j + n) for j in range(0, p.R, n)]


def softmax(l):
    if not NOMAX: l = l - jnp.max(l, 0, keepdims=True)
    e = jnp.exp2(l)
    return e, 1 / jnp.sum(e, 0, keepdims=True)


def prepared(p, x, scale, turn, dtype):
    r = jax.lax.rsqrt(jnp.sum(x * x, 0, keepdims=True) * (1 / p.d) + EPSILON)
    n = x * r
    return rotate(p, n * scale[...], turn, 1).astype(dtype), n, r


def loop(p, body, init, which):
    w = max(w for w in range(1, WIDTH[which] + 1) if p.units % w == 0)
    n = p.units // w
    u = max(u for u in range(1, UNROLL[which] + 1) if n % u == 0)
    return jax.lax.fori_loop(0, n, lambda i, c: body([i * w + j for j in range(w)], c), init, unroll=u)


def forward(p, x, turn, scale, bias, o, qk, vs, outs, *stages):
    for i in range(2): spread(p, x, i * p.heads * p.d, qk, i, True, stages)
    spread(p, x, 2 * p.heads * p.d, vs, 0, False, stages)
    t = x.dtype

    def body(us, _):
        q = [prepared(p, qk[0, u], scale.at[0], turn, t)[0] for u in us]
        k = [prepared(p, qk[1, u], scale.at[1], turn, t)[0].T for u in us]
        v = [vs[0, u].astype(t) for u in us]
        for j in blocks(p):
            l = [dot(k[i], q[i][:, j], 1, 0) for i in range(len(us))]
            if bias is not None: l = [a + bias[:, j] for a in l]
            e = [softmax(a) for a in l]
            for i, u in enumerate(us):
                outs[0, u, :, j] = dot(v[i], e[i][0].astype(t), 1, 0) * e[i][1]
        return _

    loop(p, body, 0, 0)
    gather(p, outs, 0, False, o, 0, stages)


def backward(p, x, dy, turn, scale, bias, dx, dg, qk, vs, dqk, dvs, *stages):
    w = p.heads * p.d
    for i in range(2): spread(p, x, i * w, qk, i, True, stages)
    spread(p, x, 2 * w, vs, 0, False, stages)
    spread(p, dy, 0, vs, 1, False, stages)
    t = x.dtype

    def body(us, sums):
        q = [prepared(p, qk[0, u], scale.at[0], turn, t) for u in us]
        k = [prepared(p, qk[1, u], scale.at[1], turn, t) for u in us]
        v = [vs[0, u].astype(t) for u in us]
        dy = [vs[1, u].astype(t) for u in us]
        kT = [a[0].T for a in k]
        vT = [a.T for a in v]
        I = range(len(us))
        dk, dv, dq = [0.0] * len(us), [0.0] * len(us), [[] for _ in us]
        for j in blocks(p):
            l = [dot(kT[i], q[i][0][:, j], 1, 0) for i in I]
            if bias is not None: l = [a + bias[:, j] for a in l]
            dw = [dot(vT[i], dy[i][:, j], 1, 0) for i in I]
            for i in I:
                e, s = softmax(l[i])
                w = e * s
                wd = w * dw[i]
                dl = (wd - w * jnp.sum(wd, 0, keepdims=True)).astype(t)
                dv[i] += dot(dy[i][:, j], w.astype(t), 1, 1)
                dk[i] += dot(q[i][0][:, j], dl, 1, 1)
                dq[i].append(dot(k[i][0], dl, 1, 0))
        for i in I:
            dvs[0, us[i]] = dv[i]
            dqi = dq[i][0] if len(dq[i]) == 1 else jnp.concatenate(dq[i], 1)
            new = []
            for part, (dz, (_, n, r)) in enumerate(((dqi, q[i]), (dk[i], k[i]))):
                z = rotate(p, dz, turn, -1)
                new.append(sums[part] + n * z)
                w = z * scale[part + 2]
                dqk[part, us[i]] = r * (w - n * (jnp.sum(w * n, 0, keepdims=True) * (1 / p.d)))
            sums = tuple(new)
        return sums

    zero = jnp.zeros((p.D, p.R), f32)
    a, b = loop(p, body, (zero, zero), 1)
    dg[0, 0, 0] = a
    dg[0, 0, 1] = b
    for i in range(2): gather(p, dqk, i, True, dx, i * w, stages)
    gather(p, dvs, 0, False, dx, 2 * w, stages)


def halves(p, x):
    """[..., d] to [..., D]: zeros after each half"""
    x = x.reshape(*x.shape[:-1], 2, p.F)
    x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, p.D // 2 - p.F)])
    return x.reshape(*x.shape[:-2], p.D)


def tables(p, turn):
    """[1 or B, 2, D/2, R]"""
    if turn is None: return None
    pad = ((0, 0), (0, 0), (0, p.D // 2 - p.F))
    if p.over == "space":
        t = jnp.pad(jnp.swapaxes(turn, 1, 2), ((0, 0), (0, p.D // 2 - p.F), (0, p.S - p.N)))
        return jnp.tile(t, (1, 1, p.A))[None]
    t = jnp.moveaxis(turn, (0, 3), (1, 2))  # B 2 F T
    t = jnp.pad(t, ((0, 0), (0, 0), (0, p.D // 2 - p.F), (0, 0)))
    if p.order == "frames": return jnp.repeat(t, p.R // p.T, 3)
    t = jnp.pad(t, ((0, 0),) * 3 + ((0, p.Tp - p.T),))
    return jnp.tile(t, (1, 1, 1, p.R // p.Tp))


def biases(p):
    """[keys, queries] or None"""
    r = jnp.arange(p.R)
    if p.over == "space":
        if p.A == 1 and p.S == p.N: return None
        a, s = jnp.divmod(r, p.S)
        m = (a[:, None] == a) & (s < p.N)[:, None]
    elif p.order == "frames":
        a, s = jnp.divmod(r, p.R // p.T)
        m = s[:, None] == s
        if p.causal: m &= a[:, None] <= a
    else:
        s, a = jnp.divmod(r, p.Tp)
        m = (s[:, None] == s) & (a < p.T)[:, None]
        if p.causal: m &= a[:, None] <= a
    return jnp.where(m, 0.0, MASKED).astype(f32)


def call(p, kernel, ins, outs, turn, gq, gk, scratch, cost, interpret):
    idx = (lambda b, i: (b, i, 0, 0)) if p.over == "space" else (lambda b, i: (b, 0, i, 0))
    block = lambda a: pl.BlockSpec((1, p.A, p.S, a.shape[-1]), idx)
    t, m = tables(p, turn), biases(p)
    s = p.d**-0.5
    scale = jnp.stack([gq.astype(f32) * (s * LOG2_E), gk.astype(f32), gq.astype(f32) * s, gk.astype(f32) / LOG2_E])
    scale = jnp.broadcast_to(halves(p, scale)[:, :, None], (4, p.D, p.R))
    full = lambda a: pl.BlockSpec(a.shape, lambda b, i: (0,) * a.ndim)
    ops, specs = list(ins), [block(a) for a in ins]
    if t is not None:
        ops.append(t); specs.append(pl.BlockSpec((1, *t.shape[1:]), lambda b, i: (b if len(t) > 1 else 0, 0, 0, 0)))
    ops += [scale]; specs += [full(scale)]
    if m is not None: ops.append(m); specs.append(full(m))
    n = len(ins)
    def run(*refs):
        refs = list(refs)
        a = [refs.pop(0) for _ in range(n)]
        tr = refs.pop(0) if t is not None else None
        q = refs.pop(0)
        b = refs.pop(0) if m is not None else None
        kernel(p, *a, tr, q, b, *refs)
    out_specs = [block(a) if a.ndim == 4 else pl.BlockSpec((1, 1, *a.shape[2:]), lambda b, i: (b, i, 0, 0, 0)) for a in outs]
    if p.order == "places": scratch = [*scratch, pltpu.VMEM((4, p.Tp * p.S, 128), f32)]
    return pl.pallas_call(run, grid=p.grid, in_specs=specs, out_specs=out_specs, out_shape=outs,
        scratch_shapes=scratch, cost_estimate=cost, interpret=interpret,
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "parallel"), vmem_limit_bytes=56 << 20))(*ops)


def fused_attention(qkv, query_scale, key_scale, turn, *, heads, over, causal=False, interpret=False):
    p = make_plan(qkv.shape, heads, over, causal)
    return _attend(p, interpret, qkv, query_scale, key_scale, turn)


def scr(p, n, D): return pltpu.VMEM((n, p.units, D, p.R), f32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _attend(p, interpret, x, gq, gk, turn):
    o = jax.ShapeDtypeStruct((*x.shape[:3], p.heads * p.d), x.dtype)
    pairs = x.shape[0] * p.T * p.N * (p.N if p.over == "space" else p.T)
    cost = pl.CostEstimate(flops=4 * p.d * p.heads * pairs, transcendentals=p.heads * pairs, bytes_accessed=x.size * x.dtype.itemsize * 4 // 3)
    return call(p, forward, [x], [o], turn, gq, gk, [scr(p, 2, p.D), scr(p, 1, p.V), scr(p, 1, p.V)], cost, interpret)[0]


def _fwd(p, interpret, x, gq, gk, turn):
    return checkpoint_name(_attend(p, interpret, x, gq, gk, turn), "attention"), (x, gq, gk, turn)


def _bwd(p, interpret, res, dy):
    x, gq, gk, turn = res
    dx = jax.ShapeDtypeStruct(x.shape, x.dtype)
    dg = jax.ShapeDtypeStruct((*p.grid, 2, p.D, p.R), f32)
    dx, dg = call(p, backward, [x, dy], [dx, dg], turn, gq, gk, [scr(p, 2, p.D), scr(p, 2, p.V), scr(p, 2, p.D), scr(p, 1, p.V)], None, interpret)
    dg = jnp.sum(dg, (0, 1, 4)).reshape(2, 2, -1)[:, :, : p.F].reshape(2, p.d)
    # sum of xhat*z: for the query, z is the gradient of scaled rotated q
    return dx, (dg[0] * p.d**-0.5).astype(gq.dtype), (dg[1] / LOG2_E).astype(gk.dtype), jax.tree.map(jnp.zeros_like, turn)


_attend.defvjp(_fwd, _bwd)
