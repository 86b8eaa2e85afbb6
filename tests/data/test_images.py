import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from jaxvid.build import build
from jaxvid.data.image import read_image
from jaxvid.data.pipeline import make_dataset
from jaxvid.data.sources import make_source
from jaxvid.errors import InputError
from tests import tiny
from tests.commands import FAST, mistakes, run


@pytest.fixture
def folder(tmp_path):
    """Ten cats and ten dogs in the three formats; image i is of grey level 10 i."""
    for kind, i in [(kind, i) for kind in ("cats", "dogs") for i in range(10)]:
        path = tmp_path / "images" / kind / f"{i}{('.jpg', '.PNG', '.webp')[i % 3]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 24), (10 * i,) * 3).save(path)
    (tmp_path / "images/cats/3.txt").write_text("a dark cat")
    (tmp_path / "images/cats/film.mp4").write_bytes(b"a video")
    return tmp_path / "images"


def config_of(folder, **keys):
    config = tiny.get_config()
    config.data.update(source="images", path=str(folder), size=8, frames=1, validation=0.2)
    config.data.update(keys)
    config.conditions.label.classes = 2
    return config


def test_images_are_clips_of_one_frame_with_their_classes_and_captions(folder):
    data = config_of(folder).data
    train, held_out = (make_source(data, split) for split in ("train", "validation"))
    assert train.labels == held_out.labels == ("cats", "dogs")
    assert len(train) + len(held_out) == 20
    assert 1 <= len(held_out) <= 8
    assert train.fingerprint != make_source(config_of(folder, size=16).data).fingerprint
    clips = [source[i] for source in (train, held_out) for i in range(len(source))]
    levels = [(clip.label, clip.decode(np.zeros(1, int)).mean()) for clip in clips]
    expected = [(label, 10 * i) for label in (0, 1) for i in range(10)]
    np.testing.assert_allclose(sorted(levels), expected, atol=2)
    assert {clip.caption: clip.label for clip in clips} == {"": 1, "a dark cat": 0}
    assert all(clip.time.tolist() == [0] for clip in clips)
    wide = make_source(config_of(folder, width=12).data)
    assert wide[0].decode(np.array([0, 0])).shape == (2, 8, 12, 3)


def test_a_damaged_image_is_replaced_and_named(folder):
    for name in ("cats/0.jpg", "dogs/1.PNG", "dogs/2.webp"):
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: len(data) * 2 // 3])
    (folder / "dogs/3.jpg").write_bytes(b"")
    config = config_of(folder, validation=0.0)
    dataset = make_dataset(
        make_source(config.data), config.data, build(config).encode, seed=0, batch_size=20
    )
    batch = dataset[0]
    assert (batch["bad"] >= 0).any(1).sum() == 4
    assert batch["video"].shape == (20, 1, 8, 8, 3)


def picture(mode="RGB"):
    """Red above left, green right of it, blue below, in grey their brightness."""
    blocks = np.zeros((32, 32, 3), np.uint8)
    blocks[:16, :16], blocks[:16, 16:], blocks[16:] = (250, 5, 5), (5, 250, 5), (5, 5, 250)
    return Image.fromarray(blocks).convert(mode)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "LA", "1", "I;16", "CMYK", "YCbCr"])
def test_pixels_of_every_kind_become_bytes_of_red_green_and_blue(tmp_path, mode):
    if mode == "I;16":
        grey = np.asarray(picture("L")).astype(np.uint16)
        image, expected = Image.fromarray(257 * grey), picture("L")
    else:
        image = expected = picture(mode)
    path = tmp_path / ("x.jpg" if mode in ("CMYK", "YCbCr") else "x.png")
    image.save(path, quality=100, subsampling=0)
    pixels = read_image(path, size=(32, 32))
    np.testing.assert_allclose(pixels.astype(int), np.asarray(expected.convert("RGB")), atol=4)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_images_are_turned_upright(tmp_path, suffix):
    turned = Image.Exif()
    turned[0x0112] = 6  # the camera lay on its side
    path = tmp_path / f"x.{suffix}"
    picture().rotate(90).save(path, exif=turned, quality=100)
    inside = np.ix_([8, 24], [8, 24])
    pixels = read_image(path, size=(32, 32)).astype(int)
    np.testing.assert_allclose(pixels[inside], np.asarray(picture())[inside], atol=9)


@pytest.mark.parametrize("suffix", ["png", "webp"])
def test_of_an_animation_the_first_image_is_taken(tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    picture().save(path, save_all=True, append_images=[picture("L")] * 2, lossless=True)
    np.testing.assert_array_equal(read_image(path, size=(32, 32)), np.asarray(picture()))


def test_the_largest_centred_square_is_resized_as_of_a_video(tmp_path):
    wide = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    Image.fromarray(wide).save(tmp_path / "x.png")
    expected = cv2.resize(wide[:, 10:60], (16, 16), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(read_image(tmp_path / "x.png", size=(16, 16)), expected)


def test_large_photographs_are_decoded_small(tmp_path, monkeypatch):
    noise = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    large = cv2.resize(noise, (1024, 768), interpolation=cv2.INTER_CUBIC)
    Image.fromarray(large).save(tmp_path / "x.jpg", quality=95)
    decoded, decode = [], cv2.imdecode
    monkeypatch.setattr(cv2, "imdecode", lambda *a: decoded.append(decode(*a)) or decoded[-1])
    small = read_image(tmp_path / "x.jpg", size=(32, 32))
    assert decoded[0].shape == (96, 128, 3)
    expected = cv2.resize(large[:, 128:-128], (32, 32), interpolation=cv2.INTER_AREA)
    np.testing.assert_allclose(small.astype(int), expected, atol=9)


@pytest.mark.parametrize("side", [9_000, 40_000])
def test_images_that_would_fill_the_memory_are_refused_by_their_headers(tmp_path, side):
    picture().save(tmp_path / "x.png")
    data = (tmp_path / "x.png").read_bytes()
    header = b"IHDR" + struct.pack(">II", side, side) + data[24:29]
    forged = data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]
    (tmp_path / "x.png").write_bytes(forged)
    with pytest.raises(InputError, match=r"x\.png: .*pixels"):
        read_image(tmp_path / "x.png", size=(32, 32))


def test_it_trains_and_mistakes_are_one_line(folder, tmp_path):
    given = *FAST, "--config.data.source=images", "--config.steps=2", "--config.tasks.generate=1"
    given += "--config.conditions.label.classes=2", "--config.data.frames=1"
    where = f"--config.data.path={folder}"
    run("train", *given, where, f"--workdir={tmp_path}/run")
    assert (tmp_path / "run/checkpoints/2").is_dir()
    (tmp_path / "films").mkdir()
    (folder / "cats/film.mp4").rename(tmp_path / "films/film.mp4")
    mistakes(
        "train",
        (given, "config.data.path is empty: set it to a folder of image files"),
        ([*given, where, "--config.data.frames=4"], "1 frames is too short for"),
        ([*given, f"--config.data.path={tmp_path}/films"], "no image to train on"),
    )
