import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxvid.conditions.label import Label
from jaxvid.conditions.low_res import LowRes
from jaxvid.conditions.text import Text
from jaxvid.errors import InputError
from jaxvid.models import embeddings
from jaxvid.models.attention import Dense, attention
from jaxvid.models.mixers import MIXERS, Context, MixerConfig
from jaxvid.models.transformer import SpaceTimeTransformer

B, T, S = 2, 4, 8
FIELDS = dict(depth=2, width=16, heads=2, patch=(1, 4, 4), mlp_ratio=2)


def make(blocks="space mlp time mlp", given=None, **fields):
    """A jitted network whose every parameter is random, so that no zero gate hides a mixer."""
    net = SpaceTimeTransformer(blocks=blocks, **FIELDS | fields)
    shapes = nn.meta.unbox(jax.eval_shape(net.init, jax.random.key(0), *inputs(), given))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: (0.2 * rng.normal(size=x.shape)).astype(x.dtype), shapes)
    return jax.jit(net.apply), params


def inputs(frames=T, size=S):
    video = jax.random.normal(jax.random.key(2), (B, frames, size, size, 3))
    noise = jax.random.uniform(jax.random.key(3), (B, frames))
    return video, noise, jnp.tile(jnp.arange(frames) / 8.0, (B, 1))


LABELS = (Label(3),)
TEXTS = (Text(length=3, dim=5),)


def label(value):
    return {"label": jnp.full(B, value, jnp.int32)}


def text(*lengths):
    """Embeddings of so many tokens."""
    embedding = jax.random.normal(jax.random.key(1), (B, 3, 5)).astype(jnp.float16)
    return {"text": {"embedding": embedding, "mask": jnp.arange(3) < jnp.array(lengths)[:, None]}}


def changed(apply, params, frame=None, pixel=None):
    """Where the output changes, [T, 2, 2] patches, as one frame or one patch of the input does."""
    video, noise, time = inputs()
    where = (slice(None), frame) if pixel is None else (slice(None), frame, *pixel)
    other = video.at[where].add(1.0)
    difference = apply(params, other, noise, time) - apply(params, video, noise, time)
    return np.abs(difference).reshape(B, T, 2, 4, 2, 4, 3).max((0, 3, 5, 6)) > 1e-6


def test_space_keeps_frames_apart_and_time_keeps_places_apart():
    of_frame_1 = changed(*make("space mlp"), frame=1)
    assert of_frame_1[1].all()
    assert not np.delete(of_frame_1, 1, axis=0).any()
    of_first_patch = changed(*make("time mlp"), frame=1, pixel=(slice(0, 4), slice(0, 4)))
    assert of_first_patch[:, 0, 0].all()
    assert not of_first_patch[:, 1].any()
    assert not of_first_patch[:, 0, 1].any()


@pytest.mark.parametrize("blocks", ["space mlp time mlp", "space+time mlp", "joint+joint mlp+mlp"])
def test_together_every_frame_and_place_reaches_every_other(blocks):
    assert changed(*make(blocks), frame=1, pixel=(slice(0, 4), slice(0, 4))).all()


def test_joint_on_one_frame_is_space():
    apply, params = make("space mlp")
    joint, _ = make("joint mlp")
    blocks = params["params"]["blocks_0"]
    renamed = {name.replace("space", "joint"): x for name, x in blocks.items()}
    renamed = {"params": params["params"] | {"blocks_0": renamed}}
    one = inputs(frames=1)
    np.testing.assert_allclose(apply(params, *one), joint(renamed, *one), atol=1e-5)


@pytest.mark.parametrize(("shape", "repeat"), [((4, 4, 4), 0), ((4, 4, 4), 1), ((5, 3, 4), 1)])
def test_windows_are_full_attention_under_a_mask(shape, repeat):
    """Every other repeat cuts elsewhere, half a window on; the ends of the video stay ends."""
    T, h, w = shape
    config = MixerConfig(2, 1, jnp.dtype("float32"))
    x = jax.random.normal(jax.random.key(0), (1, T, h * w, 8))
    context = Context(jnp.zeros((1, T)), repeat=jnp.int32(repeat), grid=(h, w))
    window, joint = MIXERS["window"](config, 2, 2, 2), MIXERS["joint"](config)
    params = nn.meta.unbox(jax.jit(joint.init)(jax.random.key(1), x, context))

    place = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1).reshape(-1, 3)
    cell = (place + repeat) // 2
    mask = (cell[:, None] == cell[None]).all(-1)
    heads = jnp.einsum("btnd,dpkh->btnpkh", x, params["params"]["qkv"]["kernel"])
    query, key, value = (heads[:, :, :, i] for i in range(3))
    query, key = (a * jax.lax.rsqrt(jnp.mean(a**2, -1, keepdims=True) + 1e-6) for a in (query, key))
    flat = (a.reshape(1, -1, 2, 4) for a in (query, key, value))
    y = attention(*flat, Dense(jnp.asarray(mask)[None, None])).reshape(1, T, h * w, 2, 4)
    expected = jnp.einsum("btnkh,khd->btnd", y, params["params"]["out"]["kernel"])
    np.testing.assert_allclose(jax.jit(window.apply)(params, x, context), expected, atol=1e-5)


EVERY_MIXER = "space+time joint+window(3,2,2) recur+conv mlp"


def test_causal_frames_do_not_see_later_ones():
    apply, params = make(EVERY_MIXER, causal=True)
    moved = changed(apply, params, frame=2).any((1, 2))
    np.testing.assert_array_equal(moved, [False, False, True, True])


def test_streaming_window_by_window_is_the_full_computation():
    apply, params = make(EVERY_MIXER, causal=True)
    net = SpaceTimeTransformer(blocks=EVERY_MIXER, **FIELDS, causal=True, memory=7)
    stream = jax.jit(functools.partial(net.apply, mutable=["cache"]))
    video, noise, time = inputs(frames=7)
    outputs, cache = [], {}
    for part in (slice(0, 3), slice(3, 4), slice(4, 7)):
        window = (video[:, part], noise[:, part], time[:, part])
        output, cache = stream(params | cache, *window)
        outputs.append(output)
    full = apply(params, video, noise, time)
    np.testing.assert_allclose(jnp.concatenate(outputs, axis=1), full, atol=1e-5)


def test_frames_beyond_the_memory_are_forgotten():
    net = SpaceTimeTransformer(blocks="time mlp", **FIELDS | dict(depth=1), causal=True, memory=2)
    _, params = make("time mlp", causal=True, depth=1)
    stream = jax.jit(functools.partial(net.apply, mutable=["cache"]))
    video, noise, time = inputs(frames=6)

    def last(video):
        cache = {}
        for t in range(6):
            window = (video[:, t : t + 1], noise[:, t : t + 1], time[:, t : t + 1])
            output, cache = stream(params | cache, *window)
        return output

    now = last(video)
    np.testing.assert_array_equal(last(video.at[:, 2].add(1.0)), now)
    assert np.abs(last(video.at[:, 3].add(1.0)) - now).max() > 1e-3


def test_repeats_of_lines_fuse_late():
    apply, params = make("2*(space mlp) time mlp", depth=1)
    assert {"blocks_0", "blocks_1"} <= params["params"].keys()
    assert changed(apply, params, frame=1).all()
    early = {"blocks_1": jax.tree.map(jnp.zeros_like, params["params"]["blocks_1"])}
    assert not np.delete(
        changed(apply, {"params": params["params"] | early}, frame=1), 1, axis=0
    ).any()


@pytest.mark.parametrize("positions", ["rotary", "sincos", "learned"])
def test_every_kind_of_position_tells_frames_and_places_apart(positions):
    """With the same content everywhere, only positions can make tokens differ."""
    apply, params = make("joint mlp", positions=positions)
    video, noise, time = inputs()
    same = jnp.broadcast_to(video[:, :1, :4, :4], (B, T, 4, 4, 3))
    out = apply(params, jnp.tile(same, (1, 1, 2, 2, 1)), jnp.full_like(noise, 0.5), time)
    patches = out.reshape(B, T, 2, 4, 2, 4, 3).swapaxes(3, 4).reshape(B, T * 4, -1)
    apart = np.abs(patches[:, :, None] - patches[:, None]).max((0, 3))
    rows = apart[:4, :4] if positions == "rotary" else apart
    assert rows[~np.eye(len(rows), dtype=bool)].min() > 1e-4


def test_learned_positions_fit_one_shape_until_they_are_stretched():
    apply, params = make(positions="learned")
    with pytest.raises(InputError, match=r"have 4 frames, the video has 6.*interpolate"):
        apply(params, *inputs(frames=6))
    tables = params["params"]["positions"]
    longer = embeddings.interpolate(tables, frames=6, grid=(2, 2), new_grid=(3, 3))
    longer = {"params": params["params"] | {"positions": longer}}
    assert apply(longer, *inputs(frames=6, size=12)).shape == (B, 6, 12, 12, 3)
    same = embeddings.interpolate(tables, frames=T, grid=(2, 2), new_grid=(2, 2))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), same, dict(tables))


def test_shared_modulation_has_one_layer_for_all_repeats_and_an_offset_for_each():
    apply, params = make(adaln="shared", depth=2)
    names = params["params"]
    assert names["blocks_0_modulation"]["kernel"].shape == (16, 12, 16)
    offset = names["blocks_0"]["time_2_offset"]
    assert offset.shape == (2, 3, 16)
    out = apply(params, *inputs())
    other = {"params": names | {"blocks_0": names["blocks_0"] | {"time_2_offset": offset + 1}}}
    assert np.abs(apply(other, *inputs()) - out).max() > 1e-3


def test_gradients_of_every_word_are_finite_in_bfloat16_at_both_ends_of_the_noise():
    given, line = text(2, 0), f"{EVERY_MIXER} text+swiglu"
    fields = dict(conditions=TEXTS, dtype=jnp.dtype("bfloat16"), depth=1)
    apply, params = make(line, given, **fields)
    video, _, time = inputs()

    @jax.jit
    @jax.grad
    def gradient(params, level):
        return jnp.mean(apply(params, video, jnp.full((B, T), level), time, given) ** 2)

    for level in (0.0, 1.0):
        grads = gradient(params, level)["params"]
        assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
        for name, of_word in grads["blocks_0"].items():
            assert any(np.abs(g).max() > 0 for g in jax.tree.leaves(of_word)), name


def test_text_is_attended_to_where_it_is():
    given = text(2, 3)
    apply, params = make("text mlp", given, conditions=TEXTS)
    other = {"text": given["text"] | {"embedding": given["text"]["embedding"].at[:, 2].add(1.0)}}
    moved = np.abs(apply(params, *inputs(), other) - apply(params, *inputs(), given))
    assert moved[0].max() == 0
    assert moved[1].max() > 1e-3
    with pytest.raises(InputError, match="'text' needs captions"):
        make("text mlp")


def test_low_resolution_video_is_an_input_and_not_an_output():
    conditions = (LowRes(2, size=(S, S), fps=8.0, process="rectified_flow"),)
    low = {"video": jnp.ones((B, T, 4, 4, 3)), "noise": jnp.zeros(B)}
    apply, params = make(given={"low_res": low}, conditions=conditions)
    out = apply(params, *inputs(), {"low_res": low})
    assert out.shape == (B, T, S, S, 3)
    other = {"low_res": low | {"video": -low["video"]}}
    assert np.abs(apply(params, *inputs(), other) - out).max() > 1e-3


def test_a_later_start_changes_nothing_and_a_slower_clip_does():
    apply, params = make()
    video, noise, time = inputs()
    out = apply(params, video, noise, time)
    np.testing.assert_allclose(apply(params, video, noise, time + 20.0), out, atol=1e-4)
    assert np.abs(apply(params, video, noise, 3 * time) - out).max() > 1e-3


def test_clips_of_a_batch_do_not_see_one_another():
    apply, params = make(given=label(0), conditions=LABELS)
    args = (*inputs(), {"label": jnp.array([2, 0])})
    swapped = jax.tree.map(lambda x: x[::-1], args)
    np.testing.assert_allclose(apply(params, *swapped)[::-1], apply(params, *args), atol=1e-5)


def test_noise_levels_modulate_each_frame_by_itself():
    apply, params = make("space mlp")
    video, noise, time = inputs()
    difference = apply(params, video, noise.at[:, 2].add(0.1), time) - apply(
        params, video, noise, time
    )
    moved = np.abs(difference).max((0, 2, 3, 4)) > 1e-6
    np.testing.assert_array_equal(moved, [False, False, True, False])


def test_labels_differ_and_the_null_is_one_of_its_own():
    apply, params = make(given=label(0), conditions=LABELS)
    out = [apply(params, *inputs(), label(i)) for i in (-1, 0, 1, 2)]
    for i in range(4):
        for j in range(i):
            assert np.abs(out[i] - out[j]).max() > 1e-3


def test_one_set_of_parameters_serves_other_lengths_sizes_and_rates():
    apply, params = make()
    assert apply(params, *inputs(frames=7, size=12)).shape == (B, 7, 12, 12, 3)


def test_at_the_start_the_network_says_zero():
    net = SpaceTimeTransformer(**FIELDS)
    assert not np.any(jax.jit(net.init_with_output)(jax.random.key(0), *inputs())[0])


@functools.cache
def gradient_of_five(**how):
    apply, params = make("time mlp", depth=5, **how)
    return jax.jit(jax.grad(lambda p: jnp.sum(apply(p, *inputs()) ** 2)))(params)


HOW = [
    dict(remat="dots"),
    dict(remat="dots mlp=full"),
    dict(remat="full"),
    dict(unroll=2),
    dict(unroll=3),
    dict(unroll=9),
]


@pytest.mark.parametrize("other", HOW)
def test_how_it_is_computed_changes_neither_output_nor_gradient(other):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3),
        gradient_of_five(),
        gradient_of_five(**other),
    )


def test_bfloat16_computes_close_to_float32_from_float32_parameters():
    apply, params = make()
    rough_apply, of_bfloat16 = make(dtype=jnp.dtype("bfloat16"))
    assert {x.dtype for x in jax.tree.leaves(of_bfloat16)} == {np.dtype("float32")}
    exact, rough = apply(params, *inputs()), rough_apply(params, *inputs())
    assert rough.dtype == np.float32
    assert 0 < np.abs(rough - exact).max() < 0.1 * np.abs(exact).max()


def test_temporal_patches_join_frames():
    apply, params = make(patch=(2, 4, 4))
    assert apply(params, *inputs()).shape == (B, T, S, S, 3)


def test_every_parameter_names_all_its_axes():
    net = SpaceTimeTransformer(**FIELDS, conditions=LABELS)
    boxed = jax.eval_shape(lambda: net.init(jax.random.key(0), *inputs(), label(0)))["params"]
    leaves = jax.tree_util.tree_leaves_with_path(
        boxed, is_leaf=lambda x: isinstance(x, nn.LogicallyPartitioned)
    )
    for path, leaf in leaves:
        assert isinstance(leaf, nn.LogicallyPartitioned), path
        assert len(leaf.names) == leaf.value.ndim, path
        assert (leaf.names[0] == "layers") == (path[0].key == "blocks_0"), path
