import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxvid.models.transformer import Condition, SpaceTimeTransformer

B, T, S = 2, 4, 8
FIELDS = dict(depth=2, width=16, heads=2, patch=(1, 4, 4), mlp_ratio=2)


def make(blocks="space mlp time mlp", **fields):
    """A jitted network whose every parameter is random, so that no zero gate hides a mixer."""
    net = SpaceTimeTransformer(blocks=blocks, **FIELDS | fields)
    shapes = nn.meta.unbox(jax.eval_shape(net.init, jax.random.key(0), *inputs(), label(0)))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: (0.2 * rng.normal(size=x.shape)).astype(x.dtype), shapes)
    return jax.jit(net.apply), params


def inputs(frames=T, size=S):
    video = jax.random.normal(jax.random.key(2), (B, frames, size, size, 3))
    noise = jax.random.uniform(jax.random.key(3), (B, frames))
    return video, noise, jnp.tile(jnp.arange(frames) / 8.0, (B, 1))


def label(value):
    return Condition(label=jnp.full(B, value, jnp.int32))


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
    blocks = params["params"]["blocks"]
    renamed = {name.replace("space", "joint"): x for name, x in blocks.items()}
    renamed = {"params": params["params"] | {"blocks": renamed}}
    one = inputs(frames=1)
    np.testing.assert_allclose(apply(params, *one), joint(renamed, *one), atol=1e-5)


def test_a_later_start_changes_nothing_and_a_slower_clip_does():
    apply, params = make()
    video, noise, time = inputs()
    out = apply(params, video, noise, time)
    np.testing.assert_allclose(apply(params, video, noise, time + 20.0), out, atol=1e-4)
    assert np.abs(apply(params, video, noise, 3 * time) - out).max() > 1e-3


def test_clips_of_a_batch_do_not_see_one_another():
    apply, params = make(labels=3)
    args = (*inputs(), Condition(label=jnp.array([2, 0])))
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
    apply, params = make(labels=3)
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


@pytest.mark.parametrize("other", [dict(remat="dots"), dict(remat="full"), dict(unroll=2)])
def test_how_it_is_computed_changes_neither_output_nor_gradient(other):
    def gradient(apply, params):
        return jax.jit(jax.grad(lambda p: jnp.sum(apply(p, *inputs()) ** 2)))(params)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3),
        gradient(*make("time mlp")),
        gradient(*make("time mlp", **other)),
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
    net = SpaceTimeTransformer(**FIELDS, labels=3)
    boxed = jax.eval_shape(lambda: net.init(jax.random.key(0), *inputs(), label(0)))["params"]
    leaves = jax.tree_util.tree_leaves_with_path(
        boxed, is_leaf=lambda x: isinstance(x, nn.LogicallyPartitioned)
    )
    for path, leaf in leaves:
        assert isinstance(leaf, nn.LogicallyPartitioned), path
        assert len(leaf.names) == leaf.value.ndim, path
        assert (leaf.names[0] == "layers") == (path[0].key == "blocks"), path
