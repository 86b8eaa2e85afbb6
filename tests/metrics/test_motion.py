import cv2
import numpy as np
import pytest

from jaxvid.data.sources.synthetic import SyntheticWorld
from jaxvid.errors import InputError
from jaxvid.metrics.motion import (
    STATISTICS,
    flicker,
    flow_statistics,
    optical_flow,
    warping_error,
)


def _world(frames=8, size=24, count=8, index=None):
    world = SyntheticWorld(0, frames, size, shapes=(1, 1), spin=0.0)
    index = np.arange(frames) if index is None else index
    return np.stack([world[i].decode(index) for i in range(count)])


def _shuffled(clips, share):
    """The same clips, a share of whose frames have changed places."""
    rng, shuffled = np.random.default_rng(1), clips.copy()
    for clip, to in zip(clips, shuffled, strict=True):
        moved = rng.permutation(clips.shape[1])[: round(share * clips.shape[1])]
        to[moved] = clip[np.roll(moved, 1)]
    return shuffled


def _frozen(clips, share):
    """The same clips, a share of whose frames repeat the one before."""
    rng, frozen = np.random.default_rng(2), clips.copy()
    steps = clips.shape[1] - 1
    for clip in frozen:
        for t in np.sort(1 + rng.permutation(steps)[: round(share * steps)]):
            clip[t] = clip[t - 1]
    return frozen


def _noisy(clips, scale):
    noise = scale * np.random.default_rng(3).normal(size=clips.shape)
    return np.clip(np.rint(clips + noise), 0, 255).astype(np.uint8)


def _blurred(clips, sigma):
    return np.stack([[cv2.GaussianBlur(f, (0, 0), sigma) for f in clip] for clip in clips])


def _views(maps, size, height=None):
    """A clip of a smooth random texture, seen through affine maps [2,3] of pixels."""
    texture = np.random.default_rng(4).normal(size=(300, 300, 3)).astype(np.float32)
    texture = cv2.normalize(cv2.GaussianBlur(texture, (0, 0), 5), None, 0, 255, cv2.NORM_MINMAX)
    shape = (size, height or size)
    return np.stack([cv2.warpAffine(texture, m, shape) for m in np.float32(maps)]).astype(np.uint8)


def _mean(clips):
    return dict(zip(STATISTICS, flow_statistics(clips).mean(axis=0), strict=True))


@pytest.mark.parametrize("size", [24, 64])
def test_the_flow_inside_a_shape_is_its_velocity(size):
    world = SyntheticWorld(0, 8, size, shapes=(1, 1), spin=0.0)
    errors, speeds = [], []
    for i in range(6):
        flow, centres = (
            optical_flow(world[i].decode(np.arange(8))),
            world[i].truth["position"][:, 0],
        )
        grid = (np.arange(64) + 0.5) / 64
        for u, here, there in zip(flow, centres, centres[1:], strict=False):
            inside = np.hypot(grid - here[0], grid[:, None] - here[1]) < 0.13
            errors.append(np.linalg.norm(u[inside] - (there - here), axis=-1).mean())
            speeds.append(np.linalg.norm(there - here))
    assert np.mean(errors) < 0.1 * np.mean(speeds)


def test_a_shift_is_the_velocity_in_shorter_sides_even_if_the_picture_is_wide():
    maps = [[[1, 0, 1.5 * t - 50], [0, 1, -0.75 * t - 50]] for t in range(5)]
    found = _mean(_views(maps, 60, height=48)[None])
    assert found["velocity_x"] == pytest.approx(1.5 / 48, rel=0.1)
    assert found["velocity_y"] == pytest.approx(-0.75 / 48, rel=0.1)
    for name in ("speed_median", "speed_90", "speed_99"):
        assert found[name] == pytest.approx(np.hypot(1.5, 0.75) / 48, rel=0.2)
    for name in ("expansion", "speed_change", "acceleration"):
        assert abs(found[name]) < 0.003


@pytest.mark.parametrize("rate", [0.01, 0.03])
def test_expansion_is_the_rate_of_a_zoom_and_changes_sign_with_time(rate):
    zooms = (1 + rate) ** np.arange(8) * 0.4
    clip = _views([[[z, 0, 31.5 - 150 * z], [0, z, 31.5 - 150 * z]] for z in zooms], 64)[None]
    forward, backward = _mean(clip), _mean(clip[:, ::-1])
    assert forward["expansion"] == pytest.approx(rate, rel=0.15)
    assert backward["expansion"] == pytest.approx(-rate, rel=0.15)
    assert abs(forward["velocity_x"]) + abs(forward["velocity_y"]) < 0.1 * rate


def test_speeding_up_and_slowing_down_differ_only_in_their_signs():
    clips = _world(16, index=np.rint(15 * np.linspace(0, 1, 8) ** 2).astype(int))
    steady, up, down = _mean(_world()), _mean(clips), _mean(clips[:, ::-1])
    assert up["speed_change"] > 0.03 > 5 * abs(steady["speed_change"])
    assert down["speed_change"] == pytest.approx(-up["speed_change"], rel=0.15)
    assert down["acceleration"] == pytest.approx(up["acceleration"], rel=0.15)


def test_acceleration_and_warping_error_rise_with_the_share_of_frames_out_of_order():
    clips = _world()
    worse = [clips, *(_shuffled(clips, share) for share in (0.25, 0.5, 1))]
    accelerations = [_mean(c)["acceleration"] for c in worse]
    errors = [warping_error(c).mean() for c in worse]
    assert (np.diff(accelerations) > 0).all()
    assert accelerations[1] > 2 * accelerations[0]
    assert (np.diff(errors) > 0).all()


def test_dropped_frames_raise_the_acceleration_and_the_speed():
    every, one_gone = (
        _world(16, index=np.arange(8)),
        _world(16, index=np.array([*range(4), *range(5, 9)])),
    )
    some_gone = _world(16, index=np.array([0, 1, 3, 4, 6, 7, 9, 10]))
    for name in ("acceleration", "speed_99"):
        values = [_mean(clips)[name] for clips in (every, one_gone, some_gone)]
        assert (np.diff(values) > 0).all()


def test_frozen_frames_slow_the_clip_and_one_that_stands_still_does_not_move():
    clips = _world()
    speeds = [_mean(_frozen(clips, share))["speed_median"] for share in (0, 0.25, 0.5)]
    assert (np.diff(speeds) < 0).all()
    assert _mean(_frozen(clips, 0.25))["acceleration"] > 1.5 * _mean(clips)["acceleration"]
    still = _frozen(clips, 1)
    assert np.abs(flow_statistics(still)).max() == warping_error(still).max() == 0


def test_flicker_is_the_height_of_the_jumps_and_ignores_fades_and_motion():
    grey = np.full((2, 9, 6, 6, 3), 100, np.uint8)
    jumping, fading = grey.copy(), grey.copy()
    jumping[0, ::2] += 51
    fading += 10 * np.arange(9, dtype=np.uint8)[:, None, None, None]
    np.testing.assert_allclose(flicker(jumping), [0.2, 0])
    np.testing.assert_allclose(flicker(fading), 0, atol=1e-12)
    clips = _world()
    dimmed = [clips.copy() for _ in range(3)]
    for amount, flickering in zip((0, 0.1, 0.2), dimmed, strict=True):
        flickering[:, ::2] = np.rint((1 - amount) * clips[:, ::2])
    values = [flicker(c).mean() for c in dimmed]
    assert values[1] > 20 * values[0]
    assert values[2] == pytest.approx(2 * values[1], rel=0.1)


def test_noise_raises_the_warping_error_and_blur_lowers_it():
    clips = _world()
    errors = [warping_error(_noisy(clips, scale)).mean() for scale in (0, 5, 13, 26)]
    assert (np.diff(errors) > 0).all()
    assert warping_error(_blurred(clips, 1)).mean() < errors[0]


def test_the_flow_explains_nearly_all_of_the_change_between_frames():
    clips = _world()
    change = ((np.diff(clips.astype(float), axis=1) / 255) ** 2).mean()
    assert warping_error(clips).mean() < 0.05 * change


def test_clips_that_are_too_short_are_refused():
    clips = np.zeros((1, 2, 8, 8, 3), np.uint8)
    for statistic in (flow_statistics, flicker):
        with pytest.raises(InputError, match="clips of 2 frames"):
            statistic(clips)
    assert warping_error(clips) == 0
    with pytest.raises(InputError, match="clips of 1 frames"):
        warping_error(clips[:, :1])
