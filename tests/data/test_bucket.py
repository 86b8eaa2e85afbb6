"""Videos and clips in a bucket."""

import contextlib
import json

import numpy as np
import pytest

from configs.videos import get_config as videos_config
from jaxvid.data.curation.settings import Settings
from jaxvid.data.sources import make_source
from jaxvid.data.sources.clips import ClipFolder
from jaxvid.data.video import write_video
from jaxvid.errors import InputError
from jaxvid.files import local, store_of, whole
from jaxvid.prepare import prepare
from tests.commands import FAST, mistakes, run, run_alone

SETTINGS = Settings(8, 8.0, 4)
FLAGS = ["--size=8", "--frames=4", "--cuts=0", "--noletterbox", "--filters=", "--duplicates=-1"]


@pytest.fixture(scope="module")
def videos(bucket, tmp_path_factory):
    """A folder of videos, and a copy of it in the bucket."""
    folder = tmp_path_factory.mktemp("videos")
    for seed, name in enumerate(["cats/1.mp4", "birds/é 2.mp4", "dogs/3.mp4", ".hidden/4.mp4"]):
        (folder / name).parent.mkdir(exist_ok=True)
        noise = np.random.default_rng(seed).integers(0, 256, (24, 16, 16, 3), np.uint8)
        write_video(folder / name, noise, 24.0)
    (folder / "dogs/3.txt").write_text("\ufeffa dog", "utf-8")
    (folder / "broken.mp4").write_bytes(b"not a video")
    for path in (path for path in folder.rglob("*") if path.is_file()):
        store_of(bucket).put_file(str(path), str(bucket / "videos" / path.relative_to(folder)))
    return folder, bucket / "videos"


def clips_of(folder):
    """All clips of a folder, and what is known of each file except when it was changed."""
    source = ClipFolder(folder)
    index = np.arange(4)
    known = {
        name: {k: v for k, v in entry.items() if k != "mtimes"}
        for path in sorted(folder.glob("clips-*.json"), key=lambda path: path.name)
        for name, entry in json.loads(path.read_text())["files"].items()
    }
    return source, [(c.caption, c.label, c.decode(index).tobytes()) for c in source], known


def test_a_bucket_gives_the_same_clips_as_a_folder(bucket, videos, tmp_path):
    here, there = videos
    prepare(here, tmp_path / "clips", SETTINGS, workers=1)
    flags = [f"--input={there}", f"--output={bucket}/clips", *FLAGS]
    options = "--runner=DirectRunner --direct_num_workers=2 --direct_running_mode=multi_threading"
    said = run_alone("prepare", *flags, f"--beam={options}")
    assert f"6 clips from 3 files (1 skipped) in {bucket}/clips" in said
    assert "skipped broken.mp4: not a video" in said
    of_both = [tmp_path / "clips", bucket / "clips"]
    (one, clips, known), (other, same, as_known) = map(clips_of, of_both)
    assert (clips, known, one.fingerprint) == (same, as_known, other.fingerprint)
    assert [caption for caption, _, _ in same].count("a dog") == 2
    written, named = ({path.name for path in folder.iterdir()} for folder in of_both)
    assert named - written == {"kept.png"}

    # A run on them, and one more preparation, after changes.
    assert len(make_source(videos_config(f"{bucket}/clips").data)) == 6
    workdir, data = tmp_path / "run", ["source=clips", f"path={bucket}/clips"]
    run("train", *FAST, f"--workdir={workdir}", "--config.steps=2",
        "--config.data.validation=0",
        *(f"--config.data.{setting}" for setting in data))  # fmt: skip
    losses = [json.loads(line)["loss"] for line in (workdir / "metrics.jsonl").open()]
    assert np.isfinite(losses).all()
    (there / "cats/1.mp4").unlink()
    store_of(bucket).put_file(str(here / "dogs/3.mp4"), f"{there}/dogs/5.mp4")
    said = run_alone("prepare", *flags, "--workers=1")
    assert f"8 clips from 4 files (1 skipped, 1 gone but kept) in {bucket}/clips" in said
    assert len(ClipFolder(bucket / "clips")) == 8
    assert not list((bucket / "clips").glob("*.tmp"))


def test_videos_in_a_bucket_are_read_as_they_are(videos, config):
    sources = []
    for folder in videos:
        config.data.update(source="videos", path=str(folder), validation=0.0, fps=8, size=8)
        sources.append(make_source(config.data))
    of_both = []
    for source in sources:
        names = [source.name_of(i) for i in range(len(source))]
        chosen = [names.index(name) for name in ("birds/é 2.mp4", "dogs/3.mp4")]
        frames = [source[i].decode(np.arange(4)) for i in chosen]
        of_both.append((source.looks[chosen], [source[i].caption for i in chosen], frames))
    for one, other in zip(*of_both, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_file_in_a_bucket_appears_as_a_whole(bucket):
    path = bucket / "deep/a.txt"
    with contextlib.suppress(OSError), whole(path) as file:
        file.write_text("half")
        raise OSError("the disk is full")
    assert not path.exists()
    with whole(path) as file:
        file.write_text("all")
    with local(path) as copy:
        assert copy.read_text() == "all"
        assert copy.name == "a.txt"
    assert not copy.exists()
    with (
        pytest.raises(InputError, match="gs://bucket/none: cannot be read"),
        local(bucket / "none"),
    ):
        pass


def test_what_a_bucket_cannot_do_is_said_in_a_line(bucket, videos, tmp_path):
    mistakes(
        "prepare",
        ([f"--input={bucket}/none", "--output=x"], "gs://bucket/none: no such folder"),
        ([f"--input={tmp_path}", "--output=s3://a/b"], "--output=s3://a/b: object stores are not"),
        ([f"--input={videos[1]}", f"--output={videos[1]}"], "are the same folder"),
        ([f"--input={videos[1]}", "--output=gs://none/a"], "--output=gs://none/a: no such"),
    )
    videos = ["--config=tests/tiny.py", "--config.data.source=videos"]
    mistakes(
        "train",
        (
            [*videos, "--config.data.path=gs://none/a"],
            "config.data.path: gs://none/a: no such folder",
        ),
        (["--config=configs/videos.py:gs://bucket/none"], "gs://bucket/none is not a folder"),
    )
