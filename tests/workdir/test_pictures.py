import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from jaxvid.errors import InputError
from jaxvid.workdir import pictures


def _videos(count: int, frames: int, size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 200, (count, frames, size, size, 3), np.uint8)


def test_contact_sheet_has_every_frame_in_its_row_and_column():
    videos = _videos(3, 4, 8)
    gap, side = 5, 16
    sheet = pictures.contact_sheet(videos, scale=2, gap=gap)
    assert sheet.shape == (gap + 3 * (side + gap), gap + 4 * (side + gap), 3)
    inside = np.zeros(sheet.shape[:2], bool)
    for b, row in enumerate(videos):
        for t, frame in enumerate(row):
            y, x = gap + b * (side + gap), gap + t * (side + gap)
            cell = np.s_[y : y + side, x : x + side]
            np.testing.assert_array_equal(sheet[cell][::2, ::2], frame)
            np.testing.assert_array_equal(sheet[cell][1::2, 1::2], frame)
            inside[cell] = True
    assert (sheet[~inside] == pictures.PAPER).all()


@pytest.mark.parametrize(("size", "shown"), [(16, 64), (24, 72), (64, 64), (100, 100)])
def test_small_frames_are_magnified_until_they_can_be_seen(size, shown):
    sheet = pictures.contact_sheet(_videos(1, 1, size), gap=0)
    assert sheet.shape == (shown, shown, 3)


def test_border_marks_the_observed_frames_alone_and_covers_no_pixel():
    videos = _videos(2, 5, 8)
    observed = np.array([True, False, False, True, False])
    gap, border, side = 1, pictures.BORDER, 8
    sheet = pictures.contact_sheet(videos, scale=1, gap=gap, observed=observed)
    pitch = side + 2 * border + gap
    for t in range(5):
        cell = sheet[gap : gap + pitch - gap, gap + t * pitch : (t + 1) * pitch]
        np.testing.assert_array_equal(cell[border:-border, border:-border], videos[0, t])
        green = (cell == pictures.OBSERVED).all(-1).sum()
        assert green == (len(cell) ** 2 - side**2 if observed[t] else 0)


def test_a_title_stands_above_its_clip_and_the_clips_stay_as_they_are():
    videos = _videos(2, 3, 64)
    plain = pictures.contact_sheet(videos)
    np.testing.assert_array_equal(pictures.contact_sheet(videos, titles=["", ""]), plain)
    titled = pictures.contact_sheet(videos, titles=["", "a red circle"])
    line = (len(titled) - len(plain)) // 2
    first, second = titled[2:].reshape(2, -1, *titled.shape[1:])
    assert (first[:line] == pictures.PAPER).all()
    assert (second[:line] < 128).any()
    below = np.concatenate([titled[:2], first[line:], second[line:]])
    np.testing.assert_array_equal(below, plain)


def test_a_long_clip_goes_on_in_the_next_row():
    videos, gap, columns, side = _videos(2, 7, 8), 1, 3, 8
    sheet = pictures.contact_sheet(videos, scale=1, gap=gap, columns=columns)
    pitch, apart = side + gap, len(sheet) // 2
    assert sheet.shape[1] == gap + columns * pitch
    assert apart > 3 * pitch
    for b, t in np.ndindex(2, 7):
        y, x = gap + b * apart + t // columns * pitch, gap + t % columns * pitch
        np.testing.assert_array_equal(sheet[y : y + side, x : x + side], videos[b, t])
    assert (sheet == pictures.PAPER).all(-1).sum() == sheet[..., 0].size - 2 * 7 * side**2


@pytest.mark.parametrize("count", [1, 2, 5, 9])
def test_tile_shows_each_clip_once_and_stays_nearly_square(count):
    videos = np.arange(1, count + 1, dtype=np.uint8)[:, None, None, None, None]
    tiled = pictures.tile(np.broadcast_to(videos, (count, 3, 4, 4, 3)), scale=1, gap=1)
    levels, pixels = np.unique(tiled[..., 0], return_counts=True)
    shown = dict(zip(levels.tolist(), pixels.tolist(), strict=True))
    assert {n: shown.get(n) for n in range(1, count + 1)} == dict.fromkeys(
        range(1, count + 1), 3 * 16
    )
    assert tiled.shape[1] <= tiled.shape[2] <= tiled.shape[1] + 5


def test_gif_keeps_frames_colours_order_and_time():
    video = np.zeros((6, 16, 16, 3), np.uint8)
    for t in range(6):
        video[t, :, : 2 * t + 2] = (40 * t, 255 - 40 * t, 90)
    animation = Image.open(io.BytesIO(pictures.gif(video, fps=10)))
    assert animation.n_frames == 6
    assert animation.info["loop"] == 0
    for t in range(6):
        animation.seek(t)
        assert animation.info["duration"] == 100
        np.testing.assert_allclose(np.asarray(animation.convert("RGB")), video[t], atol=4)


def test_gif_is_never_too_fast_for_browsers():
    video = _videos(1, 2, 8)[0]
    assert Image.open(io.BytesIO(pictures.gif(video, fps=240))).info["duration"] == 20


def test_png_is_lossless_and_a_failure_leaves_the_old_one(tmp_path, monkeypatch):
    image = _videos(1, 1, 8)[0, 0]
    path = tmp_path / "a.png"
    pictures.write_png(path, image)
    np.testing.assert_array_equal(np.asarray(Image.open(path)), image)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(InputError, match=r"No space left on device.*make room"):
        pictures.write_png(path, 255 - image)
    np.testing.assert_array_equal(np.asarray(Image.open(path)), image)
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def _write_metrics(path, with_bins: bool):
    lines = []
    for step in range(10, 400, 10):
        values = {"step": step, "loss": "nan" if step == 50 else 1 / step}
        if with_bins:
            values |= {"loss/noise_0.00-0.50": 0.5 / step, "loss/noise_0.50-1.00": 2 / step}
        lines.append(json.dumps(values))
    path.write_text("\n".join([*lines, '{"step": 400, "lo']))


def test_loss_curve_gains_a_panel_by_noise_level(tmp_path):
    metrics, picture = tmp_path / "metrics.jsonl", tmp_path / "loss.png"
    widths = []
    for with_bins in (False, True):
        _write_metrics(metrics, with_bins)
        pictures.write_loss_curve(picture, metrics)
        image = np.asarray(Image.open(picture).convert("RGB"))
        assert (image != 255).any(-1).sum() > 2000
        widths.append(image.shape[1])
    assert widths[1] > widths[0]


def test_loss_curve_of_no_loss_is_the_users_mistake(tmp_path):
    metrics, picture = tmp_path / "metrics.jsonl", tmp_path / "loss.png"
    with pytest.raises(InputError, match="does not exist"):
        pictures.write_loss_curve(picture, metrics)
    metrics.write_text('{"step": 1, "fvd": 3.0}\n')
    with pytest.raises(InputError, match="no loss"):
        pictures.write_loss_curve(picture, metrics)
    assert not picture.exists()


def test_smoothing_keeps_a_constant_bridges_gaps_and_takes_noise_away():
    values = np.full(500, 3.0)
    values[::7] = np.nan
    values[100] = np.inf
    np.testing.assert_allclose(pictures.smooth(values), 3.0)
    noise = np.random.default_rng(0).normal(size=1000)
    assert pictures.smooth(noise).std() < 0.25 * noise.std()
    for length in (1, 2, 3):
        np.testing.assert_allclose(pictures.smooth(np.ones(length)), 1.0)


def test_import_is_light():
    code = (
        "import sys, jaxvid.workdir.log\n"
        "assert not {'matplotlib', 'tensorboard', 'jax', 'tensorflow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
