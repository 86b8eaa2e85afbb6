import hashlib
import itertools
import json
import pickle

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter

from configs import base
from jaxvid.config import check
from jaxvid.data import manifest as manifests
from jaxvid.data import records
from jaxvid.data.pipeline import batches, make_dataset
from jaxvid.data.sources import SOURCES, PerVideo, make_source, source
from jaxvid.data.sources.clips import ClipFolder
from jaxvid.errors import InputError
from jaxvid.training.meter import Meter

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
    clips = make_source(config(source="clips", path=str(folder)))
    assert clips.labels == ("a", "b")
    assert len(clips) == 5
    for copy in (clips, pickle.loads(pickle.dumps(clips))):
        clips = [copy[i] for i in range(5)]
        shades = [int(clip.decode(np.array([2])).mean().round()) for clip in clips]
        assert shades == [shade(i) for i in range(5)]
        assert [clip.label for clip in clips] == [0, 1, 0, 1, 0]


def test_the_synthetic_source_is_long_enough_for_the_largest_stride():
    world = make_source(config(strides=(1, 3)))
    assert len(world[0].time) == 10
    assert world[0].decode(np.array([0])).shape == (1, SIZE, SIZE, 3)


def test_a_damaged_record_spares_its_neighbours(folder):
    shard = folder / "clips-00001.array_record"
    data = shard.read_bytes()
    # The shard's JPEGs start with its first record; a few bytes there break that record's hash.
    at = data.index(b"v.mp4")
    shard.write_bytes(data[:at] + b"\0" * 5 + data[at + 5 :])
    clips = ClipFolder(folder)
    with pytest.raises(InputError, match="record 2 cannot be read"):
        clips[2]
    assert [clips[i].label for i in (0, 1, 3, 4)] == [0, 1, 1, 0]


@pytest.mark.parametrize("left", [0, 1000, 40_000])
def test_training_goes_on_with_a_shard_that_was_cut_short(folder, left):
    shard = folder / "clips-00001.array_record"
    shard.write_bytes(shard.read_bytes()[:left])
    data = config(source="clips", path=str(folder))
    dataset = make_dataset(make_source(data), data, lambda sample, clip: {}, seed=0, batch_size=10)
    reader, said = batches(dataset, 0, data), []
    steps, meter = list(itertools.islice(reader, 3)), Meter(0, max_bad=3)
    reader.close()
    for batch in steps:
        shades = batch["video"].mean((1, 2, 3, 4))
        assert {round(float(x)) for x in shades} == {shade(0), shade(1)}
        meter.count_bad(batch["bad"], said.append)
    assert said == ["skipped bad record(s) [2, 3, 4]: 3 so far"]
    with pytest.raises(InputError, match=r"3 records are bad, more than config\.data\.max_bad=2"):
        Meter(0, max_bad=2).count_bad(steps[0]["bad"], said.append)


def test_the_fingerprint_tells_other_clips_and_not_another_place(folder, tmp_path):
    first = ClipFolder(folder).fingerprint
    assert ClipFolder(folder.rename(folder.with_name("moved"))).fingerprint == first
    folder = folder.with_name("moved")
    write_manifest(folder, labels=["b", "a"])
    assert ClipFolder(folder).fingerprint != first
    write_manifest(folder, hashes={"clips-00001.array_record": "0f"})
    assert ClipFolder(folder).fingerprint != first
    world = make_source(config()).fingerprint
    assert make_source(config()).fingerprint == world
    assert make_source(config(spin=0.5)).fingerprint != world
    folder.rename(tmp_path)


def test_a_source_from_outside_is_one_function():
    @source("constant")
    def constant(data, split):
        return make_source(config(size=data.size), split)

    try:
        whole = base.get_config()
        whole.data.source = "constant"
        check(whole)
        assert make_source(config(source="constant"))[0].label in range(3)
        whole.data.source = "konstant"
        with pytest.raises(InputError, match=r"one of bodies, flow, .*, tfds, videos, constant"):
            check(whole)
    finally:
        del SOURCES["constant"]


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
    write_manifest(folder, version=3)
    with pytest.raises(InputError, match="version 3, but this code reads version 2"):
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
        (
            {"frames": 7, "plans": ("sliding(frames=9)",)},
            r"clips of 6 frames, but the calls of config\.data\.plans span 7 or more",
        ),
    ],
)
def test_a_config_that_does_not_suit_the_folder(folder, changes, message):
    with pytest.raises(InputError, match=message):
        make_source(config(source="clips", path=str(folder), **changes))


def many_videos(path):
    """A folder with the clips of 40 videos: three videos to a shard, 1 to 3 clips of each."""
    counts, files = {}, {}
    time, frames = np.arange(2, dtype=np.float32), np.zeros((2, SIZE, SIZE, 3), np.uint8)
    for shard in range(14):
        name = f"clips-{shard:05d}.array_record"
        writer = ArrayRecordWriter(str(path / name), "group_size:1,uncompressed")
        for video in range(3 * shard, min(3 * shard + 3, 40)):
            clips = 1 + video % 3
            files[f"{video:02d}.mp4"] = {"status": "done", "shard": name, "clips": clips}
            counts[name] = counts.get(name, 0) + clips
            for clip in range(clips):
                of = f"{video:02d}.mp4#t={clip}"
                writer.write(records.encode(frames, time, label=-1, source=of, quality=95))
        writer.close()
    manifest = {"version": 1, "size": SIZE, "fps": 1.0, "frames": 2, "labels": []}
    (path / "manifest.json").write_text(json.dumps(manifest | {"shards": counts, "files": files}))
    return files


def videos_of(clips):
    """The video of each clip."""
    return [records.source_of(clips._read(clips._records, int(i))) for i in clips._index]


@pytest.mark.parametrize("share", [0.001, 0.2])
def test_no_video_has_clips_in_both_splits_of_a_folder(tmp_path, share):
    files = many_videos(tmp_path)
    split = {s: ClipFolder(tmp_path, split=s, held_out=share) for s in ("train", "validation")}
    whose = {s: set(videos_of(clips)) for s, clips in split.items()}
    assert not whose["train"] & whose["validation"]
    assert whose["train"] | whose["validation"] == set(files)
    assert sum(map(len, split.values())) == len(ClipFolder(tmp_path))
    assert (
        (len(whose["validation"]) == 1) if share == 0.001 else 3 <= len(whose["validation"]) <= 16
    )
    assert (
        len({clips.fingerprint for clips in split.values()} | {ClipFolder(tmp_path).fingerprint})
        == 3
    )


def test_one_clip_of_each_video_may_be_any_of_its_clips(tmp_path):
    many_videos(tmp_path)
    clips = ClipFolder(tmp_path, held_out=0.2)
    names = np.array(videos_of(clips))
    drawn = [PerVideo(clips, seed) for seed in range(20)]
    for chosen in drawn:
        assert sorted(names[chosen._index]) == sorted(set(names))
        assert chosen[0].label == clips[int(chosen._index[0])].label
    assert {i for chosen in drawn for i in chosen._index} == {*range(len(clips))}
    assert len({chosen.fingerprint for chosen in drawn}) == len(drawn)


def test_a_video_that_was_trained_on_is_not_held_out_when_others_are_added():
    rng = np.random.default_rng(0)
    for _ in range(20):
        names = [f"{number}.mp4" for number in rng.permutation(10_000)[:60]]
        trained = set(names[:9])
        for count in range(10, 60, 5):
            videos = [[manifests.hash_of(name), 1] for name in names[:count]]
            out = manifests.held_out({"shards": {"0": {"videos": videos}}}, 0.03)
            held = {name for name, is_out in zip(names, out, strict=False) if is_out}
            assert held
            if count > 10:
                assert not held & trained
            trained = set(names[:count]) - held


def test_copies_of_a_video_are_in_one_split():
    contents = [hashlib.sha256(bytes([number % 20])).hexdigest() for number in range(40)]
    shards = {"0": {"videos": [[content, 1] for content in contents]}}
    out = manifests.held_out({"shards": shards}, 0.3)
    np.testing.assert_array_equal(out[:20], out[20:])
    assert 0 < out.sum() < 40


def test_the_clips_of_the_world_that_are_held_out_are_others():
    train, validation = (make_source(config(), split) for split in ("train", "validation"))
    assert not set(train.numbers) & set(validation.numbers)
    assert train.fingerprint != validation.fingerprint
    first = [split[0].decode(np.arange(2)) for split in (train, validation)]
    assert np.any(first[0] != first[1])
