"""A gated linear recurrence over time, computed for all frames at once.

The gates are those of RG-LRU (De et al. 2024, arXiv 2402.19427); as in minGRU (Feng et al. 2024,
arXiv 2410.01201) they see the input and not the state, which makes the recurrence linear:

  h_t = a_t h_{t-1} + sqrt(1 - a_t^2) (i_t * v_t)
  a_t = exp(-8 softplus(rate) r_t dt)

with gates r_t and i_t in (0, 1) and dt the time since the previous frame. So memory fades per
second and not per frame. The square root gives h the variance of its inputs if these vary from
frame to frame; if they are constant, h grows by up to sqrt(2) when the frame rate doubles.

Devices that divide the frames scan their own, and pass on states: of each, what decay leaves of a
state before its frames, and what its frames add. After k rounds a device knows the sum of 2^k
devices (Hillis & Steele 1986), so C devices need log2(C) rounds and move no tokens.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Float32

from jaxvid.models.devices import locally, sharded
from jaxvid.models.layers import Linear, Linears, kernel
from jaxvid.models.mixers.base import Context, MixerConfig, mixer
from jaxvid.models.streaming import carried, carry

FRAME = 1 / 8  # seconds: the unit of dt
MEMORY = (1.0, 64.0)  # initial times in which channels fade to 1/e, shortest and longest, in FRAMEs
SHARPNESS = 8.0  # c in the paper
NEVER = -1e9  # seconds: the time beyond the clip, so long ago that a = 0


def linear_recurrence(
    decay: Float[Array, "B T *S"],
    inputs: Float[Array, "B T *S"],
    initial: Float[Array, " B *S"] | None = None,
    reverse: bool = False,
    axis: str | None = None,
) -> tuple[Float32[Array, "B T *S"], Float32[Array, " B *S"]]:
    """h_t = decay_t h_{t-1} + inputs_t along the second axis, by an associative scan in float32.

    Args:
      decay: in [0, 1].
      inputs: what each frame adds.
      initial: the state before the first frame, zero if None; after the last if `reverse`.
      reverse: whether it runs from the last frame to the first.
      axis: the mesh axis whose devices have a part of the frames each, inside `jax.shard_map`.

    Returns:
      h, and the state after these frames.
    """
    decay, inputs = decay.astype(jnp.float32), inputs.astype(jnp.float32)
    first, last = (-1, 0) if reverse else (0, -1)
    if initial is not None:
        if axis is not None:
            start = jax.lax.axis_size(axis) - 1 if reverse else 0
            initial = jnp.where(jax.lax.axis_index(axis) == start, initial, 0)
        inputs = inputs.at[:, first].add(decay[:, first] * initial)
    # h solves a linear system whose transpose is a recurrence in the other direction. So JAX needs
    # one scan for the gradient too; differentiating the scan takes more time and memory.
    h = jax.lax.custom_linear_solve(
        lambda h: h - decay * _before(h, reverse, axis),
        inputs,
        solve=lambda _, b: _scan(decay, b, reverse, axis),
        transpose_solve=lambda _, g: _scan(_before(decay, not reverse, axis), g, not reverse, axis),
    )
    return h, h[:, last]


@mixer("recur")
class Recurrence(nn.Module):
    """Gated linear recurrence over the tokens of each place, multiplied by a gate and projected.

    A causal recurrence runs forward only, and carries its state when streaming. Otherwise a second
    recurrence, with its own gates and rates, runs backward, and the two are added. A shift of all
    times has no effect. Frames are processed in their order, not in the order of their times. Gates
    and state are in float32.
    """

    over, spans = "place", True

    config: MixerConfig

    @nn.compact
    def __call__(self, x: Float[Array, "B T N D"], context: Context) -> Float[Array, "B T N D"]:
        (B, _, N, D), causal, dtype = x.shape, self.config.causal, self.config.dtype
        ways = 1 if causal else 2
        value, gate, *gates = Linears(
            (2 + 2 * ways, D), dtype, ("embed", None, "mlp"), bias=True, name="in"
        )(x)
        rates = self.param("rate", nn.with_logical_partitioning(_rates, (None, "mlp")), (ways, D))

        def start() -> tuple[Float32[Array, "B N D"], Float32[Array, "B"]]:
            return jnp.zeros((B, N, D), jnp.float32), jnp.full(B, NEVER, jnp.float32)

        past = carried(self, "past", start) if causal else None
        state, before = start() if past is None else past.value
        seconds = context.seconds.astype(jnp.float32)
        since = jnp.abs(jnp.diff(seconds, prepend=before[:, None]))
        h, state = _divided(context.split, *_gated(value, *gates[:2], rates[0], since), state)
        carry(past, (state, seconds[:, -1]))
        if not causal:
            until = jnp.abs(jnp.diff(seconds, append=NEVER))
            h += _divided(context.split, *_gated(value, *gates[2:], rates[1], until))[0]
        h = nn.silu(gate) * h.astype(dtype)
        return Linear((D,), dtype, kernel("mlp", "embed"), name="out")(h)


def _divided(
    split: str,
    decay: Float32[Array, "B T N D"],
    inputs: Float32[Array, "B T N D"],
    initial: Float32[Array, "B N D"] | None = None,
) -> tuple[Float32[Array, "B T N D"], Float32[Array, "B N D"]]:
    """`linear_recurrence` of tokens that are divided by `split`; in reverse without `initial`."""
    reverse = initial is None
    if split != "frames" or not sharded("frames"):
        return linear_recurrence(decay, inputs, initial, reverse)
    (axis,) = nn.logical_to_mesh_axes(("frames",))
    tokens, state = ("batch", "frames", None, "mlp"), ("batch", None, "mlp")
    names, arrays = [tokens, tokens], [decay, inputs]
    if not reverse:
        names, arrays = [*names, state], [*arrays, initial]

    def scan(decay: Array, inputs: Array, initial: Array | None = None) -> Array:
        return linear_recurrence(decay, inputs, initial, reverse, axis)[0]

    h = locally(scan, names, tokens, *arrays)
    return h, h[:, 0 if reverse else -1]


def _gated(
    value: Float[Array, "B T N D"],
    recurrence_gate: Float[Array, "B T N D"],
    input_gate: Float[Array, "B T N D"],
    rate: Float[Array, " D"],
    elapsed: Float32[Array, "B T"],
) -> tuple[Float32[Array, "B T N D"], Float32[Array, "B T N D"]]:
    """a_t and sqrt(1 - a_t^2) (i_t * v_t), from the logits of the gates and elapsed seconds."""
    r, i = (jax.nn.sigmoid(g.astype(jnp.float32)) for g in (recurrence_gate, input_gate))
    log_decay = -SHARPNESS * jax.nn.softplus(rate) * r * (elapsed / FRAME)[..., None, None]
    # The floor keeps the root's slope finite for frames at the same time.
    gain = jnp.sqrt(jnp.maximum(-jnp.expm1(2 * log_decay), 1e-12))
    return jnp.exp(log_decay), gain * i * value


def _rates(key: Array, shape: tuple[int, int]) -> Float32[Array, "ways D"]:
    """Initial rates, which span `MEMORY` over the channels while the gate is half open."""
    softplus = 2 / (SHARPNESS * jnp.geomspace(*MEMORY, shape[-1]))
    return jnp.broadcast_to(jnp.log(jnp.expm1(softplus)), shape)


def _scan(
    decay: Float32[Array, "B T *S"],
    inputs: Float32[Array, "B T *S"],
    reverse: bool,
    axis: str | None,
) -> Float32[Array, "B T *S"]:
    def combine(left: tuple[Array, Array], right: tuple[Array, Array]) -> tuple[Array, Array]:
        return left[0] * right[0], right[0] * left[1] + right[1]

    left, h = jax.lax.associative_scan(combine, (decay, inputs), axis=1, reverse=reverse)
    if axis is None:
        return h
    own = left[:, 0 if reverse else -1], h[:, 0 if reverse else -1]
    steps = 1
    while steps < jax.lax.axis_size(axis):
        own = combine(tuple(_from(x, steps, reverse, axis) for x in own), own)
        steps *= 2
    return h + left * _from(own[1], 1, reverse, axis)[:, None]


def _before(x: Float[Array, "B T *S"], reverse: bool, axis: str | None) -> Float[Array, "B T *S"]:
    """The values of the previous frame, or of the next if `reverse`; zero beyond the end."""
    edge = x[:, :1] if reverse else x[:, -1:]
    edge = jnp.zeros_like(edge) if axis is None else _from(edge, 1, reverse, axis)
    return jnp.concatenate([x[:, 1:], edge] if reverse else [edge, x[:, :-1]], axis=1)


def _from(x: Float[Array, "*S"], steps: int, reverse: bool, axis: str) -> Float[Array, "*S"]:
    """What the device `steps` before this one has, or after if `reverse`; zero beyond the end."""
    numbers = range(jax.lax.axis_size(axis))
    way = -steps if reverse else steps
    return jax.lax.ppermute(x, axis, [(i, i + way) for i in numbers if i + way in numbers])
