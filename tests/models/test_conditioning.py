import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxvid.models.conditioning import (
    NULLS,
    Condition,
    FrameCondition,
    TextEncoder,
    concat_low_res,
    drop,
    null,
    of_batch,
)

B, T, L, D = 4, 6, 10, 16
RNG = np.random.default_rng(0)


def batch(clips=B):
    return {
        "label": RNG.integers(0, 3, clips, np.int32),
        "text_bytes": RNG.integers(0, 256, (clips, L), np.uint8),
        "text_mask": np.arange(L) < RNG.integers(1, L, (clips, 1)),
        "action": RNG.normal(size=(clips, T, 2)).astype(np.float32),
        "action_mask": np.ones((clips, T), bool),
        "low_res": RNG.normal(size=(clips, T, 2, 2, 3)).astype(np.float32),
        "low_res_noise": RNG.uniform(size=clips).astype(np.float32),
    }


def condition(clips=B, **changes):
    return of_batch(jax.tree.map(jnp.asarray, batch(clips) | changes))


class Net(nn.Module):
    """What a network does with a condition: the vector per frame, the tokens, the channels."""

    per_patch: int = 1
    dtype: jnp.dtype = jnp.dtype("float32")

    @nn.compact
    def __call__(self, condition):
        tokens, mask = TextEncoder(D, depth=1, dtype=self.dtype, name="text")(condition)
        frame = FrameCondition(D, 3, self.per_patch, self.dtype, name="condition")
        video = concat_low_res(jnp.ones((len(mask), T, 4, 4, 3)), condition)
        return frame(condition, tokens, mask), tokens, mask, video


@functools.cache
def make(**fields):
    """A jitted network whose every parameter is random."""
    net, rng = Net(**fields), np.random.default_rng(0)
    shapes = nn.meta.unbox(jax.eval_shape(net.init, jax.random.key(0), condition()))
    return jax.jit(net.apply), jax.tree.map(lambda x: 0.3 * rng.normal(size=x.shape), shapes)


def test_a_dropped_condition_does_not_show_what_it_was():
    apply, params = make()
    one, other = condition(), condition()
    frame, tokens, mask, video = apply(params, null(one))
    also_frame, also_tokens, *_ = apply(params, null(other))
    np.testing.assert_array_equal(frame, also_frame)
    np.testing.assert_array_equal(tokens[:, 0], also_tokens[:, 0])
    np.testing.assert_array_equal(mask, np.arange(L)[None].repeat(B, 0) == 0)
    np.testing.assert_array_equal(video[..., 3:], 0)
    assert np.abs(apply(params, one)[0] - apply(params, other)[0]).max() > 0.1


@pytest.mark.parametrize("name", NULLS)
def test_each_condition_reaches_the_frames_and_so_does_its_null(name):
    given = condition()
    apply, params = make()
    dropped = drop(given, jax.random.key(0), {name: 1.0})
    moved = {field for field, x in vars(given).items() if np.any(x != getattr(dropped, field))}
    assert moved == set(NULLS[name])
    difference = np.abs(apply(params, given)[0] - apply(params, dropped)[0])
    assert (difference.max(axis=-1) > 1e-3).all()


def test_conditions_are_dropped_at_their_rates_independently_of_one_another():
    given = condition(4000)
    rates = {"label": 0.1, "text": 0.5, "low_res": 0.3}
    dropped = jax.jit(lambda key: drop(given, key, rates))(jax.random.key(1))
    gone = np.stack([
        dropped.label == -1,
        ~dropped.text_mask.any(axis=1),
        ~dropped.low_res.any(axis=(1, 2, 3, 4)),
    ])  # fmt: skip
    np.testing.assert_allclose(gone.mean(axis=1), [0.1, 0.5, 0.3], atol=0.03)
    assert np.abs(np.corrcoef(gone)[np.triu_indices(3, 1)]).max() < 0.05
    np.testing.assert_array_equal(dropped.low_res_noise == 1, gone[2])
    np.testing.assert_array_equal(dropped.action_mask, given.action_mask)
    np.testing.assert_array_equal(dropped.label[~gone[0]], given.label[~gone[0]])


def test_null_has_the_same_form_and_leaves_out_what_was_not_there():
    for given in (condition(), Condition(label=jnp.arange(B)), Condition()):
        nothing = jax.jit(null)(given)
        assert jax.tree.structure(nothing) == jax.tree.structure(given)
        assert jax.tree.map(lambda x: (x.shape, x.dtype), nothing) == jax.tree.map(
            lambda x: (x.shape, x.dtype), given
        )
    assert FrameCondition(D, 0, 1, jnp.dtype("float32")).apply({}, Condition()) == 0


def test_more_padding_changes_no_token_and_the_order_of_bytes_does():
    data = batch()
    apply, params = make()

    def tokens(text, mask):
        given = condition(**data | {"text_bytes": text, "text_mask": mask})
        out, mask = apply(params, given)[1:3]
        return np.where(mask[..., None], out, 0)

    text, mask = data["text_bytes"], data["text_mask"]
    short = tokens(text, mask)
    longer = tokens(
        np.pad(text, ((0, 0), (0, 5)), constant_values=7), np.pad(mask, ((0, 0), (0, 5)))
    )
    np.testing.assert_allclose(longer[:, :L], short, atol=1e-5)
    full = np.ones_like(mask)
    turned = tokens(text[:, ::-1].copy(), full)[:, ::-1]
    assert np.abs(turned - tokens(text, full)).max() > 0.1


def test_embeddings_of_an_outside_encoder_are_as_good_as_bytes():
    embedded = {
        "text": RNG.normal(size=(B, L, 5)).astype(np.float16),
        "text_mask": np.ones((B, L), bool),
    }
    embedded["text_mask"][1] = False
    given = of_batch(jax.tree.map(jnp.asarray, embedded))
    encoder = TextEncoder(D)
    params = nn.meta.unbox(encoder.init(jax.random.key(0), given))
    assert set(params["params"]) == {"embeddings", "null"}
    tokens, mask = encoder.apply(params, given)
    assert tokens.shape == (B, L, D)
    assert mask.sum(axis=1).tolist() == [L, 1, L, L]


@pytest.mark.parametrize("per_patch", [1, 2])
def test_an_action_reaches_its_own_patch_of_frames_and_each_frame_has_its_null(per_patch):
    given = condition()
    apply, params = make(per_patch=per_patch)
    frame = apply(params, given)[0]
    assert frame.shape == (B, T // per_patch, D)
    for other in (
        given.replace(action=given.action.at[:, 3].add(1.0)),
        given.replace(action_mask=given.action_mask.at[:, 3].set(False)),
    ):
        moved = np.abs(apply(params, other)[0] - frame).max(axis=(0, 2)) > 1e-4
        np.testing.assert_array_equal(moved, np.arange(T // per_patch) == 3 // per_patch)
    swapped = given.replace(action=given.action[:, jnp.array([1, 0, 2, 3, 4, 5])])
    assert np.abs(apply(params, swapped)[0] - frame)[:, 0].max() > 1e-4


def test_low_resolution_video_lies_behind_the_video_in_its_place():
    video = jax.random.normal(jax.random.key(0), (B, T, 8, 8, 3))
    ramp = jnp.broadcast_to(jnp.arange(4.0)[:, None], (B, T, 4, 4))[..., None]
    out = concat_low_res(video, Condition(low_res=ramp))
    assert out.shape == (B, T, 8, 8, 4)
    np.testing.assert_array_equal(out[..., :3], video)
    rows = np.asarray(out[0, 0, :, :, 3])
    np.testing.assert_array_equal(rows, rows[:, :1].repeat(8, axis=1))
    np.testing.assert_allclose(rows[:, 0], [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3])
    assert concat_low_res(video, Condition()) is video


def test_gradients_are_finite_in_bfloat16_and_reach_what_was_used():
    apply, params = make(dtype=jnp.dtype("bfloat16"))
    weights = jax.random.normal(jax.random.key(0), (T, D))

    @jax.jit
    @jax.grad
    def gradient(params, given):
        frame, tokens, mask, _ = apply(params, given)
        return jnp.sum(frame * weights) + jnp.sum(mask[..., None] * tokens * weights[0])

    for given, dropped in ((condition(), False), (null(condition()), True)):
        grads = gradient(params, given)["params"]
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(grads))
        assert dropped == np.any(grads["text"]["null"])
        assert dropped == np.any(grads["condition"]["action_null"])
        assert dropped != np.any(grads["text"]["bytes"]["embedding"])
        assert dropped != np.any(grads["condition"]["action_in"]["kernel"])


def test_every_parameter_names_all_its_axes():
    boxed = jax.eval_shape(lambda: Net().init(jax.random.key(0), condition()))
    leaves = jax.tree.leaves(boxed, is_leaf=lambda x: isinstance(x, nn.LogicallyPartitioned))
    assert leaves
    for leaf in leaves:
        assert isinstance(leaf, nn.LogicallyPartitioned)
        assert len(leaf.names) == leaf.value.ndim
