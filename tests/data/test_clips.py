import numpy as np
import pytest

from jaxvid.data.clips import Clip, sample_clip
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


def test_decodes_exactly_the_sampled_frames():
    asked = []
    sample = sample_clip(numbered(100, asked), 4, (3,), np.random.default_rng(0))
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
    rows = [sample_clip(numbered(8), 4, (1, 2, 3), rng)["row"] for _ in range(200)]
    seen = {(row[0], row[1] - row[0]) for row in rows}
    assert seen == {(start, 1) for start in range(5)} | {(0, 2), (1, 2)}


def test_a_clip_that_is_too_short():
    with pytest.raises(InputError, match=r"5 frames is too short .* needs 7"):
        sample_clip(numbered(5), 4, (2, 3), np.random.default_rng(0))
