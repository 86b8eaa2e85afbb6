"""Buckets: their batches, their order, and what is refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxvid.build import build
from jaxvid.data import pipeline
from jaxvid.data.buckets import make_buckets, open_sources
from tests import tiny
from tests.commands import mistakes, run

THREE = ("square(weight=2)", "wide(size=8, width=16)", "stills(frames=1, size=16)")


def config(*buckets):
    c = tiny.get_config()
    c.data.update(buckets=buckets, source="constant")
    return c


def batches_of(c, hosts=1):
    """The dataset of each host."""
    (sources, whole, _), run = open_sources(c), build(c)
    return [
        pipeline.mix(
            [
                pipeline.make_dataset(
                    source, bucket.data, run.encode, seed=3, batch_size=bucket.batch_size,
                    share=((host,), hosts),
                )
                for source, bucket in zip(sources, run.buckets, strict=True)
            ],
            [bucket.weight for bucket in run.buckets],
            whole.starts,
        )
        for host in range(hosts)
    ]  # fmt: skip


@pytest.fixture(autouse=True)
def any_size(monkeypatch):
    """A source whose clips have the size of the config, and show their number."""
    from jaxvid.data.clips import Clip, frame_shape
    from jaxvid.data.sources import SOURCES

    class Numbers:
        labels, fingerprint = ("a",), "numbers"

        def __init__(self, data):
            self.shape, self.frames = frame_shape(data), data.frames

        def __len__(self):
            return 40

        def __getitem__(self, index):
            time = np.arange(self.frames, dtype=np.float32)
            decode = lambda frames: np.full((len(frames), *self.shape, 3), index, np.uint8)  # noqa: E731
            return Clip(time, decode, label=0)

    monkeypatch.setitem(SOURCES, "constant", lambda data, split: Numbers(data))


@settings(max_examples=50, deadline=None)
@given(
    frames=st.integers(1, 32), size=st.sampled_from([4, 8, 20]), width=st.sampled_from([0, 12]),
    unit=st.sampled_from([1, 2, 8]), batch=st.integers(1, 64),
)  # fmt: skip
def test_a_step_of_each_bucket_has_about_as_many_tokens(frames, size, width, unit, batch):
    c = config("plain", f"other(frames={frames}, size={size}, width={width})")
    c.batch_size = unit * batch
    plain, other = make_buckets(c, unit)
    assert plain.batch_size == c.batch_size
    assert other.batch_size % unit == 0
    per_clip = other.tokens // other.batch_size
    assert per_clip == frames * (size // 4) * ((width or size) // 4)
    # As near as a multiple of the unit comes, and at least one.
    nearest = abs(other.tokens - plain.tokens) <= unit * per_clip / 2
    assert nearest or other.batch_size == unit


def test_each_step_has_one_shape_and_each_bucket_its_share():
    (batches,) = batches_of(config(*THREE))
    shapes = [batches[k]["video"].shape for k in range(40)]
    assert {shape: shapes.count(shape) for shape in shapes} == {
        (8, 4, 8, 8, 3): 20, (8, 4, 8, 16, 3): 10, (8, 1, 16, 16, 3): 10}  # fmt: skip


def test_the_order_is_the_same_for_any_number_of_hosts_and_from_any_step():
    (alone,), *several = (batches_of(config(*THREE), hosts) for hosts in (1, 2, 4))
    for k in range(12):
        for hosts in several:
            parts = [host[k]["video"] for host in hosts]
            np.testing.assert_array_equal(np.concatenate(parts), alone[k]["video"])
    np.testing.assert_array_equal(alone[5:][2]["video"], alone[7]["video"])
    seen = [alone[k]["video"][:, 0, 0, 0, 0] for k in range(40) if alone[k]["video"].shape[1] == 1]
    assert np.bincount(np.concatenate(seen)).tolist() == [2] * 40  # two passes, none left out


def test_a_run_with_buckets(tmp_path):
    two = '--config.data.buckets=("square(weight=3)", "still(frames=1, size=16)")'
    words = ["--config=tests/tiny.py", "--config.model.blocks=time mlp", two, "--config.steps=4"]
    said = run("train", *words, f"--workdir={tmp_path / 'run'}")
    assert "bucket square: 8 clips of 4x8x8, 128 tokens per step, 75% of the steps" in said
    assert "bucket still: 8 clips of 1x16x16, 128 tokens per step, 25% of" in said
    assert "step 4/4" in said
    mistakes(
        "train",
        *[
            ([*words[:2], f"--config.data.buckets=({bucket!r}, 'b')"], line)
            for bucket, line in {
                "a(width=16)": "buckets: a: config.data.width=16: the world synthetic is square",
                "a(size=6)": "buckets: a: config.data.size=6 does not divide into patches of 4",
                "a(sise=8)": "buckets: a: there is no key data.sise",
                "a(size='x')": "config.data.buckets: a: ",
                "a(weight=0)": "'a(weight=0)': write it as wide(width=64)",
                "b": "there are two of the name b",
                "a(source='clips')": "buckets: a: config.data.path is empty",
            }.items()
        ],
        ([*words[:3], "--config.model.positions=learned"], "buckets need config.model.positions="),
    )
