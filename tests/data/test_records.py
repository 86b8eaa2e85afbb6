"""Records: frames come back within JPEG error, one by one, and damage is named."""

import pickle

import cv2
import msgpack
import numpy as np
import pytest

from jaxvid.data import records
from jaxvid.errors import InputError


def smooth_frames(count):
    coarse = np.random.default_rng(0).integers(0, 256, (count, 4, 4, 3), np.uint8)
    return np.stack([cv2.resize(image, (48, 32)) for image in coarse])


def make(count=6, **changes):
    frames, time = smooth_frames(count), np.arange(count, dtype=np.float32) / 8
    given = {"label": 3, "source": "a/b.mp4#t=4", "quality": 95, **changes}
    return frames, time, records.encode(frames, time, **given)


def test_round_trip():
    frames, time, record = make()
    clip = records.decode(record)
    assert clip.label == 3
    np.testing.assert_array_equal(clip.time, time)
    picked = clip.decode(np.array([4, 0, 4]))
    assert np.abs(picked.astype(int) - frames[[4, 0, 4]]).mean() < 2


def test_captions_and_actions_travel_along_and_may_be_absent():
    action = np.arange(12, dtype=np.float32).reshape(6, 2)
    clip = records.decode(make(caption="a naïve cat", action=action)[2])
    assert clip.caption == "a naïve cat"
    np.testing.assert_array_equal(clip.action, action)
    plain = records.decode(make()[2])
    assert plain.caption == ""
    assert plain.action is None


def test_actions_for_other_frames_are_refused():
    with pytest.raises(InputError, match="3 actions for 6 frames"):
        make(action=np.zeros((3, 4), np.float32))


def test_quality_is_honoured():
    assert len(make(quality=30)[2]) < 0.7 * len(make(quality=95)[2])


def test_only_the_frames_asked_for_are_decoded():
    record = make()[2]
    fields = msgpack.unpackb(record)
    fields["frames"][2] = b"no picture"
    clip = records.decode(msgpack.packb(fields))
    assert clip.decode(np.array([0, 1, 3])).shape == (3, 32, 48, 3)
    with pytest.raises(InputError, match=r"a/b\.mp4#t=4: frame 2 of a clip is damaged"):
        clip.decode(np.array([2]))


def test_clips_travel_to_worker_processes():
    clip = records.decode(make()[2])
    copy = pickle.loads(pickle.dumps(clip))
    index = np.arange(6)
    np.testing.assert_array_equal(copy.decode(index), clip.decode(index))


def test_file_names_need_not_be_text():
    clip = records.decode(make(source=b"caf\xe9.mp4".decode(errors="surrogateescape"))[2])
    assert len(clip.time) == 6


def damaged():
    record = make()[2]
    fields = msgpack.unpackb(record)
    yield b""
    yield b"\xc1"
    yield record[:-1]
    yield record + b"x"
    yield msgpack.packb([1, 2])
    yield msgpack.packb(7)
    yield pickle.dumps(fields)
    yield msgpack.packb({**fields, "version": 2})
    yield msgpack.packb({**fields, "time": fields["time"][:-1]})
    yield msgpack.packb({**fields, "time": fields["time"][:-4]})
    yield msgpack.packb({**fields, "frames": 6})
    yield msgpack.packb({**fields, "label": "cat"})
    yield msgpack.packb({**fields, "action": fields["time"][:-4]})
    yield msgpack.packb({key: fields[key] for key in fields if key != "source"})


def test_damaged_records_raise():
    for record in damaged():
        with pytest.raises(InputError) as caught:
            records.decode(record)
        assert "prepare the data again" in str(caught.value)
        assert "\n" not in str(caught.value)
