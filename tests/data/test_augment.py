import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest

from configs import base
from jaxvid.build import default_config
from jaxvid.config import UNIT, check, key
from jaxvid.data.augment import active, augmentation, check_truth
from jaxvid.data.augment.blur import defocus
from jaxvid.data.augment.colour import mix, relight
from jaxvid.data.augment.crop import window
from jaxvid.data.augment.flip import mirror
from jaxvid.data.augment.registry import AUGMENTATIONS
from jaxvid.data.augment.rotate import turn
from jaxvid.data.clips import Clip, sample_clip
from jaxvid.errors import InputError

SIZE = 32


@pytest.fixture
def sample():
    """A bright 4x4 block on noise-free grey that moves right and down, one pixel a frame."""
    video = np.full((5, SIZE, SIZE, 3), 40, np.uint8)
    for t in range(5):
        video[t, 10 + t : 14 + t, 16 + 2 * t : 20 + 2 * t] = 200
    row = np.arange(5, dtype=np.float32)
    position = np.stack([18 + 2 * row, 12 + row], -1)[:, None] / SIZE
    position = np.concatenate([position, np.full_like(position, np.nan)], 1)  # one shape is absent
    time = np.float32([0, 1, 3, 4, 8])
    return {
        "video": video,
        "time": time,
        "label": np.array(2, np.int32),
        "position": position,
        "caption": np.array("a block on the left, moving rightwards"),
        "action": np.gradient(position[:, 0], axis=0) * np.float32([[1], [0.5], [1], [2], [4]]),
    }


def augment(sample, rng, *texts):
    for change in active(texts, temporal=False):
        sample = change(sample, rng)
    return sample


@pytest.fixture
def clip():
    """A record of 40 frames at uneven times, each of which shows its own number."""
    number = np.arange(40)
    time = np.cumsum(np.where(number % 3, 1, 2)).astype(np.float32)
    position = np.stack([time, time], -1)[:, None] / 100
    return Clip(
        time,
        lambda index: np.broadcast_to(
            index.astype(np.uint8)[:, None, None, None], (len(index), 4, 4, 3)
        ),
        truth={"position": position, "velocity": np.full_like(position, 0.01)},
        caption="a clip",
        action=np.full((40, 2), 0.01, np.float32),
    )


def retimed(clip, seed, *texts, **keys):
    config = base.get_config().data
    config.update({"frames": 6, "size": 4} | keys)
    retime = active(texts, temporal=True)
    return sample_clip(clip, config, np.random.default_rng(seed), retime=retime)


def found(video):
    """Centre (x, y) in [0,1] of the bright block."""
    weight = np.maximum(video[..., 0].astype(float) - video.min(), 0)
    grid = (np.arange(SIZE) + 0.5) / SIZE
    total = weight.sum((1, 2))
    return np.stack([(weight * g).sum((1, 2)) / total for g in (grid, grid[:, None])], -1)


def same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)
        assert a[name].dtype == b[name].dtype, name


def test_off_by_default_and_draws_nothing(sample):
    rng = np.random.default_rng(0)
    same(augment(sample, rng), sample)
    assert rng.random() == np.random.default_rng(0).random()


def test_mirror_is_its_own_inverse(sample):
    assert (mirror(sample)["video"] != sample["video"]).any()
    same(mirror(mirror(sample)), sample)


def test_neutral_values_change_nothing(sample):
    same(window(sample, 1.0, 0.3, 0.7), sample)
    same(relight(sample, 0.0, 1.0), sample)
    same(turn(sample, 0.0), sample)
    same(mix(sample, np.eye(3)), sample)
    same(defocus(sample, 0.0), sample)


@pytest.mark.parametrize("name", [n for n, a in AUGMENTATIONS.items() if not a.temporal])
def test_each_changes_its_share_of_the_clips_alike_in_all_frames(sample, name):
    assert augment(sample, np.random.default_rng(0), f"{name}(p=0)") == sample
    rng = np.random.default_rng(0)
    sample["video"][:] = rng.integers(0, 256, (SIZE, SIZE, 3), np.uint8)  # nothing moves
    videos = [augment(sample, rng, f"{name}(p=0.5)")["video"] for _ in range(40)]
    assert 8 < sum((video != sample["video"]).any() for video in videos) < 32
    for video in videos:
        assert video.dtype == np.uint8
        assert video.shape == sample["video"].shape
        np.testing.assert_array_equal(video, np.broadcast_to(video[0], video.shape))
    again = [augment(sample, np.random.default_rng(3), name)["video"] for _ in range(2)]
    np.testing.assert_array_equal(*again)


@pytest.mark.parametrize("seed", range(12))
def test_positions_follow_the_picture(sample, seed):
    changed = augment(
        sample,
        np.random.default_rng(seed),
        *("flip", "rotate(degrees=15)", "crop(least=0.9)", "colour(contrast=0.2)", "grey", "hue"),
    )
    assert changed["video"].dtype == np.uint8
    assert changed["video"].shape == sample["video"].shape
    assert (changed["video"] != sample["video"]).any()
    np.testing.assert_allclose(found(changed["video"]), changed["position"][:, 0], atol=1 / SIZE)
    assert np.isnan(changed["position"][:, 1]).all()


def test_windows_reach_all_four_corners(sample):
    for left in (0.0, 1.0):
        for top in (0.0, 1.0):
            corner = window(sample, 0.5, left, top)["position"][0, 0]
            np.testing.assert_allclose(corner, sample["position"][0, 0] * 2 - [left, top])


def test_relight_shifts_and_scales_about_the_mean(sample):
    video = sample["video"].astype(float)
    brighter = relight(sample, 0.1, 1.0)["video"]
    np.testing.assert_allclose(brighter, video + 25.5, atol=0.51)
    flatter = relight(sample, 0.0, 0.5)["video"]
    np.testing.assert_allclose(flatter, (video + video.mean()) / 2, atol=0.51)
    assert relight(sample, 1.0, 1.0)["video"].min() == 255
    assert relight(sample, -1.0, 1.0)["video"].max() == 0


def test_actions_are_velocities_in_the_picture_that_is_shown(sample):
    sample["action"] = np.gradient(sample["position"][:, 0], axis=0)
    sample["velocity"] = np.gradient(sample["position"], axis=0)
    seen = set()
    for seed in range(12):
        rng = np.random.default_rng(seed)
        changed = augment(sample, rng, "flip", "rotate(degrees=30)", "crop(least=0.6)")
        expected = np.gradient(changed["position"], axis=0)
        np.testing.assert_allclose(changed["velocity"], expected, atol=1e-5)
        np.testing.assert_allclose(changed["action"], expected[:, 0], atol=1e-5)
        seen.add(np.sign(changed["action"][0, 0]))
    assert seen == {1, -1}


def test_colours_keep_their_order_of_light_and_grey_has_none(sample):
    rng = np.random.default_rng(0)
    sample["video"] = rng.integers(60, 190, sample["video"].shape, np.uint8)
    grey = augment(sample, rng, "grey(p=1)")["video"]
    assert np.ptp(grey, axis=-1).max() == 0
    np.testing.assert_allclose(
        grey.mean(), (sample["video"] @ [0.299, 0.587, 0.114]).mean(), atol=0.1
    )
    for seed in range(8):
        turned = augment(sample, np.random.default_rng(seed), "hue(most=1)")["video"]
        inside = ((turned > 0) & (turned < 255)).all(-1)
        light = turned.astype(float).mean(-1) - sample["video"].mean(-1)
        assert np.abs(light[inside]).max() < 1
        vivid = augment(sample, np.random.default_rng(seed), "colour(brightness=0, contrast=0)")
        light = (vivid["video"].astype(float) - sample["video"]) @ [0.299, 0.587, 0.114]
        assert np.abs(light).max() < 1


def test_a_blur_spreads_and_a_cutout_hides(sample):
    weight = lambda video: np.maximum(video[0, ..., 0].astype(float) - 40, 0)  # noqa: E731
    before, after = weight(sample["video"]), weight(defocus(sample, 2.0)["video"])
    np.testing.assert_allclose(after.sum(), before.sum(), rtol=0.05)
    assert after.max() < 0.7 * before.max()
    hidden = augment(sample, np.random.default_rng(1), "cutout(p=1, most=1.0)")["video"]
    changed = (hidden != sample["video"]).any((0, 3))
    assert 0 < changed.sum() <= SIZE**2


def test_a_reversed_clip_has_the_gaps_and_the_speed_of_the_reverse(clip):
    plain, back = retimed(clip, 0), retimed(clip, 0, "reverse(p=1)")
    np.testing.assert_array_equal(back["video"], plain["video"][::-1])
    np.testing.assert_array_equal(np.diff(back["time"]), np.diff(plain["time"])[::-1])
    assert back["time"][0] == 0
    for name in ("action", "velocity"):
        np.testing.assert_array_equal(back[name], -plain[name])


def test_a_faster_clip_keeps_its_times_and_stays_in_the_record(clip):
    speeds = set()
    for seed in range(40):
        plain, fast = retimed(clip, seed), retimed(clip, seed, "speed(fastest=9.0, slowest=0.3)")
        assert (np.diff(fast["video"][:, 0, 0, 0].astype(int)) >= 0).all()
        rate = fast["action"][0, 0] / 0.01
        shown = np.ptp(fast["video"][:, 0, 0, 0].astype(int))
        assert abs(shown - rate * 5) <= 0.51
        np.testing.assert_allclose(np.diff(fast["time"]), np.diff(plain["time"]))
        speeds.add(rate > 1)
        assert 0.29 < rate <= 39 / 5 + 1e-3
    assert speeds == {True, False}


def test_dropped_frames_leave_true_times(clip):
    longer = 0
    for seed in range(20):
        sample = retimed(clip, seed, "drop(share=0.5)")
        index = sample["video"][:, 0, 0, 0].astype(int)
        assert set(np.diff(index)) <= {1, 2}
        np.testing.assert_array_equal(sample["time"], clip.time[index] - clip.time[index[0]])
        longer += np.ptp(index) > 5
    assert longer > 10


def test_frames_are_dropped_from_a_reversed_and_from_a_faster_clip_too(clip):
    even, dropped = dataclasses.replace(clip, time=np.arange(40, dtype=np.float32)), 0
    for seed in range(40):
        sample = retimed(clip, seed, "reverse(p=1)", "drop(share=0.5)")
        index = sample["video"][:, 0, 0, 0].astype(int)
        np.testing.assert_array_equal(sample["time"], clip.time[index[0]] - clip.time[index])
        dropped += index[0] - index[-1] > 5
        fast = retimed(even, seed, "speed(slowest=2, fastest=2)", "drop(share=0.5)")
        index = fast["video"][:, 0, 0, 0].astype(int)
        assert set(np.diff(index)) <= {2, 4}
        np.testing.assert_array_equal(fast["time"], (index - index[0]) / 2)
    assert dropped > 10


def test_in_a_pause_nothing_moves_and_the_rest_comes_later(clip):
    lengths = set()
    for seed in range(40):
        plain, sample = retimed(clip, seed), retimed(clip, seed, "pause(p=1, longest=0.5)")
        index, before = (s["video"][:, 0, 0, 0].astype(int) for s in (sample, plain))
        still = sample["action"][:, 0] == 0
        assert still.any()
        np.testing.assert_array_equal(sample["time"], plain["time"])
        assert (np.diff(index)[still[:-1]] == 0).all()
        assert (np.diff(index)[~still[:-1]] == 1).all()
        assert index[0] == before[0]
        assert index[-1] == before[-1] - still[:-1].sum()
        lengths.add(int(still.sum()))
    assert lengths >= {1, 2, 3}


def test_mirrored_captions_exchange_their_sides_and_nothing_else(sample):
    for caption, other in (
        ("a block on the left, moving rightwards", "a block on the right, moving leftwards"),
        ("Left of the leftmost: bright leftovers", "Right of the rightmost: bright leftovers"),
        ("2 circles: red and blue", "2 circles: red and blue"),
        ("", ""),
    ):
        assert mirror(sample | {"caption": np.array(caption)})["caption"] == other


def test_an_augmentation_from_outside_is_one_function(sample):
    @augmentation(falsifies=("action",), most=key(0.2, UNIT, "largest fading"))
    def fade(sample, rng, most):
        seen.append(sample["video"])
        return sample | {"video": (sample["video"] * (1 - most)).astype(np.uint8)}

    try:
        seen, config = [], default_config()
        config.data.augment = ("flip", "fade(most=0.5)", "crop(least=0.9)")
        check(config)
        faded = augment(sample, np.random.default_rng(0), "flip(p=1)", "fade(most=0.5)")
        assert seen[0].max() == 2 * faded["video"].max() > 0
        np.testing.assert_array_equal(seen[0], mirror(sample)["video"])
        with pytest.raises(
            InputError, match=r"flip and fade\(most=0\.5\) and crop.* would make .* actions"
        ):
            check_truth(config.data, {"action": "actions"}, world=None)
    finally:
        del AUGMENTATIONS["fade"]


def test_all_that_becomes_false_is_one_line():
    config = base.get_config().data
    config.augment = ("reverse", "crop", "flip(p=0.1)", "grey")
    used = {"text_bytes": "captions", "action": "actions"}
    with pytest.raises(InputError) as caught:
        check_truth(config, used, world=None)
    assert str(caught.value) == (
        "config.data.augment: reverse and grey would make the clips' captions false; reverse and "
        "crop and flip(p=0.1) would make the clips' actions false: leave that out, or train "
        "without these"
    )
    with pytest.raises(InputError, match=r"augment: grey would make the clips' captions false: "):
        check_truth(config, used, world={})


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("flp", r"'flp': did you mean 'flip'.*choose one of blur, colour"),
        ("crop(0.8)", r"'crop\(0\.8\)': write it as flip or as crop\(least=0\.8\)"),
        ("crop(", "write it as flip or as"),
        ("crop(lest=0.8)", r"did you mean 'least'.*crop takes least, p"),
        ("crop(least=1.5)", "least must be a number above 0 and at most 1"),
        ("flip(p=2)", "p must be a number from 0 to 1"),
        ("flip(p=__import__('os'))", "write it as flip or as"),
    ],
)
def test_a_wrong_text_is_one_line(text, line):
    config = default_config()
    config.data.augment = ("flip", text)
    with pytest.raises(InputError, match=line) as caught:
        check(config)
    assert str(caught.value).startswith("config.data.augment: ")


def test_the_page_lists_every_augmentation_with_its_options():
    page = (Path(__file__).parents[2] / "docs/data.md").read_text()
    for name, change in AUGMENTATIONS.items():
        options = {option: f"{key.default:g}" for option, key in change.options.items()}
        start = f"| `{name}` | {options.pop('p')} |"
        (row,) = [line for line in page.splitlines() if line.startswith(start)]
        assert dict(re.findall(r"`(\w+)=([\d.]+)`", row)) == options


def test_actions_that_are_no_velocities_are_left_as_they_are(sample):
    buttons = np.eye(5, dtype=np.float32)[np.arange(len(sample["video"])) % 5]
    for text in ("crop", "rotate", "flip(p=1)"):
        changed = augment(sample | {"action": buttons}, np.random.default_rng(0), text)
        np.testing.assert_array_equal(changed["action"], buttons)
