"""What holds for every condition, and for all of them together."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxvid import config as configs
from jaxvid.build import build
from jaxvid.conditions.condition import (
    CONDITIONS,
    Condition,
    check_source,
    drop,
    encode,
    make_conditions,
    null,
    prepare,
    window,
)
from jaxvid.data.clips import Clip
from jaxvid.data.pipeline import blank_batch, make_dataset
from jaxvid.data.sources import make_source
from jaxvid.errors import InputError
from tests import tiny
from tests.conditions.cases import ALL, EACH, B, D, L, Net, T, given, network, seen

each = pytest.mark.parametrize("c", EACH.values(), ids=EACH)


def same_form(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(lambda x, y: np.testing.assert_equal((x.shape, x.dtype), (y.shape, y.dtype)), a, b)


def test_a_config_turns_conditions_on_in_an_order_that_stays():
    config = tiny.get_config()
    assert tuple(CONDITIONS) == ("label", "text", "action", "low_res")
    config.conditions.label.classes = 0
    assert make_conditions(config) == ()
    config.conditions.low_res.factor, config.conditions.text.length = 2, L
    config.conditions.action.dim, config.conditions.label.classes = 2, 3
    for name in CONDITIONS:
        config.conditions[name].dropout = 0.25
    made = make_conditions(config)
    assert [c.name for c in made] == list(CONDITIONS)
    assert {c.dropout for c in made} == {0.25}


@each
def test_a_dropped_condition_does_not_show_what_it_was(c):
    apply, params = network(c)
    one, other = (seen((c,), seed=seed) for seed in (0, 1))
    a, b = (apply(params, null((c,), x))[c.name] for x in (one, other))
    np.testing.assert_array_equal(a.frame, b.frame)
    if a.tokens is not None:
        assert a.lengths.tolist() == b.lengths.tolist() == [1] * B
        np.testing.assert_array_equal(a.tokens[:, 0], b.tokens[:, 0])
    if a.channels is not None:
        np.testing.assert_array_equal(a.channels, 0)
    moved = np.abs(apply(params, one)[c.name].frame - apply(params, other)[c.name].frame)
    assert moved.max() > 0.1


@each
def test_each_condition_reaches_every_frame_and_so_does_its_null(c):
    apply, params = network(c)
    frames = [apply(params, x)[c.name].frame for x in (seen((c,)), null((c,), seen((c,))))]
    assert all(x.shape in ((B, 1, D), (B, T, D)) for x in frames)
    assert (np.abs(frames[0] - frames[1]).max(axis=-1) > 1e-3).all()


@each
def test_null_has_the_same_form_under_jit(c):
    same_form(jax.jit(c.null)(seen((c,))[c.name]), seen((c,))[c.name])


@each
def test_gradients_are_finite_in_bfloat16_and_reach_what_was_used(c):
    apply, params = network(c, dtype=jnp.dtype("bfloat16"))
    weights = jax.random.normal(jax.random.key(0), (T, D))

    @jax.jit
    @jax.grad
    def gradient(params, given):
        entry = apply(params, given)[c.name]
        tokens = 0.0
        if entry.tokens is not None:
            valid = jnp.arange(entry.tokens.shape[1]) < entry.lengths[:, None]
            tokens = valid[..., None] * entry.tokens
        return jnp.sum(entry.frame * weights) + jnp.sum(tokens * weights[0])

    unused = {"label": (), "text": ("bytes",), "action": ("in",), "low_res": ()}[c.name]
    unused = ("embeddings",) if c is EACH["embedded"] else unused
    for arrays, dropped in ((seen((c,)), False), (null((c,), seen((c,))), True)):
        grads = gradient(params, arrays)["params"][c.name]
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(grads))
        assert any(np.any(x) for x in jax.tree.leaves(grads))
        if "null" in grads:
            assert np.any(grads["null"]) == dropped
        for name in unused:
            kernel = grads[name].get("kernel", grads[name].get("embedding"))
            assert np.any(kernel) != dropped


@each
def test_every_parameter_names_all_its_axes(c):
    boxed = jax.eval_shape(lambda: Net((c,)).init(jax.random.key(0), seen((c,))))
    leaves = jax.tree.leaves(boxed, is_leaf=lambda x: isinstance(x, nn.LogicallyPartitioned))
    assert leaves
    for leaf in leaves:
        assert isinstance(leaf, nn.LogicallyPartitioned)
        assert len(leaf.names) == leaf.value.ndim


def gone(conditions, arrays, jointly, seed=1):
    """Which clips lost which condition, [conditions, clips]."""
    dropped = jax.jit(lambda key: drop(conditions, arrays, key, jointly))(jax.random.key(seed))
    nothing = null(conditions, arrays)

    def is_null(c):
        equal = jax.tree.map(
            lambda x, y: (x == y).reshape(len(x), -1).all(axis=1), dropped[c.name], nothing[c.name]
        )
        return np.stack(jax.tree.leaves(equal)).all(axis=0)

    lost = np.stack([is_null(c) for c in conditions])
    for c, without in zip(conditions, lost, strict=True):
        kept = [
            jax.tree.map(lambda x, w=without: x[~w], tree[c.name]) for tree in (dropped, arrays)
        ]
        jax.tree.map(np.testing.assert_array_equal, *kept)
    return lost


def with_rates(**rates):
    return tuple(dataclasses.replace(c, dropout=rates.get(c.name, 0.0)) for c in ALL)


def test_conditions_are_dropped_at_their_own_rates_independently_of_one_another():
    rates = dict(label=0.1, text=0.5, low_res=0.3)
    lost = gone(with_rates(**rates), seen(clips=4000), jointly=0.0)
    assert not lost[2].any()
    np.testing.assert_allclose(lost.mean(axis=1), [0.1, 0.5, 0.0, 0.3], atol=0.03)
    assert np.abs(np.corrcoef(lost[[0, 1, 3]])[np.triu_indices(3, 1)]).max() < 0.05


def test_a_share_of_the_clips_loses_all_conditions_and_their_own_rates_come_on_top():
    """Guidance compares with everything dropped: 3 rates of 0.1 would train that on 0.1% alone."""
    arrays = seen(clips=4000)
    lost = gone(with_rates(), arrays, jointly=0.2)
    assert (lost == lost[0]).all()
    assert abs(lost[0].mean() - 0.2) < 0.02
    both = gone(with_rates(label=0.5, text=0.1), arrays, jointly=0.2)
    everything = both.all(axis=0)
    np.testing.assert_array_equal(everything, lost[0])
    np.testing.assert_allclose(both[:, ~everything].mean(axis=1), [0.5, 0.1, 0.0, 0.0], atol=0.03)
    assert not gone(with_rates(), arrays, jointly=0.0).any()


def test_what_is_dropped_does_not_depend_on_the_other_conditions():
    arrays = seen(clips=400)
    every = gone(with_rates(label=0.3, action=0.3), arrays, jointly=0.1)
    few = [c for c in with_rates(label=0.3, action=0.3) if c.name != "text"]
    np.testing.assert_array_equal(gone(few, arrays, jointly=0.1), every[[0, 2, 3]])
    assert (gone(with_rates(label=0.3), arrays, jointly=0.1, seed=2)[0] != every[0]).any()


def test_without_conditions_nothing_is_given():
    assert encode((), {}, None) == {}
    assert (
        prepare((), {}, jax.random.key(0), True)
        == null((), {})
        == window((), {}, np.arange(3, 5))
        == {}
    )
    assert drop((), {}, jax.random.key(0), 0.5) == {}


def test_what_is_given_for_the_whole_clip_is_given_for_every_window():
    whole = jax.device_get(given())
    part = window(ALL, whole, np.arange(2, 5))
    assert part["label"] is whole["label"]
    assert part["text"] is whole["text"]
    np.testing.assert_array_equal(part["action"]["action"], whole["action"]["action"][:, 2:5])
    np.testing.assert_array_equal(part["low_res"]["video"], whole["low_res"]["video"][:, 2:5])


def test_a_method_that_a_condition_lacks_is_named():
    with pytest.raises(TypeError, match="the condition Condition does not define null"):
        Condition().null({})


@dataclasses.dataclass
class Every:
    """64 records that all are `clip`, except for record 1, which is damaged."""

    clip: Clip
    labels: tuple[str, ...] = ()
    fingerprint: str = ""

    def __len__(self):
        return 64

    def __getitem__(self, index):
        if index == 1:
            raise InputError("record 1 is damaged")
        return self.clip


def clip(**fields):
    time = np.arange(9, dtype=np.float32)
    return Clip(time, lambda index: np.zeros((len(index), 8, 8, 3), np.uint8), **fields)


PLAIN = Every(clip())
RICH = Every(
    clip(caption="hop", action=np.ones((9, 2), np.float32), text=np.ones((3, 5), np.float16)),
    ("cats", "dogs"),
)
EMBEDDINGS = {
    "conditions.text.length": 8, "data.text_embeddings": "t5", "conditions.text.dim": 5
}  # fmt: skip


def asked(**changes):
    config = tiny.get_config()
    changes = {"data.source": "clips", "data.path": "x", "conditions.label.classes": 0} | changes
    for name, value in changes.items():
        configs.override(config, name, str(value))
    return config


@pytest.mark.parametrize(
    ("of", "changes", "message"),
    [
        (PLAIN, {"conditions.text.length": 8}, r"text\.length=8, but .* no captions.*NAME\.txt"),
        (PLAIN, {"conditions.action.dim": 2}, r"action\.dim=2, but .* no actions"),
        (PLAIN, {"conditions.label.classes": 2}, "has 0 classes; set it to 0"),
        (RICH, {"conditions.label.classes": 3}, "has 2 classes: cats, dogs; set it to 2"),
        (PLAIN, EMBEDDINGS, r"data\.text_embeddings: the clips have no emb.*write_embeddings"),
        (RICH, EMBEDDINGS | {"conditions.text.dim": 4}, r"set config\.conditions\.text\.dim=5"),
        (RICH, {"conditions.action.dim": 3}, r"set config\.conditions\.action\.dim=2"),
    ],
)
def test_what_the_data_lacks_is_one_line(of, changes, message):
    with pytest.raises(InputError, match=message) as caught:
        check_source(make_conditions(asked(**changes)), of)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (EMBEDDINGS | {"conditions.text.length": 0}, "data.text_embeddings=t5: set .*text.length"),
        (EMBEDDINGS | {"conditions.text.dim": 0}, "data.text_embeddings=t5: set .*text.dim"),
        (EMBEDDINGS | {"data.augment": ("flip",)}, "flip would make .* embedded captions false"),
        (EMBEDDINGS | {"data.augment": ("reverse",)}, "reverse would make .* embedded captions"),
        ({"conditions.text.length": 8, "data.augment": ("reverse",)}, "reverse .* captions"),
        ({"conditions.action.dim": 2, "data.augment": ("flip",)}, "flip .* clips' actions"),
        ({"conditions.action.dim": 2, "data.augment": ("crop",)}, "crop .* clips' actions"),
        (
            {"data.source": "glyphs", "conditions.label.classes": 10, "data.augment": ("flip",)},
            "flip would make the clips' classes false",
        ),
        ({"conditions.action.dim": 2, "data.augment": ("reverse",)}, "reverse .* actions"),
    ],
)
def test_what_augmentation_would_make_false_or_leaves_out_is_one_line(changes, message):
    with pytest.raises(InputError, match=message) as caught:
        configs.check(asked(**changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("of", "changes"),
    [
        (PLAIN, {"data.augment": ("flip", "reverse", "crop")}),
        (RICH, {"conditions.text.length": 8, "conditions.action.dim": 2}),
        (RICH, {"conditions.text.length": 8, "data.augment": ("flip", "crop")}),
        (RICH, EMBEDDINGS | {"conditions.label.classes": 2}),
    ],
)
def test_what_the_data_has_is_let_through(of, changes):
    config = asked(**changes)
    configs.check(config)
    check_source(make_conditions(config), of)


def test_the_synthetic_world_has_labels_captions_and_actions_that_survive_augmentation():
    config = asked(**{
        "data.source": "synthetic", "conditions.text.length": 40, "conditions.action.dim": 2,
        "conditions.label.classes": 3, "data.augment": ("flip", "reverse", "crop"),
    })  # fmt: skip
    configs.check(config)
    check_source(make_conditions(config), make_source(config.data))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"conditions.low_res.factor": 4},
        {"conditions.text.length": 8, "conditions.action.dim": 2, "conditions.label.classes": 3},
        EMBEDDINGS | {"conditions.action.dim": 2},
    ],
)
def test_a_blank_batch_is_like_a_real_one_and_gives_nothing(changes):
    config = asked(**changes)
    run = build(config)
    blank = blank_batch(config.data, run.encode, 2)
    real, plain = (
        make_dataset(of, config.data, run.encode, seed=0, batch_size=2)[0] for of in (RICH, PLAIN)
    )
    for batch in (real, plain):
        assert batch.pop("bad").max() == -1
        same_form(blank, batch)
    assert set(blank) == {"video", "time", "given"}
    assert set(blank["given"]) == {c.name for c in run.conditions}
    for name in {"text", "action"} & set(blank["given"]):
        assert not blank["given"][name]["mask"].any()
        assert not plain["given"][name]["mask"].any()
        assert real["given"][name]["mask"][:, :3].all()


def test_a_clip_of_another_width_is_bad():
    config = asked(**{"conditions.action.dim": 3})
    with pytest.raises(InputError, match=r"are all bad.*set config\.conditions\.action\.dim=2"):
        make_dataset(RICH, config.data, build(config).encode, seed=0, batch_size=1)[0]
