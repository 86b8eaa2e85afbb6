"""The recurrence against a plain loop, and what both mixers over time have in common."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxvid.models.mixers import MIXERS, Context, MixerConfig
from jaxvid.models.mixers.recurrence import MEMORY, NEVER, linear_recurrence

B, T, N, D = 2, 7, 3, 8
FLOAT32, BFLOAT16 = jnp.dtype("float32"), jnp.dtype("bfloat16")
SECONDS = jnp.cumsum(jax.random.uniform(jax.random.key(0), (B, T), minval=0.02, maxval=0.5), axis=1)
each_mixer = pytest.mark.parametrize("mixer", ["recur", "conv"])
both_directions = pytest.mark.parametrize("causal", [True, False])


def loop(decay, inputs, initial, reverse):
    """The recurrence in float64, and its gradients for the loss sum(weight * h)."""
    decay, inputs, h = (np.asarray(x, np.float64) for x in (decay, inputs, initial))
    order = range(decay.shape[1])[:: -1 if reverse else 1]
    states, before = np.empty_like(decay), np.empty_like(decay)
    for t in order:
        before[:, t] = h
        states[:, t] = h = decay[:, t] * h + inputs[:, t]

    def gradients(weight):
        of_decay, of_inputs, g = np.empty_like(decay), np.empty_like(decay), 0.0
        for t in reversed(order):
            of_inputs[:, t] = g = g + weight[:, t]
            of_decay[:, t] = g * before[:, t]
            g = g * decay[:, t]
        return of_decay, of_inputs, g

    return states, gradients


@pytest.mark.parametrize(("length", "reverse"), [(512, False), (33, True), (1, True)])
@pytest.mark.parametrize("decays", [(0.0, 1.0), (0.0, 1e-6), (1 - 1e-5, 1.0)])
def test_it_is_a_plain_loop_and_so_are_its_gradients(decays, length, reverse):
    rng = np.random.default_rng(0)
    decay = jnp.asarray(rng.uniform(*decays, (2, length, 3, 4)), jnp.float32)
    inputs, weight = jnp.asarray(rng.normal(size=(2, *decay.shape)), jnp.float32)
    initial = jnp.asarray(rng.normal(size=(2, 3, 4)), jnp.float32)

    def loss(*arguments):
        h, final = linear_recurrence(*arguments, reverse=reverse)
        return jnp.sum(weight * h), (h, final)

    found, (h, final) = jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))(decay, inputs, initial)
    states, gradients = loop(decay, inputs, initial, reverse)
    np.testing.assert_array_equal(final, h[:, 0 if reverse else -1])
    for ours, exact in zip((h, *found), (states, *gradients(weight)), strict=True):
        np.testing.assert_allclose(ours, exact, rtol=1e-5, atol=2e-6 * np.abs(exact).max())


@pytest.mark.parametrize("devices", [2, 3])
@pytest.mark.parametrize("reverse", [False, True])
def test_devices_that_divide_the_frames_find_what_one_does(devices, reverse):
    rng = np.random.default_rng(0)
    decay = jnp.asarray(rng.uniform(size=(2, 12, 3)), jnp.float32)
    inputs, weight = jnp.asarray(rng.normal(size=(2, *decay.shape)), jnp.float32)
    initial = jnp.asarray(rng.normal(size=(2, 3)), jnp.float32)
    frames = jax.P(None, "frames")

    def loss(divided, *arguments):
        scan = functools.partial(linear_recurrence, reverse=reverse)
        if divided:
            scan = jax.shard_map(
                lambda *a: linear_recurrence(*a, reverse, "frames")[0][None],
                in_specs=(frames, frames, jax.P()),
                out_specs=jax.P(None, None, "frames"),
            )
        h = scan(*arguments)[0]
        return jnp.sum(weight * h), h

    found = jax.jit(jax.grad(loss, (1, 2, 3), has_aux=True), static_argnums=0)
    alone = found(False, decay, inputs, initial)
    auto = (jax.sharding.AxisType.Auto,)
    mesh = jax.make_mesh((devices,), ("frames",), auto, devices=jax.devices()[:devices])
    with jax.set_mesh(mesh):
        together = found(True, decay, inputs, initial)
    for ours, one in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(ours, one, atol=1e-5)


def test_it_has_forward_derivatives_too():
    decay, inputs = jax.random.uniform(jax.random.key(0), (2, 2, 5, 3))

    @jax.jit
    def moved(e):
        return linear_recurrence(decay + e * inputs, inputs + e * decay)[0]

    _, slope = jax.jvp(moved, (0.0,), (1.0,))
    np.testing.assert_allclose(slope, (moved(0.01) - moved(-0.01)) / 0.02, atol=1e-3)


def word(mixer, causal=True, dtype=FLOAT32):
    return MIXERS[mixer](MixerConfig(1, 1, dtype, causal))


def applied(module):
    """A module's jitted `apply`, to tokens and the seconds of their frames."""

    def apply(variables, x, seconds, **collections):
        return module.apply(variables, x, Context(seconds), **collections)

    return jax.jit(apply, static_argnames="mutable")


@functools.cache
def make(mixer, causal=True, dtype=FLOAT32):
    """A mixer's jitted `apply`, and its parameters, moved a little so that biases are not zero."""
    module = word(mixer, causal, dtype)
    variables = nn.meta.unbox(jax.jit(module.init)(jax.random.key(0), tokens(), Context(SECONDS)))
    assert variables.keys() == {"params"}
    rng = np.random.default_rng(2)
    moved = jax.tree.map(lambda p: p + 0.1 * rng.normal(size=p.shape).astype(p.dtype), variables)
    return applied(module), moved


def tokens(frames=T):
    return jax.random.normal(jax.random.key(1), (B, frames, N, D))


@both_directions
def test_the_module_is_its_equations(causal):
    apply, variables = make("recur", causal)
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), variables["params"])
    x, seconds = (np.asarray(a, np.float64) for a in (tokens(), SECONDS))
    projected = np.einsum("btnd,dpe->pbtne", x, p["in"]["kernel"])
    value, gate, *gates = projected + p["in"]["bias"][:, None, None, None]
    total = 0.0
    for way in range(1 if causal else 2):
        r, i = (1 / (1 + np.exp(-g)) for g in gates[2 * way : 2 * way + 2])
        dt = np.abs(np.diff(seconds, **{("append" if way else "prepend"): NEVER})) * 8
        decay = np.exp(-8 * np.log1p(np.exp(p["rate"][way])) * r * dt[..., None, None])
        inputs = np.sqrt(1 - decay**2) * i * value
        total += loop(decay, inputs, np.zeros((B, N, D)), reverse=way == 1)[0]
    expected = (gate / (1 + np.exp(-gate)) * total) @ p["out"]["kernel"]
    np.testing.assert_allclose(apply(variables, tokens(), SECONDS), expected, atol=1e-5)


def test_a_memory_fades_per_second_at_any_frame_rate_and_lasts_as_long_as_is_said():
    module = word("recur")
    variables = nn.meta.unbox(jax.jit(module.init)(jax.random.key(0), tokens(), Context(SECONDS)))

    @jax.jit
    def state_after(seconds):
        flash = jnp.zeros((1, seconds.size, 1, D)).at[:, 0].set(1.0)
        _, left = module.apply(variables, flash, Context(seconds), mutable=["cache"])
        return left["cache"]["past"][0][0, 0]

    # Frames without content leave the recurrence gate half open.
    faded = state_after(jnp.zeros((1, 1))) * np.exp(-8 / np.geomspace(*MEMORY, D))
    for rate in (4, 10):
        seconds = jnp.arange(rate + 1.0)[None] / rate
        np.testing.assert_allclose(state_after(seconds), faded, rtol=1e-4, atol=1e-7)


@both_directions
def test_the_recurrence_sees_differences_of_time_only_and_sees_those(causal):
    apply, variables = make("recur", causal)
    out = apply(variables, tokens(), SECONDS)
    np.testing.assert_allclose(apply(variables, tokens(), SECONDS + 20), out, atol=1e-4)
    assert np.abs(apply(variables, tokens(), 3 * SECONDS) - out).max() > 1e-2


@pytest.mark.parametrize("frames", [1, T])
@both_directions
@each_mixer
def test_a_frame_reaches_the_later_and_if_not_causal_the_earlier(mixer, causal, frames):
    """And another place never; what is not reached stays the same to the last bit."""
    apply, variables = make(mixer, causal)
    x, seconds, at = tokens(frames), SECONDS[:, :frames], frames // 2
    out = apply(variables, x, seconds)
    moved = np.any(out != apply(variables, x.at[:, at, 1].add(1.0), seconds), axis=(0, 3))
    assert not moved[:, [0, 2]].any()
    reach = T if mixer == "recur" else 2 if causal else 1
    offset = np.arange(frames) - at
    expected = (offset <= reach) & (offset >= (0 if causal else -reach))
    np.testing.assert_array_equal(moved[:, 1], expected)


@both_directions
@each_mixer
def test_clips_and_places_in_another_order_come_out_in_that_order(mixer, causal):
    apply, variables = make(mixer, causal)
    clips, places = np.array([1, 0]), np.array([2, 0, 1])
    out = apply(variables, tokens()[clips][:, :, places], SECONDS[clips])
    expected = apply(variables, tokens(), SECONDS)[clips][:, :, places]
    np.testing.assert_allclose(out, expected, atol=1e-6)


@each_mixer
def test_gradients_are_finite_in_bfloat16_even_if_all_frames_are_at_one_time(mixer):
    apply, variables = make(mixer, False, BFLOAT16)
    x = tokens().astype(BFLOAT16)

    @jax.jit
    def gradients(variables, x, seconds):
        def loss(variables, x):
            return jnp.sum(jnp.square(apply(variables, x, seconds).astype(jnp.float32)))

        return jax.grad(loss, (0, 1))(variables, x)

    assert apply(variables, x, SECONDS).dtype == BFLOAT16
    assert all(np.any(g != 0) for g in jax.tree.leaves(gradients(variables, x, SECONDS)))
    for scale, seconds in ((1, SECONDS), (1000, SECONDS), (1, 0 * SECONDS), (0, SECONDS)):
        for g in jax.tree.leaves(gradients(variables, scale * x, seconds)):
            assert np.isfinite(g.astype(np.float32)).all()


@each_mixer
def test_bfloat16_stays_close_to_float32(mixer):
    exact_apply, variables = make(mixer, False)
    exact = exact_apply(variables, tokens(), SECONDS)
    rough = make(mixer, False, BFLOAT16)[0](variables, tokens(), SECONDS)
    assert 0 < np.abs(rough.astype(np.float32) - exact).max() < 0.03 * np.abs(exact).max()


def stream(apply, variables):
    """The output of uneven windows, each with the state that the one before it left."""
    parts, cache = [], {}
    for window in (slice(0, 3), slice(3, 6), slice(6, 7)):
        inputs = tokens()[:, window], SECONDS[:, window]
        out, cache = apply(variables | cache, *inputs, mutable=("cache",))
        parts.append(out)
    return np.concatenate(parts, axis=1)


@each_mixer
def test_window_by_window_is_the_whole(mixer):
    apply, variables = make(mixer)
    whole = apply(variables, tokens(), SECONDS)
    np.testing.assert_allclose(stream(apply, variables), whole, atol=1e-5)


@each_mixer
def test_a_window_may_be_computed_without_moving_on(mixer):
    apply, variables = make(mixer)
    first, second = ((tokens()[:, w], SECONDS[:, w]) for w in (slice(0, 3), slice(3, 6)))
    _, cache = apply(variables, *first, mutable=("cache",))
    expected, _ = apply(variables | cache, *second, mutable=("cache",))
    np.testing.assert_allclose(apply(variables | cache, *second), expected, atol=1e-6)
    assert np.abs(apply(variables, *second) - expected).max() > 1e-3


@each_mixer
def test_without_causality_nothing_is_carried(mixer):
    apply, variables = make(mixer, causal=False)
    _, left = apply(variables, tokens(), SECONDS, mutable=("cache",))
    assert not left.get("cache")


class Stack(nn.Module):
    """Three layers in a scan, as a network has them."""

    @nn.compact
    def __call__(self, x, seconds):
        def layer(module, x, context):
            return x + module(x, context), None

        scan = nn.scan(
            nn.remat(layer, prevent_cse=False),
            variable_axes={"params": 0, "cache": 0},
            split_rngs={"params": True},
            in_axes=nn.broadcast,
            length=3,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        module = MIXERS["recur"](MixerConfig(1, 1, FLOAT32, causal=True), name="mixer")
        return scan(module, x, Context(seconds))[0]


def test_every_layer_of_a_scan_carries_its_own_state():
    stack = Stack()
    variables = nn.meta.unbox(jax.jit(stack.init)(jax.random.key(0), tokens(), SECONDS))
    assert variables.keys() == {"params"}
    apply = jax.jit(stack.apply, static_argnames="mutable")
    whole, left = apply(variables, tokens(), SECONDS, mutable=("cache",))
    assert {x.shape[0] for x in jax.tree.leaves(left)} == {3}
    np.testing.assert_allclose(stream(apply, variables), whole, atol=1e-5)
