import functools
import itertools

import jax
import numpy as np
import pytest
from absl import flags
from ml_collections import ConfigDict

from configs import base
from jaxvid.config import check
from jaxvid.data.clips import Clip, kind_at
from jaxvid.data.pipeline import batches, make_dataset
from jaxvid.data.sources import make_source
from jaxvid.data.sources.mixture import Mixture
from jaxvid.data.sources.synthetic import SyntheticWorld, render_scenes
from jaxvid.errors import InputError
from jaxvid.hierarchy.plan import by_importance, kind_of

CONFIG = base.get_config().data
CONFIG.update(frames=4, size=16, shapes=(1, 2), strides=(1, 2), prefetch=3)
CONFIG.augment = ("flip", "crop(least=0.7)", "reverse", "colour")


class Numbered:
    """`length` records whose label is their own number; those in `bad` do not decode."""

    labels = ()
    fingerprint = ""

    def __init__(self, length, bad=()):
        self.length, self.bad = length, bad

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        def decode(frames):
            if index in self.bad:
                raise InputError(f"record {index} is damaged")
            return np.full((len(frames), 16, 16, 3), index % 256, np.uint8)

        return Clip(np.arange(7, dtype=np.float32), decode, index)


class First:
    """The first `length` records of a source."""

    fingerprint = ""

    def __init__(self, source, length):
        self.labels, self.source, self.length = source.labels, source, length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return self.source[index]


def encode(sample, clip):
    """As of two conditions: a number, and an array that augmentation changes."""
    return {name: sample[name] for name in ("label", "position") if name in sample}


def stream(start, stop, *, seed=0, hosts=1, source=None, config=CONFIG, by_kind=False):
    """Steps [start, stop) of the global batches of 8, joined from what each host reads."""
    source = source or make_source(CONFIG)
    parts = []
    for host in range(hosts):
        dataset = make_dataset(
            source, config, encode, seed=seed, batch_size=8,
            share=((host,), hosts), by_kind=by_kind,
        )  # fmt: skip
        reader = batches(dataset, start, config)
        parts.append(list(itertools.islice(reader, stop - start)))
        reader.close()
    return [
        jax.tree.map(lambda *arrays: np.concatenate(arrays), *step)
        for step in zip(*parts, strict=True)
    ]


def assert_same(a, b):
    assert len(a) == len(b) > 0
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_what_is_in_a_batch():
    batch = stream(0, 1)[0]
    assert jax.tree.map(lambda array: (array.dtype.name, array.shape), batch) == {
        "video": ("uint8", (8, 4, 16, 16, 3)),
        "time": ("float32", (8, 4)),
        "given": {"label": ("int32", (8,)), "position": ("float32", (8, 4, 2, 2))},
        "bad": ("int32", (8, 64)),
    }
    assert (batch["time"][:, 0] == 0).all()
    assert (batch["bad"] == -1).all()
    strides = np.diff(batch["time"]) * CONFIG.fps
    assert set(strides.ravel()) == {1, 2}


PLANS = ConfigDict(CONFIG.to_dict() | {"plans": ("key_frames(frames=10)", "sliding(frames=8)")})
WORLD, OTHER = (First(SyntheticWorld(seed, 16, 16, 8.0, (1, 2)), 13 - 9 * seed) for seed in (0, 1))
MIXTURE = Mixture([OTHER, First(WORLD, 9)], [1, 2], WORLD.labels)
CASES = {
    "world": {"source": WORLD},
    "mixture": {"source": MIXTURE},
    "by_kind": {"source": MIXTURE, "config": PLANS, "by_kind": True},
}


@pytest.mark.parametrize("case", CASES)
def test_from_any_step_on_any_hosts_nothing_is_repeated_or_left_out(case):
    """In two passes, of 13 or 15 clips each, however many batches are prepared ahead."""
    arguments = {"config": CONFIG, **CASES[case]}
    in_one_go = stream(0, 4, **arguments)
    for start, hosts, ahead in ((0, 4, 1), (1, 2, 2), (2, 1, 3), (3, 4, 2)):
        arguments["config"] = ConfigDict(arguments["config"].to_dict() | {"prefetch": ahead})
        assert_same(stream(start, 4, hosts=hosts, **arguments), in_one_go[start:])
    shown = [video.tobytes() for step in in_one_go for video in step["video"]]
    assert len(set(shown)) == len(shown) == 32


def test_worker_processes_change_nothing():
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
    config = ConfigDict(CONFIG.to_dict() | {"workers": 2})
    reader = batches(
        make_dataset(make_source(CONFIG), config, encode, seed=0, batch_size=8), 1, config
    )
    steps = list(itertools.islice(reader, 3))
    reader.close()
    assert_same(steps, stream(1, 4))
    # Shared memory that outlives the reader is reported as leaked.
    assert all(array.flags.owndata for array in jax.tree.leaves(steps))


@pytest.mark.parametrize(("size", "shapes", "by_kind"), [(16, (1, 1), True), (64, (2, 4), False)])
def test_devices_paint_the_clips_that_hosts_would(size, shapes, by_kind):
    config = ConfigDict(PLANS.to_dict() | {"size": size, "shapes": shapes})
    config.augment = ("reverse", "speed", "pause")
    pixels, scenes = (
        make_dataset(
            make_source(config), config, encode,
            seed=0, batch_size=24, by_kind=by_kind, scenes=scenes,
        )[2]
        for scenes in (False, True)
    )  # fmt: skip
    painted = jax.jit(functools.partial(render_scenes, config))(scenes.pop("scene"))
    assert painted.dtype == np.uint8
    apart = np.abs(np.int32(painted) - pixels.pop("video"))
    assert apart.max() <= 1
    assert apart.mean() < 1e-3
    assert_same([scenes], [pixels])


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"data.source": "bodies"}, "not those of config.data.source=bodies: set it to"),
        (
            {"data.source": "mixture", "data.mixture": ("synthetic", "bodies")},
            "source=mixture: set it to False",
        ),
        ({"data.augment": ("reverse", "flip", "hue(p=1)")}, r"flip and hue\(p=1\) of config"),
        ({"conditions.low_res.factor": 2}, "set config.data.render_on_device=False"),
    ],
)
def test_what_needs_the_pixels_on_the_hosts_is_refused(changes, line):
    config = base.get_config()
    config.update_from_flattened_dict(changes | {"data.render_on_device": True})
    with pytest.raises(InputError, match=line):
        check(config)


def test_batches_fit_into_shared_memory():
    # What is not contiguous goes through a pipe, and a worker whose pipe is full does not end.
    batch = make_dataset(
        make_source(CONFIG), CONFIG, encode, seed=0, batch_size=8, augmented=False
    )[0]
    assert all(array.flags.c_contiguous for array in jax.tree.leaves(batch))


def test_seeds_differ_in_order_and_in_augmentation():
    one, other = (
        np.concatenate([b["given"]["label"] for b in stream(0, 5, seed=s, source=Numbered(40))])
        for s in (0, 1)
    )
    assert sorted(one) == sorted(other)
    assert (one != other).any()


def test_clips_for_validation_are_not_augmented():
    def clips(config, **choices):
        world = make_source(CONFIG, "validation")
        return make_dataset(world, config, encode, seed=0, batch_size=8, **choices)[0]["video"]

    plain = CONFIG.copy_and_resolve_references()
    plain.augment = ()
    assert (clips(CONFIG, augmented=False) == clips(plain)).all()
    assert (clips(CONFIG) != clips(plain)).any()


def test_every_pass_takes_each_record_once_in_a_new_order():
    labels = np.concatenate([b["given"]["label"] for b in stream(0, 15, source=Numbered(40))])
    passes = labels.reshape(3, 40)
    for order in passes:
        assert sorted(order) == list(range(40))
    assert (passes[0] != passes[1]).any()
    assert (passes[1] != passes[2]).any()
    assert (passes[0] != np.arange(40)).any()


def test_passes_that_end_inside_a_batch():
    labels = np.concatenate([b["given"]["label"] for b in stream(0, 5, source=Numbered(5))])
    for order in labels.reshape(8, 5):
        assert sorted(order) == list(range(5))


def test_a_record_is_changed_anew_in_every_pass():
    videos = stream(0, 1, source=First(make_source(CONFIG), 1))[0]["video"]
    assert len({video.tobytes() for video in videos}) == 8


def test_a_bad_record_is_replaced_by_another_and_listed():
    source = Numbered(40, bad=(7, *range(20, 40)))
    steps = stream(0, 5, source=source)
    label = np.concatenate([b["given"]["label"] for b in steps])
    bad = np.concatenate([b["bad"] for b in steps])
    assert not set(source.bad) & set(label)
    for row in bad:
        tried = row[row >= 0]
        assert set(tried) <= set(source.bad)
        assert (row[len(tried) :] == -1).all()
    assert sorted(bad[:, 0][bad[:, 0] >= 0]) == sorted(source.bad)
    assert (bad[:, 1] >= 0).any()
    good = bad[:, 0] < 0
    assert sorted(label[good]) == sorted(set(range(40)) - set(source.bad))
    assert len(set(label[~good])) > 5
    assert_same(stream(2, 5, source=source, hosts=2), steps[2:])


def test_nothing_but_bad_records():
    with pytest.raises(InputError, match=r"record \d and 63 replacements are all bad.* is damaged"):
        stream(0, 1, source=Numbered(8, bad=range(8)))


def test_a_batch_that_does_not_divide_over_the_hosts():
    with pytest.raises(InputError, match="batch_size=8 does not divide into 3 parts"):
        make_dataset(Numbered(8), CONFIG, encode, seed=0, batch_size=8, share=((0,), 3))


def test_hosts_may_read_any_parts_of_a_batch_and_the_same():
    """As when the devices of a host are not neighbours, or divide heads and not clips."""
    source = make_source(CONFIG)
    read = functools.partial(make_dataset, source, CONFIG, encode, seed=0, batch_size=8)
    for step in (0, 5):
        whole = read()[step]["video"].reshape(4, 2, *read()[step]["video"].shape[1:])
        for mine in ((1, 3), (0, 2, 3), (0, 1, 2, 3)):
            part = read(share=(mine, 4))[step]["video"]
            np.testing.assert_array_equal(part, np.concatenate(whole[list(mine)]))


def test_the_clips_of_a_step_are_of_one_kind_with_their_frames_by_importance():
    """On any number of hosts, and as often as without kinds."""
    config, found = CONFIG.copy_and_resolve_references(), []
    config.update(plans=("key_frames(frames=10)", "sliding(frames=10, overlap=1)"), fps=1.0)

    class Moving(Numbered):
        def __getitem__(self, index):
            def decode(frames):
                return np.tile(np.uint8(frames)[:, None, None, None], (1, 16, 16, 3))

            number = np.arange(14, dtype=np.float32)
            return Clip(number, decode, index, truth={"position": number})

    def batch_of(step, **hosts):
        return make_dataset(
            Moving(20), config, encode, seed=3, batch_size=8, by_kind=True, augmented=False, **hosts
        )[step]

    for step in range(40):
        batch, kind = batch_of(step), kind_at(config, 3, step)
        found.append(kind)
        for time, observed in zip(batch["time"], batch["observed"], strict=True):
            in_time = np.argsort(time)
            assert kind_of(observed[in_time]) == kind
            ranked = by_importance(time[in_time], observed[in_time])
            np.testing.assert_array_equal(time, time[in_time][ranked])
        # Whatever belongs to a frame moves with it.
        position, first = batch["given"]["position"], batch["given"]["position"].min(1)
        np.testing.assert_array_equal(batch["video"][..., 0, 0, 0], position)
        np.testing.assert_array_equal(batch["time"], position - first[:, None])
    # Every plan has one outline among two windows, so half of the clips are outlines.
    assert 0.35 < np.mean([kind == "outline" for kind in found]) < 0.65
    assert set(found) == {"outline", "between", "onwards"}
    two = [batch_of(5, share=((i,), 2))["video"] for i in range(2)]
    np.testing.assert_array_equal(np.concatenate(two), batch_of(5)["video"])
