import numpy as np
import pytest

from configs import base
from jaxvid.build import default_config
from jaxvid.config import KEYS, UNIT, check, key
from jaxvid.data.augment import active, augmentation, check_truth
from jaxvid.data.augment.crop import window
from jaxvid.data.augment.flip import mirror
from jaxvid.data.augment.light import relight
from jaxvid.data.augment.registry import AUGMENTATIONS
from jaxvid.data.augment.reverse import backwards
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


def augment(sample, rng, **keys):
    config = base.get_config().data
    config.update(keys)
    for change in active(config):
        sample = change(sample, rng, config)
    return sample


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


def test_mirror_and_backwards_are_their_own_inverses(sample):
    for change in (mirror, backwards):
        assert (change(sample)["video"] != sample["video"]).any()
        same(change(change(sample)), sample)


def test_neutral_values_change_nothing(sample):
    same(window(sample, 1.0, 0.3, 0.7), sample)
    same(relight(sample, 0.0, 1.0), sample)


def test_reversed_time_rises_by_the_reversed_gaps(sample):
    assert backwards(sample)["time"].tolist() == [0, 4, 5, 7, 8]


@pytest.mark.parametrize("seed", range(12))
def test_positions_follow_the_picture(sample, seed):
    changed = augment(
        sample,
        np.random.default_rng(seed),
        flip=True,
        crop=0.9,
        reverse=True,
        brightness=0.1,
        contrast=0.2,
    )
    assert changed["video"].dtype == np.uint8
    assert changed["video"].shape == sample["video"].shape
    assert (changed["video"] != sample["video"]).any()
    np.testing.assert_allclose(found(changed["video"]), changed["position"][:, 0], atol=1 / SIZE)
    assert np.isnan(changed["position"][:, 1]).all()
    assert (np.diff(changed["time"]) > 0).all()
    assert changed["time"][0] == 0


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


def test_each_choice_is_taken_and_left(sample):
    for choice in ("flip", "reverse"):
        changed = [
            (
                augment(sample, np.random.default_rng(s), **{choice: True})["video"]
                != sample["video"]
            ).any()
            for s in range(20)
        ]
        assert 3 < sum(changed) < 17


def test_actions_are_velocities_in_the_picture_that_is_shown(sample):
    sample["time"] = np.arange(5, dtype=np.float32)
    sample["action"] = np.gradient(sample["position"][:, 0], axis=0)
    assert np.abs(sample["action"]).min() > 0
    seen = set()
    for seed in range(12):
        rng = np.random.default_rng(seed)
        changed = augment(sample, rng, flip=True, crop=0.6, reverse=True)
        expected = np.gradient(changed["position"][:, 0], axis=0)
        np.testing.assert_allclose(changed["action"], expected, atol=1e-5)
        seen.add(tuple(np.sign(changed["action"][0])))
    assert seen == {(1, 1), (-1, 1), (1, -1), (-1, -1)}


def test_mirrored_captions_exchange_their_sides_and_nothing_else(sample):
    for caption, other in (
        ("a block on the left, moving rightwards", "a block on the right, moving leftwards"),
        ("Left of the leftmost: bright leftovers", "Right of the rightmost: bright leftovers"),
        ("2 circles: red and blue", "2 circles: red and blue"),
        ("", ""),
    ):
        assert mirror(sample | {"caption": np.array(caption)})["caption"] == other


def test_an_augmentation_from_outside_is_one_function(sample):
    @augmentation(order=15, falsifies=("action",), fade=key(0.0, UNIT, "largest fading"))
    def fade(sample, rng, config):
        seen.append(sample["video"])
        return sample | {"video": (sample["video"] * (1 - config.fade)).astype(np.uint8)}

    try:
        seen, config = [], default_config()
        config.data.update(flip=True, crop=0.9, fade=0.5)
        check(config)
        assert [change.__name__ for change in active(config.data)] == ["flip", "fade", "crop"]
        faded = augment(sample, np.random.default_rng(0), fade=0.5)
        assert seen[0].max() == 2 * faded["video"].max() > 0
        with pytest.raises(InputError, match=r"data\.fade=0\.5 would make .* actions false"):
            check_truth(config.data, {"action": "actions"})
    finally:
        del KEYS["data.fade"], AUGMENTATIONS["fade"]


def test_all_that_becomes_false_is_one_line():
    config = base.get_config().data
    config.update(flip=True, reverse=True, crop=0.9)
    with pytest.raises(InputError) as caught:
        check_truth(config, {"text_bytes": "captions", "action": "actions"})
    assert str(caught.value) == (
        "data.reverse=True would make the clips' captions false; data.crop=0.9 and data.flip=True "
        "and data.reverse=True would make the clips' actions false: turn that off, or train "
        "without these"
    )
