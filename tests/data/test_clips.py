import numpy as np
import pytest

from configs import base
from jaxvid.data.clips import Clip, longest, sample_clip, shortest, windows
from jaxvid.errors import InputError


def numbered(length, asked=None):
    """A clip at 10 frames a second from time 5, each frame of which shows its own number."""

    def decode(index):
        if asked is not None:
            asked.append(index)
        return np.broadcast_to(index.astype(np.uint8)[:, None, None, None], (len(index), 2, 2, 3))

    time = (5 + np.arange(length) / 10).astype(np.float32)
    action = np.arange(2.0 * length, dtype=np.float32).reshape(length, 2)
    return Clip(time, decode, 3, {"row": np.arange(length)}, caption="a row", action=action)


def data(**changes):
    config = base.get_config().data
    config.update({"frames": 4} | changes)
    return config


def test_decodes_exactly_the_sampled_frames():
    asked = []
    sample = sample_clip(numbered(100, asked), data(strides=(3,)), np.random.default_rng(0))
    assert len(asked) == 1
    assert np.diff(asked[0]).tolist() == [3, 3, 3]
    np.testing.assert_array_equal(sample["video"][:, 0, 0, 0], asked[0])
    np.testing.assert_array_equal(sample["row"], asked[0])
    np.testing.assert_array_equal(sample["action"][:, 0], 2 * asked[0])
    assert sample["caption"] == "a row"
    np.testing.assert_allclose(sample["time"], [0, 0.3, 0.6, 0.9], atol=1e-6)
    assert sample["time"].dtype == np.float32
    assert sample["label"] == 3
    assert sample["label"].dtype == np.int32


def test_reaches_every_start_and_only_the_strides_that_fit():
    rng = np.random.default_rng(0)
    config = data(strides=(1, 2, 3))
    rows = [sample_clip(numbered(8), config, rng)["row"] for _ in range(200)]
    seen = {(row[0], row[1] - row[0]) for row in rows}
    assert seen == {(start, 1) for start in range(5)} | {(0, 2), (1, 2)}


def test_a_clip_that_is_too_short():
    with pytest.raises(InputError, match=r"5 frames is too short .* needs 7"):
        sample_clip(numbered(5), data(strides=(2, 3)), np.random.default_rng(0))


def test_clips_have_the_times_and_observed_frames_of_the_calls_of_plans():
    config = data(plans=("key_frames(frames=10)", "sliding(frames=9, overlap=1)"))
    # Four key frames; those between two, seen from either end; four in a row, one of them seen.
    keys, between = ((0, 3, 6, 9), ()), ((0, 1, 2, 3), (0, 3))
    row, onwards = ((0, 1, 2, 3), ()), ((0, 1, 2, 3), (0,))
    assert [
        {(tuple(w.frames), tuple(np.flatnonzero(w.observed))) for w in group}
        for group in windows(config)
    ] == [{keys, between}, {row, onwards}]
    assert (shortest(config), longest(config)) == (4, 10)

    def drawn(length, plans=config.plans):
        rng, seen = np.random.default_rng(0), []
        for _ in range(400):
            sample = sample_clip(numbered(length), data(plans=plans), rng)
            frames = sample["row"] - sample["row"][0]
            np.testing.assert_allclose(sample["time"], frames / 10, atol=1e-6)
            seen.append((tuple(frames), tuple(np.flatnonzero(sample["observed"]))))
        return seen

    seen = drawn(12)
    assert set(seen) == {keys, between, row, onwards}
    # Each plan has the same share, whatever the number of its calls.
    assert 0.4 < np.mean([one in (row, onwards) for one in seen]) < 0.6
    assert set(drawn(9)) == {between, row, onwards}
    with pytest.raises(InputError, match=r"3 frames is too short .* needs 4"):
        drawn(3)
