import json
import pickle

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter

from configs import base
from jaxvid.data import records
from jaxvid.data.sources import make_source
from jaxvid.data.sources.clips import ClipFolder
from jaxvid.errors import InputError

SIZE, FRAMES = 16, 6
COUNTS = {"clips-00000.array_record": 2, "clips-00001.array_record": 3}


def shade(record):
    return 20 + 40 * record


@pytest.fixture
def folder(tmp_path):
    """Five clips in two shards; every pixel of record i has the value shade(i)."""
    time = np.arange(FRAMES, dtype=np.float32) / 8
    record = 0
    for name, count in COUNTS.items():
        writer = ArrayRecordWriter(str(tmp_path / name), "group_size:1,uncompressed")
        for _ in range(count):
            frames = np.full((FRAMES, SIZE, SIZE, 3), shade(record), np.uint8)
            label = record % 2
            writer.write(records.encode(frames, time, label=label, source="v.mp4", quality=95))
            record += 1
        writer.close()
    write_manifest(tmp_path)
    return tmp_path


def write_manifest(path, **changes):
    manifest = {"version": 1, "size": SIZE, "fps": 8.0, "frames": FRAMES, "labels": ["a", "b"]}
    (path / "manifest.json").write_text(json.dumps(manifest | {"shards": COUNTS} | changes))


def config(**changes):
    data = base.get_config().data
    data.update(dict(frames=4, size=SIZE, shapes=(1, 2)) | changes)
    return data


def test_every_record_of_every_shard_in_order(folder):
    source = make_source(config(source="clips", path=str(folder)))
    assert source.labels == ("a", "b")
    assert len(source) == 5
    for copy in (source, pickle.loads(pickle.dumps(source))):
        clips = [copy[i] for i in range(5)]
        shades = [int(clip.decode(np.array([2])).mean().round()) for clip in clips]
        assert shades == [shade(i) for i in range(5)]
        assert [clip.label for clip in clips] == [0, 1, 0, 1, 0]


def test_the_synthetic_source_is_long_enough_for_the_largest_stride():
    source = make_source(config(strides=(1, 3)))
    assert len(source[0].time) == 10
    assert source[0].decode(np.array([0])).shape == (1, SIZE, SIZE, 3)


def test_a_damaged_record_spares_its_neighbours(folder):
    shard = folder / "clips-00001.array_record"
    data = shard.read_bytes()
    # The shard's JPEGs start with its first record; a few bytes there break that record's hash.
    at = data.index(b"v.mp4")
    shard.write_bytes(data[:at] + b"\0" * 5 + data[at + 5 :])
    source = ClipFolder(folder)
    with pytest.raises(InputError, match="record 2 cannot be read"):
        source[2]
    assert [source[i].label for i in (0, 1, 3, 4)] == [0, 1, 1, 0]


def test_a_shard_that_was_cut_short(folder):
    shard = folder / "clips-00001.array_record"
    data = shard.read_bytes()
    shard.write_bytes(data[: len(data) // 2])
    source = ClipFolder(folder)
    with pytest.raises(InputError, match="record 4"):
        source[4]
    assert source[0].label == 0


def test_a_folder_that_is_missing_or_empty_or_foreign(tmp_path):
    with pytest.raises(InputError, match=r"nowhere is not a folder: .*jaxvid\.prepare"):
        ClipFolder(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"is empty: .*jaxvid\.prepare"):
        ClipFolder(tmp_path)
    (tmp_path / "video.mp4").touch()
    with pytest.raises(InputError, match=r"no manifest\.json: .*jaxvid\.prepare"):
        ClipFolder(tmp_path)


def test_shards_that_are_missing(folder):
    (folder / "clips-00001.array_record").unlink()
    with pytest.raises(InputError, match=r"lacks 1 of the 2 shards .* clips-00001"):
        ClipFolder(folder)


def test_a_manifest_that_is_damaged_or_new_or_without_clips(folder):
    write_manifest(folder, version=2)
    with pytest.raises(InputError, match="version 2, this code reads 1"):
        ClipFolder(folder)
    write_manifest(folder, shards={})
    with pytest.raises(InputError, match="holds no clips"):
        ClipFolder(folder)
    for damage in ("{", "[]", '{"version": 1}'):
        (folder / "manifest.json").write_text(damage)
        with pytest.raises(InputError, match=r"manifest\.json is damaged"):
            ClipFolder(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 32}, r"set --config\.data\.size=16 \(32 now\); --config=configs/videos\.py:/"),
        (
            {"fps": 4.0, "frames": 7},
            r"set .*fps=8 \(4 now\), .*frames=6 or fewer \(7",
        ),
        ({"strides": (2, 3)}, r"clips of 6 frames.* set .*frames=3 or fewer \(4 now\)"),
    ],
)
def test_a_config_that_does_not_suit_the_folder(folder, changes, message):
    with pytest.raises(InputError, match=message):
        make_source(config(source="clips", path=str(folder), **changes))
