"""Softmax attention, which all mixers and encoders share: one entry, several implementations.

A mask is a description, not an array, so that an implementation can skip what it hides: None (all
keys are seen), `Causal`, `Lengths` or `Dense`.
"""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Float32, Int

from jaxvid.errors import InputError
from jaxvid.models.devices import devices_of
from jaxvid.models.kernels import factorized as kernel
from jaxvid.models.kernels import splash
from jaxvid.models.layers import on_cpu


class Causal(NamedTuple):
    """A frame sees itself and earlier frames. The queries are the last frames of the keys.

    Attributes:
      tokens: of a frame; the sequence holds frame after frame.
      reach: number of frames that a frame sees, itself included; None for all.
      first: index of the first frame of the keys that may be seen; int or int32 [].
    """

    tokens: int = 1
    reach: int | None = None
    first: Any = 0


class Lengths(NamedTuple):
    """Each group sees its first keys: `count` int [G] of them, at least 1."""

    count: Int[Array, " G"]


class Dense(NamedTuple):
    """A query sees the keys where `seen` is True, at least one."""

    seen: Bool[Array, "#G #K #L S"]


Mask = Causal | Lengths | Dense | None


@dataclasses.dataclass(frozen=True)
class Implementation:
    """An implementation of attention, chosen for the devices of a run.

    "pallas" has kernels for the words `space` and `time`, see `factorized`, and for many keys.

    Attributes:
      name: one of `CHOICES` but "auto".
      forced: whether what it cannot do is an error; otherwise the plain implementation does it.
      interpret: whether Pallas kernels are interpreted, on devices other than TPUs.
    """

    name: str
    forced: bool = False
    interpret: bool = False

    def refuses(self, query: Array, key: Array, mask: Mask) -> str:
        """Why it cannot compute `attention` for such arguments, or need not; or ""."""
        if self.name != "cudnn":
            return ""
        if not self.forced and key.shape[1] < FULL_KEYS:
            return f"it is slow for {key.shape[1]} keys"
        return _cudnn_refuses(query, key, mask)

    def attend(self, query: Array, key: Array, value: Array, mask: Mask) -> Array:
        if self.name == "cudnn":
            return cudnn(query, key, value, mask)
        if self.name == "pallas" and _splash_runs(query, key, mask):
            causal = None if mask is None else (mask.tokens, mask.reach)
            return splash.splash_attention(query, key, value, causal, self.interpret)
        return einsum(query, key, value, mask)


EINSUM = Implementation("einsum")
FULL_KEYS = 64  # from which cuDNN is faster than products: it computes whole tiles of keys
AMPERE = 8  # the first generation of GPUs with cuDNN's fused attention, by compute capability
FEW_KEYS = 64  # up to which a CPU transposes the weights apart, see `_transposed`


def attention(
    query: Float[Array, "G L K d"],
    key: Float[Array, "G S K d"],
    value: Float[Array, "G S K d"],
    mask: Mask = None,
    implementation: Implementation = EINSUM,
) -> Float[Array, "G L K d"]:
    """softmax(q k / sqrt(d)) v over S for each group and head; the softmax is in float32.

    Raises InputError if the implementation was forced and cannot run these arguments.
    """
    if reason := implementation.refuses(query, key, mask):
        if implementation.forced:
            raise InputError(f"config.model.attention={implementation.name}: {reason}")
        implementation = EINSUM
    return checkpoint_name(implementation.attend(query, key, value, mask), "attention")


def dense(mask: Mask, queries: int, keys: int) -> Bool[Array, "#G #K #L S"] | None:
    """The array that a mask describes, or None if it hides nothing."""
    match mask:
        case Causal(tokens, reach, first):
            seen = jnp.arange(keys) // tokens
            at = (jnp.arange(queries)[:, None] + keys - queries) // tokens
            visible = (seen <= at) & (seen >= first)
            return (visible if reach is None else visible & (seen > at - reach))[None, None]
        case Lengths(count):
            return (jnp.arange(keys) < count[:, None])[:, None, None]
        case Dense(seen):
            return seen
    return None


def einsum(query: Array, key: Array, value: Array, mask: Mask) -> Array:
    """The plain implementation, for every device.

    Heads come before tokens in the products, which is the order that CPUs are fastest in.
    """
    query = query * query.shape[-1] ** -0.5
    query, key, value = (jnp.swapaxes(a, 1, 2) for a in (query, key, value))
    seen = dense(mask, query.shape[2], key.shape[2])
    mix = _mix_on_cpu if query.dtype == jnp.float32 and on_cpu() else _mix
    return jnp.swapaxes(mix(query, key, value, seen), 1, 2)


def _forward(
    query: Array, key: Array, value: Array, seen: Array | None
) -> tuple[Array, tuple[Array, ...]]:
    """The sums [G,K,L,d], and the arrays that `_backward` needs."""
    logits = jnp.einsum("gkld,gksd->gkls", query, key, preferred_element_type=jnp.float32)
    if seen is not None:
        logits = jnp.where(seen, logits, -jnp.inf)
    weights = jax.nn.softmax(logits, axis=-1).astype(value.dtype)
    y = weights @ value
    return y, (query, key, value, weights, y)


def _backward(kept: tuple[Array, ...], gradient: Array) -> tuple[Array | None, ...]:
    """The gradient on a CPU: softmax's sum over keys is taken over features, which are fewer."""
    query, key, value, weights, y = kept
    of_weights = gradient @ jnp.swapaxes(value, -1, -2)
    of_logits = weights * (of_weights - (gradient * y).sum(-1, keepdims=True))
    of_key, of_value = _transposed(of_logits) @ query, _transposed(weights) @ gradient
    return of_logits @ key, of_key, of_value, None


def _transposed(weights: Array) -> Array:
    """[..., S, L]. For few keys, CPUs are five times faster if this is not a part of a product."""
    turned = jnp.swapaxes(weights, -1, -2)
    return jax.lax.optimization_barrier(turned) if weights.shape[-1] <= FEW_KEYS else turned


def _mix(query: Array, key: Array, value: Array, seen: Array | None) -> Array:
    return _forward(query, key, value, seen)[0]


_mix_on_cpu = jax.custom_vjp(_mix)
_mix_on_cpu.defvjp(_forward, _backward)


def cudnn(query: Array, key: Array, value: Array, mask: Mask) -> Array:
    """cuDNN's fused attention, for NVIDIA GPUs."""
    options = cudnn_options(mask, query.shape[1], key.shape[1])
    return jax.nn.dot_product_attention(query, key, value, implementation="cudnn", **options)


def cudnn_options(mask: Mask, queries: int, keys: int) -> dict[str, Any]:
    """The arguments of `jax.nn.dot_product_attention` that stand for a mask."""
    match mask:
        case None:
            return {}
        case Causal(1, reach, 0) if queries == keys:
            return {"is_causal": True, "local_window_size": reach and (reach - 1, 0)}
        case Lengths(count):
            return {"key_value_seq_lengths": count.astype(jnp.int32)}
    return {"mask": dense(mask, queries, keys)}


def _cudnn_refuses(query: Array, key: Array, mask: Mask) -> str:
    if why := _old_gpu():
        return why
    L, S, d = query.shape[1], key.shape[1], query.shape[-1]
    if query.dtype not in (jnp.bfloat16, jnp.float16):
        return f"it does not compute in {query.dtype}; set model.dtype=bfloat16"
    if d % 8 or d > 128:
        return f"a head has {d} features; it needs a multiple of 8, at most 128"
    if L % 2 or S % 2:  # JAX refuses the gradient, under any mask
        return f"it cannot mix an odd number of tokens ({L} with {S})"
    return ""


def _old_gpu() -> str:
    """Why cuDNN's fused attention cannot run on this machine's GPU; or ""."""
    device = jax.local_devices()[0]
    if device.platform != "gpu":
        return ""
    has = device.compute_capability  # "7.5" on NVIDIA's GPUs, "gfx90a" on AMD's
    major = has.partition(".")[0]
    if major.isdigit() and int(major) >= AMPERE:
        return ""
    return f"it needs compute capability {AMPERE}.0; a {device.device_kind} has {has}; choose auto"


def _splash_runs(query: Array, key: Array, mask: Mask) -> bool:
    mesh = jax.sharding.get_abstract_mesh()
    divided = mesh.size > 1 and not mesh.manual_axes  # which XLA cannot do to a kernel
    fits = mask is None or (isinstance(mask, Causal) and isinstance(mask.first, int))
    return fits and not divided and splash.supports(query.shape[1], key.shape[1])


def factorized(
    parts: list[Float[Array, "B T N D"]],
    scales: list[Float32[Array, " d"]],
    turn: Float32[Array, "2 #B #T #N F"] | None,
    *,
    over: str,
    causal: bool,
    implementation: Implementation,
) -> Float[Array, "B T N D"] | None:
    """Attention within frames or places by the fused kernel; None if it cannot run.

    Args:
      parts: query, key and value, with joined heads.
      scales: of the norms of query and key.
      turn: from `embeddings.rotary`, without seconds over "space", without places over "time".
      over, causal: as in `kernels.factorized.fused_attention`.
      implementation: of the run; None is returned unless it has Pallas kernels.

    Raises InputError if it was forced and cannot run.
    """
    if implementation.name != "pallas":
        return None
    B, T, N, D = parts[0].shape
    split = ("frames", None) if over == "space" else (None, "places")
    spec = nn.logical_to_mesh_axes(("batch", *split, "heads")) or P(*[None] * 4)
    *devices, splits = map(devices_of, spec)
    heads = D // len(scales[0]) // splits
    shape = [size // n for size, n in zip((B, T, N), devices, strict=True)]
    fits = kernel.supports((*shape, 3 * D // splits), heads, parts[0].dtype, over)
    if not fits and implementation.forced:
        raise InputError(
            f"config.model.attention=pallas: {T} frames of {N} tokens with {heads} heads, for "
            f"'{over}', do not fit into a core's memory; choose auto"
        )
    if not fits or B % devices[0]:  # such as the one clip with which a network is initialised
        return None

    def on_device(parts: Any, scales: Any, turn: Any) -> Array:
        return kernel.fused_attention(
            jnp.concatenate(parts, axis=-1),
            *scales,
            turn,
            heads=heads,
            over=over,
            causal=causal,
            interpret=implementation.interpret,
        )

    of_turn = P()
    if turn is not None:
        turn, of_turn = (
            (turn[:, 0, 0], P()) if over == "space" else (turn[:, :, :, 0], P(None, spec[0]))
        )
    if math.prod(devices) * splits == 1:
        return on_device(parts, scales, turn)
    # XLA cannot divide a kernel: each device runs it on its own tokens and heads.
    return jax.shard_map(on_device, in_specs=(spec, P(), of_turn), out_specs=spec, check_vma=False)(
        parts, scales, turn
    )


FASTEST = {"gpu": "cudnn", "tpu": "pallas"}
CHOICES = ("auto", "einsum", "cudnn", "pallas")


def choose(name: str, platform: str) -> Implementation:
    """The implementation for `model.attention`, on devices of a platform ("cpu", "gpu", "tpu").

    "auto" takes the fastest, where it can run. Raises InputError for "cudnn" without a GPU and for
    "pallas" on one; a CPU interprets it, slowly, for tests.
    """
    if name == "cudnn" and platform != "gpu":
        raise InputError(f"config.model.attention=cudnn needs a GPU; the devices are {platform}s")
    if name == "pallas" and platform == "gpu":
        raise InputError("config.model.attention=pallas needs a TPU; the devices are gpus")
    forced = name != "auto"
    name = name if forced else FASTEST.get(platform, "einsum")
    return Implementation(name, forced, interpret=name == "pallas" and platform != "tpu")
