"""Levels of detail: which tokens meet, what they cost, and when the network is the dense one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxvid import config as configs
from jaxvid.build import build
from jaxvid.errors import InputError
from jaxvid.models.detail import chosen, levels_of, make_layout
from jaxvid.models.flops import forward_flops
from jaxvid.models.mixers import Context
from jaxvid.models.transformer import SpaceTimeTransformer
from jaxvid.trained import load
from jaxvid.workdir import folder
from jaxvid.workdir.checkpoint import Checkpoints
from tests import tiny

B, T, S, D = 2, 8, 16, 16
KEYS, BETWEEN = [0, 4], [1, 2, 3, 5, 6, 7]
SPARSE = dict(patches=((8, 8),), detail=(0, 1, 1, 1))


def network(blocks="space mlp time mlp joint", **fields):
    sizes = dict(depth=2, width=D, heads=2, patch=(1, 4, 4), mlp_ratio=2)
    return SpaceTimeTransformer(blocks, **sizes | fields)


def inputs():
    video = jax.random.normal(jax.random.key(2), (B, T, S, S, 3))
    noise = jax.random.uniform(jax.random.key(3), (B, T))
    return video, noise, jnp.tile(jnp.arange(T) / 8.0, (B, 1))


def random_params(net, *more):
    """None is zero, so that no gate hides a mixer."""
    shapes = nn.meta.unbox(jax.eval_shape(net.init, jax.random.key(0), *inputs(), *more))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: (0.2 * rng.normal(size=x.shape)).astype(x.dtype), shapes)


@pytest.mark.parametrize("fields", [dict(patches=((4, 4),)), dict(patches=((8, 8),), detail=(0,))])
@pytest.mark.parametrize("positions", ["rotary", "sincos"])
def test_levels_with_equal_patches_are_the_dense_network_to_the_last_bit(fields, positions):
    dense, other = network(positions=positions), network(**SPARSE | fields, positions=positions)
    params = random_params(other)["params"]
    same = {name: layer for name, layer in params.items() if "x" not in name.partition("_")[2]}
    assert same.keys() == random_params(dense)["params"].keys()
    np.testing.assert_array_equal(
        jax.jit(other.apply)({"params": params}, *inputs()),
        jax.jit(dense.apply)({"params": same}, *inputs()),
    )


def reach(blocks, frame, row, column):
    """The frames and pixels [T,S,S] of the output that a pixel of the input changes."""
    net, (video, *rest) = network(blocks, depth=1, **SPARSE), inputs()
    params, apply = random_params(net), jax.jit(net.apply)
    changed = video.at[0, frame, row, column].add(1.0)
    change = apply(params, changed, *rest) - apply(params, video, *rest)
    return np.abs(np.asarray(change[0])).max(-1) > 0


def test_time_mixes_within_a_cell_of_the_coarsest_grid_space_within_a_frame_and_joint_all():
    cell = np.zeros((S, S), bool)
    cell[8:, :8] = True  # the cell of 8x8 pixels around (9, 1)
    for frame in (4, 5):
        np.testing.assert_array_equal(reach("time", frame, 9, 1), np.tile(cell, (T, 1, 1)))
        space = reach("space", frame, 9, 1)
        assert space[frame].all()
        assert space.sum() == S * S
        assert reach("joint", frame, 9, 1).all()
    patch = np.zeros((T, S, S), bool)
    patch[4, 8:12, :4] = True  # a key frame has patches of 4x4
    np.testing.assert_array_equal(reach("mlp", 4, 9, 1), patch)


def test_a_token_keeps_its_time_and_place_in_every_arrangement():
    """A word that returns what its context says of each token."""
    levels = levels_of(((4, 4), (8, 8)), SPARSE["detail"], T)
    seconds = [level.of(inputs()[2]) for level in levels]
    layout = make_layout(levels, seconds, (S, S), Context(), head_dim=12)
    x = tuple(jnp.zeros((B, len(level.frames), (S // level.patch[0]) ** 2, 3)) for level in levels)

    class Where(nn.Module):
        over: str

        def __call__(self, x, context):
            cos, sin = context.turns["time" if self.over == "cell" else "both"]
            angle = jnp.arctan2(sin, cos)[..., np.array([1, 3, 5])]  # the slow pair of each
            return jnp.broadcast_to(angle, (*x.shape[:3], 3))

    slowest = (2 * np.pi / 64, 0.1, 0.1)
    for over, half in (("clip", S / 2), ("cell", 4)):
        mixed = layout.mix(Where(over), x, jnp.array(0))
        for y, level, time in zip(mixed, levels, seconds, strict=True):
            p, n = level.patch[0], S // level.patch[0]
            centre = (np.arange(n) * p + p / 2) % (2 * half) - half  # from the middle, in pixels
            row, column = np.meshgrid(centre / 4, centre / 4, indexing="ij")
            at = np.broadcast_to(np.stack([row, column], -1).reshape(n * n, 2), (*y.shape[:3], 2))
            at = np.concatenate(
                [np.broadcast_to(time[:, :, None, None], (*y.shape[:3], 1)), at], -1
            )
            np.testing.assert_allclose(y, at * slowest, atol=1e-5)


def test_tokens_and_flops_are_counted_exactly():
    net = network("space mlp time joint", depth=1, **SPARSE)
    counted = forward_flops(net.apply, random_params(net), *inputs())
    fine, coarse, per_cell = len(KEYS) * 16, len(BETWEEN) * 4, len(KEYS) * 4 + len(BETWEEN)
    tokens = fine + coarse
    layers = B * tokens * 2 * 4 * D * D
    assert counted["mlp"] == B * tokens * 2 * 2 * 2 * D * D
    assert counted["space"] == layers + B * 4 * D * (len(KEYS) * 16**2 + len(BETWEEN) * 4**2)
    assert counted["time"] == layers + B * 4 * D * (4 * per_cell**2)
    assert counted["joint"] == layers + B * 4 * D * tokens**2


def test_frames_may_come_in_any_order_with_their_levels():
    net, order = network(blocks="1*(space time mlp joint)", **SPARSE), np.array([*KEYS, *BETWEEN])
    params = random_params(net)
    first = net.clone(detail=(0,) * len(KEYS) + (1,) * len(BETWEEN))
    np.testing.assert_allclose(
        jax.jit(first.apply)(params, *(x[:, order] for x in inputs())),
        jax.jit(net.apply)(params, *inputs())[:, order],
        atol=1e-5,
    )


def test_gradients_reach_every_parameter():
    net = network("1*(space time) 1*(joint swiglu) 1*(mlp)", skip=0.5, **SPARSE)
    lots = jax.random.uniform(jax.random.key(4), (B, T))
    params, target = (
        random_params(net, None, lots),
        jax.random.normal(jax.random.key(5), (B, T, S, S, 3)),
    )

    def loss(params):
        return jnp.mean((net.apply(params, *inputs(), None, lots) - target) ** 2)

    for path, gradient in jax.tree.leaves_with_path(jax.jit(jax.grad(loss))(params)):
        assert np.isfinite(gradient).all(), path
        assert np.any(gradient != 0), path


def test_a_share_of_the_frames_between_key_frames_skips_the_middle_lines():
    (level,) = levels_of(((4, 4), (4, 4)), (0, 1, 1, 1), T)
    lots = jax.random.uniform(jax.random.key(0), (B, T))
    kept = np.asarray(chosen(level, (0, 1, 1, 1), 0.5, lots))
    for row, lot in zip(kept, np.asarray(lots), strict=True):
        highest = sorted(BETWEEN, key=lambda i: lot[i])[3:]
        np.testing.assert_array_equal(row, sorted([*KEYS, *highest]))

    blocks = "1*(mlp) 1*(joint mlp) 1*(mlp)"
    nets = [network(blocks, skip=skip, **SPARSE) for skip in (0.0, 0.5)]
    params, (video, *rest) = random_params(nets[0]), inputs()
    whole, skipping = (
        np.asarray(jax.jit(net.apply)(params, video, *rest, None, lots)) for net in nets
    )
    ends = {"params": {**params["params"], "blocks_1": params["params"]["blocks_2"]}}
    alone = np.asarray(jax.jit(network("1*(mlp) 1*(mlp)", **SPARSE).apply)(ends, video, *rest))
    for b in range(B):
        skips = np.setdiff1d(np.arange(T), kept[b])
        np.testing.assert_allclose(skipping[b, skips], alone[b, skips], atol=1e-5)
        assert np.abs(skipping[b, kept[b]] - alone[b, kept[b]]).max() > 1e-3
    assert np.abs(skipping - whole).max() > 1e-3
    # In sampling no frame skips.
    np.testing.assert_array_equal(jax.jit(nets[1].apply)(params, video, *rest), whole)


def test_a_run_samples_at_any_detail_and_says_what_cannot_be(tmp_path):
    config = tiny.get_config()
    config.model.update(**SPARSE, blocks="time", depth=1)
    folder.claim(tmp_path, config)
    with Checkpoints(tmp_path, 1) as checkpoints:
        checkpoints.save(1, {"ema": tiny.trained(build(config))})
    videos = [
        load(tmp_path, changes={"sampler.detail": detail}).draw(2)
        for detail in ("(0,1,1,1)", "(0,)")
    ]
    assert np.any(videos[0] != videos[1])
    with pytest.raises(InputError, match=r"no level 2; levels above 0 .*\.patches=\(\(8, 8\),\)"):
        load(tmp_path, changes={"sampler.detail": "(0,2)"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(patches=((6, 6),)), r"patches of 4x4 pixels do not nest in 6x6: give multiples"),
        (dict(patches=((8, 8), (4, 4))), r"patches of 8x8 pixels do not nest in 4x4"),
        (dict(patches=((16, 16),)), r"patches of 16x16 pixels do not nest in 8x8"),
        (dict(blocks="space recur mlp"), r"'recur' needs tokens of one size.*space, time, joint"),
        (dict(blocks="space window mlp"), r"'window' needs tokens of one size"),
        (dict(causal=True), r"need config\.model\.causal=False"),
        (dict(positions="learned"), r"need config\.model\.positions=rotary or sincos"),
        (dict(detail=(0, 2)), r"there is no level 2"),
        (dict(detail=()), r"detail is empty: give a level"),
        (dict(detail_between=(0, 2), detail_onwards=(0,)), r"detail_between=\(0, 2\): there is no"),
        (
            dict(detail_between=(0,), detail_onwards=(0,)),
            r"name a plan, such as config.data.plans=",
        ),
        (dict(detail_between=(0, 1)), r"detail_onwards and .*detail_between: give both, or none"),
        (dict(skip=0.5), r"skip=0\.5: it needs .* at least three lines"),
    ],
)
def test_levels_that_cannot_be_are_refused_before_anything_is_built(changes, message):
    config = tiny.get_config()
    config.model.update(**SPARSE | changes)
    with pytest.raises(InputError, match=message):
        configs.check(config)
