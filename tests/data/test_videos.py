import contextlib

import numpy as np
import pytest

from jaxvid.build import build
from jaxvid.conditions.condition import check_source
from jaxvid.data import video
from jaxvid.data.pipeline import make_dataset
from jaxvid.data.sources import PerVideo, make_source
from jaxvid.data.video import read_frames, write_video
from jaxvid.errors import InputError
from jaxvid.training.meter import Meter
from tests import tiny
from tests.commands import FAST, mistakes, run
from tests.data.corpus import CORPUS, encode


@pytest.fixture
def folder(tmp_path):
    """Twelve cats and twelve dogs of 20 to 31 frames; frame k is of grey level 8 k."""
    for kind in ("cats", "dogs"):
        (tmp_path / "videos" / kind).mkdir(parents=True)
        for i in range(12):
            levels = 8 * np.arange(20 + i, dtype=np.uint8)[:, None, None, None]
            path = tmp_path / "videos" / kind / f"{i}.mp4"
            write_video(path, np.broadcast_to(levels, (20 + i, 32, 48, 3)).copy(), 8)
    (tmp_path / "videos/cats/0.txt").write_text("a cat\nthat fades")
    (tmp_path / "videos/cats/cover.png").write_bytes(b"a picture")
    return tmp_path / "videos"


def config_of(folder, **keys):
    config = tiny.get_config()
    config.data.update(source="videos", path=str(folder), size=16, validation=0.2)
    config.data.update(keys)
    config.conditions.label.classes = 2
    return config


def test_files_are_clips_with_their_classes_and_captions(folder):
    data = config_of(folder).data
    train, held_out = (make_source(data, split) for split in ("train", "validation"))
    assert train.labels == held_out.labels == ("cats", "dogs")
    assert len(train) + len(held_out) == 24
    assert 1 <= len(held_out) <= 10
    clips = [source[i] for source in (train, held_out) for i in range(len(source))]
    assert sorted(len(clip.time) for clip in clips) == sorted([*range(20, 32)] * 2)
    assert [clip.caption for clip in clips if clip.caption] == ["a cat that fades"]
    for clip in clips:
        index = np.array([7, 3, 3, 19])
        video = clip.decode(index)
        assert video.shape == (4, 16, 16, 3)
        np.testing.assert_allclose(video.mean((1, 2, 3)), 8 * index, atol=2)
        np.testing.assert_allclose(clip.time[index], index / 8)


def test_the_fingerprint_is_of_the_files_and_their_split_of_their_names(folder):
    data = config_of(folder).data
    before, first = make_source(data).fingerprint, make_source(data, "validation")
    held_out = {first[i].caption or len(first[i].time) for i in range(len(first))}
    (folder / "cats/1.mp4").unlink()
    (folder / "dogs/new.mp4").write_bytes((folder / "dogs/3.mp4").read_bytes())
    assert make_source(data).fingerprint != before
    after = make_source(data, "validation")
    assert len(held_out ^ {after[i].caption or len(after[i].time) for i in range(len(after))}) <= 2


def test_a_damaged_file_is_replaced_and_counted(folder):
    for name in ("cats/0.mp4", "dogs/5.mp4"):
        (folder / name).write_bytes((folder / name).read_bytes()[:700])
    (folder / "dogs/6.mp4").write_bytes(b"")
    config = config_of(folder, validation=0.0)
    source, run_ = make_source(config.data), build(config)
    check_source(run_.conditions, source)
    batch = make_dataset(source, config.data, run_.encode, seed=0, batch_size=24)[0]
    assert (batch["bad"] >= 0).any(1).sum() == 3
    steps = np.diff(batch["video"].astype(float).mean((2, 3, 4)), axis=1)
    np.testing.assert_allclose(steps, 8, atol=2)


def test_a_clip_opens_its_file_once(folder, monkeypatch):
    data, opened, open_file = config_of(folder).data, [], video._open
    source = make_source(data)
    monkeypatch.setattr(video, "_open", lambda path: opened.append(path) or open_file(path))
    make_dataset(source, data, lambda *_: {}, seed=0, batch_size=1)[0]
    assert len(opened) == 1
    clips = source[1], source[2]
    for clip, other in zip(clips, (source[1], source[2]), strict=True):
        np.testing.assert_array_equal(clip.decode(np.arange(20)), other.decode(np.arange(20)))


@pytest.mark.parametrize(
    ("keys", "by_kind"),
    [
        ({"strides": (1, 2)}, False),
        ({"augment": ("reverse(p=1)", "drop(share=0.5)")}, False),
        ({"plans": ("key_frames(frames=16)",)}, True),
    ],
)
def test_the_times_of_a_clip_are_those_at_which_its_frames_are_shown(tmp_path, keys, by_kind):
    gaps = np.random.default_rng(0).integers(1, 5, 24)
    gaps[8] = 12  # a frame that stands for half a second is nearest to several times
    stamps = np.cumsum(gaps) / 24
    encode(tmp_path / "a.mp4", times=stamps - stamps[0], noise=1, bf="2", b_strategy="0")
    data, several = config_of(tmp_path, validation=0.0, frames=8, **keys).data, 0
    source, sign = make_source(data), -1 if "augment" in keys else 1
    clips = make_dataset(source, data, lambda *_: {}, seed=0, batch_size=40, by_kind=by_kind)[0]
    for video_, time in zip(clips["video"], clips["time"], strict=True):
        shown = np.rint(video_.mean((1, 2, 3)) / 8).astype(int)
        if not by_kind:
            assert time[0] == 0
            assert (np.diff(time) > 0).all()
        assert len(set(time)) == 8
        once = np.bincount(shown)[shown] == 1
        since_start = stamps[shown[once][0]] - stamps[0] + sign * (time - time[once][0])
        np.testing.assert_allclose(since_start[once], stamps[shown[once]] - stamps[0], atol=1e-5)
        ticks = 8 * since_start[~once]
        np.testing.assert_allclose(ticks, np.rint(ticks), atol=1e-4)
        several += not once.all()
    assert several > 5


@pytest.fixture
def odd_source(odd_files):
    config = config_of(odd_files, validation=0.0, frames=2)
    config.conditions.label.classes = 1
    return config, make_source(config.data)


def test_odd_files_give_what_reading_them_whole_gives(odd_files, odd_source):
    _, source = odd_source
    listed = {name for name, odd in CORPUS.items() if odd.listed and not name.endswith(".jpg")}
    assert {source.name_of(i) for i in range(len(source))} == listed
    for index in range(len(source)):
        name, whole, error = source.name_of(index), [], None
        with contextlib.suppress(InputError):
            whole.extend(image for image, _ in read_frames(odd_files / name, size=16, fps=8))
        try:
            clip = source[index]
            frames = clip.decode(np.arange(len(clip.time)))
        except InputError as refusal:
            error = str(refusal)
        if error:
            assert CORPUS[name].refused or CORPUS[name].untimed, error
            assert error.startswith(f"{odd_files / name}: ")
            continue
        # The length is that of the header.
        assert name == "joined.ts" or abs(len(frames) - len(whole)) <= 1, name
        common = min(len(frames), len(whole))
        assert common, name
        np.testing.assert_array_equal(frames[:common], whole[:common], err_msg=name)


def test_odd_files_that_cannot_be_read_are_replaced_counted_and_named(odd_source):
    config, source = odd_source
    run_ = build(config)
    bad = make_dataset(source, config.data, run_.encode, seed=0, batch_size=len(source))[0]["bad"]
    replaced = {source.name_of(record) for record in bad[bad >= 0].tolist()}
    odd = {source.name_of(i): CORPUS[source.name_of(i)] for i in range(len(source))}
    # A clip of the beginning of a damaged file may be whole.
    may = {n for n, o in odd.items() if o.refused or o.untimed or (o.frames or 24) <= 2}
    must = {n for n in may if odd[n].untimed or odd[n].frames in (0, 1, 2)}
    assert must <= replaced <= may
    said = []
    Meter(0, max_bad=len(may)).count_bad(bad, said.append, source.name_of)
    assert said[0].endswith(f": {len(replaced)} so far")
    assert all(repr(name) in said[0] for name in replaced)


def test_it_trains_and_mistakes_are_one_line(folder, tmp_path):
    given = *FAST, "--config.data.source=videos", "--config.steps=2"
    labels = "--config.conditions.label.classes=2"
    where = f"--config.data.path={folder}"
    run("train", *given, labels, where, f"--workdir={tmp_path}/run")
    assert (tmp_path / "run/checkpoints/2").is_dir()
    (tmp_path / "empty").mkdir()
    mistakes(
        "train",
        ([*given, labels], "config.data.path is empty: set it to a folder of video files"),
        ([*given, labels, f"--config.data.path={tmp_path}/no"], "no such folder"),
        ([*given, labels, f"--config.data.path={tmp_path}/empty"], "contains no files"),
        ([*given, where, "--config.conditions.label.classes=3"], "but the data has 2 classes"),
    )
    for name in ("cats/2.mp4", "dogs/2.mp4"):
        (folder / name).unlink()
    mistakes("train", (
        [*given, labels, where, f"--workdir={tmp_path}/run"],
        "has a run with another config or other data (the data: fingerprint ",
    ))  # fmt: skip


def test_all_files_held_out_is_one_line(folder):
    with pytest.raises(InputError, match="no video to train on"):
        make_source(config_of(folder, validation=0.9999).data)


def test_a_pass_takes_several_clips_of_each_file(folder):
    once, thrice = (make_source(config_of(folder, per_file=n).data) for n in (1, 3))
    assert len(thrice) == 3 * len(once)
    assert once.fingerprint != thrice.fingerprint
    assert len(PerVideo(thrice)) == len(once)
    names = [thrice.name_of(i) for i in range(len(thrice))]
    assert {names.count(name) for name in names} == {3}
    config = config_of(folder, per_file=3, start="first")
    batch = make_dataset(thrice, config.data, lambda *_: {}, seed=0, batch_size=8)[0]
    np.testing.assert_allclose(batch["video"][:, 0].mean((1, 2, 3)), 0, atol=2)
