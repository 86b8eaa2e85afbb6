"""Buckets that divide the clips of a folder by their shapes; prepared clips of several shapes."""

import collections
import contextlib
import re

import av
import cv2
import numpy as np
import pytest
from PIL import Image

from configs import videos
from jaxvid.data import pipeline, video
from jaxvid.data.buckets import describe_buckets, make_buckets, open_sources, steps_of
from jaxvid.data.image import aspect
from jaxvid.data.sources.clips import ClipFolder
from jaxvid.errors import InputError
from tests import tiny
from tests.commands import mistakes, run
from tests.data.corpus import CORPUS

THREE = ("wide(size=8, width=16)", "square(size=12)", "tall(size=16, width=8)")
HOW_MANY = {"wide": 8, "square": 5, "tall": 3}


def film(path, height, width, frames=12, turned=0, pixel=1):
    """Moving noise at 8 frames per second."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(len(path.stem)).integers(0, 256, (4, 4, 3), np.uint8)
    picture = cv2.resize(noise, (width, height))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=8, options={"preset": "ultrafast"})
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        stream.codec_context.sample_aspect_ratio = pixel
        if turned:
            stream.set_display_rotation(turned)
        for k in range(frames):
            image = av.VideoFrame.from_ndarray(np.roll(picture, 3 * k, 1), format="rgb24")
            container.mux(stream.encode(image))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Eight wide videos, five square ones, three tall ones, one of them by its rotation."""
    folder = tmp_path_factory.mktemp("films")
    for i in range(8):
        film(folder / f"wide{i}.mp4", 36, 64)
    for i in range(5):
        film(folder / f"square{i}.mp4", 48, 50)
    for i in range(2):
        film(folder / f"tall{i}.mp4", 64, 36)
    film(folder / "tall2.mp4", 36, 64, turned=90)
    return folder


def config_of(folder, *buckets, **keys):
    config = tiny.get_config()
    config.batch_size = 4
    config.data.update(source="videos", path=str(folder), by_aspect=True, buckets=buckets)
    config.data.update(validation=0.0, size=12, **keys)
    return config


def names_in(config):
    """The files of each bucket."""
    sources, _, _ = open_sources(config)
    buckets = (text.partition("(")[0] for text in config.data.buckets)
    return {
        name: sorted({source.name_of(i) for i in range(len(source))})
        for name, source in zip(buckets, sources, strict=True)
    }


def test_each_video_goes_to_the_shape_that_crops_least_of_it(folder):
    for order in (THREE, THREE[::-1]):
        divided = names_in(config_of(folder, *order))
        assert {name: len(files) for name, files in divided.items()} == HOW_MANY
        assert all(file.startswith(name) for name, files in divided.items() for file in files)


def test_a_bucket_that_does_not_divide_takes_all(folder):
    divided = names_in(config_of(folder, *THREE[:2], "all(size=16, by_aspect=False)"))
    assert len(divided["all"]) == 16
    assert (len(divided["wide"]), len(divided["square"])) == (8, 8)


def test_of_one_shape_the_longest_that_a_video_fills(tmp_path):
    for frames in (2, 3, 5, 8, 9):
        film(tmp_path / f"{frames}.mp4", 32, 32, frames)
    buckets = "short(frames=3)", "long(frames=8)", "strided(frames=5, strides=(2,))"
    divided = names_in(config_of(tmp_path, *buckets[:2]))
    assert divided == {"short": ["2.mp4", "3.mp4", "5.mp4"], "long": ["8.mp4", "9.mp4"]}
    divided = names_in(config_of(tmp_path, buckets[0], buckets[2]))  # it spans nine frames
    assert divided["strided"] == ["9.mp4"]


@pytest.mark.parametrize("pixel", [1, 2])
@pytest.mark.parametrize("turned", [0, 90, 180])
@pytest.mark.parametrize("kind", ["mp4", "mov", "mkv"])
def test_a_header_tells_the_shape_that_is_shown(tmp_path, kind, turned, pixel):
    path = film(tmp_path / f"a.{kind}", 32, 48, turned=turned, pixel=pixel)
    ratio, seconds = video.look(path)
    shown = 48 * pixel / 32
    assert ratio == pytest.approx(1 / shown if turned == 90 else shown)
    assert seconds == pytest.approx(1.5)
    # Without a row at the top of the stored picture.
    ratio, _ = video.look(path, video.Borders(above=8))
    assert ratio == pytest.approx(1 / shown * 0.75 if turned == 90 else shown / 0.75)


def test_what_can_be_read_can_be_looked_at(odd_files):
    for name in (name for name, odd in CORPUS.items() if odd.listed):
        if any(True for _ in readable(odd_files / name)):
            sides = re.match(r"(\d+)x(\d+)\.", name) or (0, 1, 1)
            assert video.look(odd_files / name)[0] == int(sides[1]) / int(sides[2]), name


def readable(path):
    with contextlib.suppress(InputError):
        yield next(video.read_frames(path))


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_images_are_divided_as_they_are_shown(tmp_path, suffix):
    turned = Image.Exif()
    turned[0x0112] = 6  # the camera lay on its side
    for name, about in {"wide": {}, "tall": {"exif": turned}}.items():
        Image.new("RGB", (32, 20)).save(tmp_path / f"{name}.{suffix}", **about)
    assert aspect(tmp_path / f"wide.{suffix}") == 1.6
    buckets = ("wide(size=8, width=16)", "tall(size=16, width=8)")
    divided = names_in(config_of(tmp_path, *buckets, source="images", frames=1))
    assert divided == {name: [f"{name}.{suffix}"] for name in ("wide", "tall")}


def test_unreadable_files_do_not_hinder_and_are_in_the_fullest_bucket(folder, tmp_path):
    (tmp_path / "in").mkdir()
    for file in folder.iterdir():
        (tmp_path / "in" / file.name).symlink_to(file)
    (tmp_path / "in/bad.mp4").write_bytes(b"no video")
    divided = names_in(config_of(tmp_path / "in", *THREE))
    assert "bad.mp4" in divided["wide"]


def test_every_video_comes_equally_often_in_the_same_order_for_any_hosts(folder):
    config = config_of(folder, *THREE)
    buckets = make_buckets(config)
    sources, whole, _ = open_sources(config)
    encode = lambda sample, clip: {}  # noqa: E731

    def batches(host, hosts):
        made = [
            pipeline.make_dataset(
                source, bucket.data, encode, seed=3, batch_size=bucket.batch_size,
                share=((host,), hosts),
            )
            for source, bucket in zip(sources, buckets, strict=True)
        ]  # fmt: skip
        return pipeline.mix(made, steps_of(buckets, sources), whole.starts)

    alone = batches(0, 1)
    for hosts in (2, 4):
        parts = [batches(host, hosts) for host in range(hosts)]
        for k in (0, 9):
            pixels = np.concatenate([part[k]["video"] for part in parts])
            np.testing.assert_array_equal(pixels, alone[k]["video"])
    np.testing.assert_array_equal(alone[2:][3]["video"], alone[5]["video"])
    clips = collections.Counter()
    for k in range(12):  # three passes of 16 videos, four at a step
        clips[alone[k]["video"].shape[2:4]] += len(alone[k]["video"])
    for count, shape in zip(HOW_MANY.values(), ((8, 16), (12, 12), (16, 8)), strict=True):
        assert abs(clips[shape] - 3 * count) <= 4


def test_weights_multiply_and_leave_the_others_their_share(folder):
    config = config_of(folder, "wide(size=8, width=16)", "square(weight=2, size=12)",
                       "plain(size=12, by_aspect=False, weight=3)")  # fmt: skip
    buckets, (sources, *_) = make_buckets(config), open_sources(config)
    wide, square, plain = steps_of(buckets, sources)
    clips = [
        bucket.batch_size * steps for bucket, steps in zip(buckets, (wide, square), strict=False)
    ]
    assert clips[1] / clips[0] == pytest.approx(2 * 8 / 8)
    assert wide + square == pytest.approx(plain) == 3
    lines = describe_buckets(buckets, sources)
    # 64x36 to 2:1, and 50x48 to 1:1 beside three videos of 36x64.
    assert "8 clips, 11.1% of their pictures cropped away" in lines[0]
    assert f"8 clips, {(5 * 4 + 3 * 43.75) / 8:.1f}% of their pictures cropped away" in lines[1]
    assert "50% of the steps" in lines[2]
    assert "cropped" not in lines[2]


def test_a_run_on_a_folder_of_three_shapes(folder, tmp_path):
    given = [
        "--config=tests/tiny.py", "--config.data.source=videos", f"--config.data.path={folder}",
        "--config.data.frames=2", "--config.model.blocks=mlp", "--config.model.depth=1",
        "--config.conditions.label.classes=0", "--config.data.by_aspect=True",
        "--config.batch_size=2", "--config.steps=6",
    ]  # fmt: skip
    three = f"--config.data.buckets={THREE!r}"
    said = run("train", *given, three, f"--workdir={tmp_path / 'run'}")
    assert re.search(r"bucket wide: \d clips of 2x8x16, .*; 7 clips, 11.1% of their pict", said)
    assert "step 6/6" in said
    mistakes(
        "train",
        (given, "config.data.by_aspect=True: there are no config.data.buckets"),
        (
            [*given, three[:-1] + ", 'flat(size=8, width=64)')"],
            f"buckets: flat: no clip in {folder} is nearest to 2x8x64: leave this bucket out",
        ),
        (
            [*given, "--config.data.source=bodies", "--config.data.buckets=('a', 'b')"],
            "buckets: a: clips of config.data.source=bodies have no shapes of their own",
        ),
    )


def test_prepare_divides_videos_and_its_config_trains_on_all(folder, tmp_path):
    clips = tmp_path / "clips"
    given = [f"--input={folder}", f"--output={clips}", "--frames=4", "--workers=1", "--filters="]
    said = run("prepare", *given, "--size=8x16,12,16x8", "--duplicates=-1")
    assert "cropped away 11.1% of the pictures\n24 clips from 8 files (8 skipped) in " in said
    assert "skipped: 8 files are nearer to another shape: " in said
    config = videos.get_config(str(clips))
    assert (config.data.size, config.data.width) == (8, 16)  # that of most clips
    config.data.validation = 0.0
    buckets, (sources, *_) = make_buckets(config), open_sources(config)
    assert [len(source) for source in sources] == [15, 9, 24]
    shapes = [source[0].decode(np.arange(1)).shape[1:3] for source in sources]
    assert shapes == [(12, 12), (16, 8), (8, 16)]
    lines = describe_buckets(buckets, sources)
    assert [line.rpartition(", ")[2].partition("%")[0] for line in lines] == ["4.0", "11.1", "11.1"]
    clips_of = [b.batch_size * n for b, n in zip(buckets, steps_of(buckets, sources), strict=True)]
    np.testing.assert_allclose(np.divide(clips_of, clips_of[0]), np.divide([15, 9, 24], 15))

    said = run("prepare", *given, "--size=8x16,12,16x8", "--duplicates=-1")  # nothing is new
    assert "files, clips" not in said
    for size, line in {
        "8x16,12x": "--size=12x: write it as 64, or height x width, 48x80",
        "8x16,16x32": "--size=8x16,16x32: two have the same shape; leave one out",
        "16": f"{clips} has clips of several shapes: choose another --output",
        "8x32,8x16,12": "has clips with shapes=['8x16', '12x12', '16x8'], not shapes=[",
    }.items():
        mistakes("prepare", ([*given, f"--size={size}", "--duplicates=-1"], line))
    assert sorted(path.name for path in clips.iterdir()) == ["12x12", "16x8", "8x16"]
    config.data.update(size=20, buckets=(), by_aspect=False)
    with pytest.raises(InputError, match=r"holds clips of 12x12, 16x8, 8x16 pixels, not of 20x16"):
        open_sources(config)


def test_dark_borders_have_no_part_in_the_shape(tmp_path):
    plain = film(tmp_path / "plain.mp4", 64, 64)
    frames = np.stack([image for image, _ in video.read_frames(plain)])
    frames[:, :20] = frames[:, -20:] = 0
    (tmp_path / "in").mkdir()
    video.write_video(tmp_path / "in/film.mp4", frames, 8)
    given = [f"--input={tmp_path / 'in'}", f"--output={tmp_path}/clips", "--size=12,8x16"]
    run("prepare", *given, "--frames=4", "--workers=1", "--filters=", "--duplicates=-1")
    assert len(ClipFolder(tmp_path / "clips/8x16")) == 3
