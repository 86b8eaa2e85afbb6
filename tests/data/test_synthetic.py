import numpy as np
import pytest

from jaxvid.data.sources.synthetic import Ground, Shape, SyntheticWorld, _fold, render

WORLD = SyntheticWorld(seed=1, frames=24, size=32)
ALL = np.arange(WORLD.frames)
BLACK = Ground(np.zeros((2, 3, 1, 1)), 0.0)


def test_a_record_is_a_function_of_seed_and_index():
    video = WORLD[7].decode(ALL)
    WORLD[8].decode(ALL)
    np.testing.assert_array_equal(SyntheticWorld(1, 24, 32)[7].decode(ALL), video)
    assert (WORLD[8].decode(ALL) != video).any()
    assert (SyntheticWorld(2, 24, 32)[7].decode(ALL) != video).any()


def test_any_frame_can_be_rendered_alone():
    clip = WORLD[3]
    some = np.array([20, 4])
    np.testing.assert_array_equal(clip.decode(some), clip.decode(ALL)[some])


def test_a_longer_or_finer_world_shows_the_same_motion():
    longer = SyntheticWorld(1, 48, 32)[3]
    np.testing.assert_array_equal(longer.truth["position"][:24], WORLD[3].truth["position"])
    finer = SyntheticWorld(1, 47, 32, fps=16.0)[3]
    np.testing.assert_allclose(finer.truth["position"][::2], WORLD[3].truth["position"], atol=1e-6)
    np.testing.assert_allclose(finer.time[::2], WORLD[3].time)


def test_folding_is_reflection_off_two_walls():
    x, v, path = 0.3, 0.07, []
    for _ in range(100):
        path.append(x)
        x += v
        if not 0 <= x <= 1:
            x, v = (-x if x < 0 else 2 - x), -v
    np.testing.assert_allclose(_fold(0.3 + 0.07 * np.arange(100), 1.0), path, atol=1e-9)


def test_shapes_stay_inside_at_constant_speed_and_meet_walls():
    bounces = 0
    for i in range(30):
        position = WORLD[i].truth["position"]
        count = (~np.isnan(position[0, :, 0])).sum()
        assert 2 <= count <= 3
        position = position[:, :count]
        assert position.min() > 0.1
        assert position.max() < 0.9
        step = np.abs(np.diff(position, axis=0))
        bounces += (step < step.max(0) - 1e-4).any(0).sum()
        speed = np.linalg.norm(step.max(0), axis=-1) * WORLD.fps
        assert ((speed > 0.25 - 1e-3) & (speed < 0.75 + 1e-3)).all()
    assert bounces > 30


@pytest.mark.parametrize("size", [16, 64])
@pytest.mark.parametrize("label", [0, 1, 2])
def test_truth_is_where_the_shape_is_drawn(size, label):
    world = SyntheticWorld(seed=4, frames=8, size=size, shapes=(1, 1))
    clips = [clip for clip in map(world.__getitem__, range(24)) if clip.label == label]
    assert clips
    for clip in clips:
        drawn = _centre(clip.decode(np.arange(8)))
        np.testing.assert_allclose(drawn, clip.truth["position"][:, 0], atol=1 / size)


def test_rendering_is_antialiased_to_the_right_area():
    one, centre = np.ones((2, 3), np.float32), np.array([[0.5, 0.5], [0.51, 0.5]])
    circle = Shape(0, 0.2, centre, np.zeros(2), 0, one)
    square = circle._replace(kind=1, inradius=0.17)
    triangle = circle._replace(kind=2, inradius=0.12)
    for shape, area in (
        (circle, np.pi * 0.2**2),
        (square, 4 * 0.17**2),
        (triangle, 3 * np.sqrt(3) * 0.12**2),
    ):
        covered = (render([shape], BLACK, 64) / 255).mean((1, 2, 3))
        np.testing.assert_allclose(covered, area, rtol=0.02)


def test_a_later_shape_hides_an_earlier_one():
    place = np.full((1, 2), 0.5)
    red, blue = (
        Shape(0, 0.2, place, np.zeros(1), 0, np.float32([rgb, rgb]))
        for rgb in ([1, 0, 0], [0, 0, 1])
    )
    middle = render([red, blue], BLACK, 32)[0, 16, 16]
    assert middle.tolist() == [0, 0, 255]


def test_without_spin_shapes_of_a_kind_stand_alike():
    def angles(spin):
        clips = [SyntheticWorld(1, 4, 16, shapes=(1, 1), spin=spin)[i] for i in range(8)]
        return np.array([clip.decode.args[0][0].angle for clip in clips])

    assert not angles(0.0).any()
    assert (np.abs(np.diff(angles(1.0))) <= 1 / 8 + 1e-6).all()
    assert np.ptp(angles(1.0)[:, 0]) > 3


def test_every_kind_count_and_label_occurs():
    clips = [WORLD[i] for i in range(40)]
    assert {clip.label for clip in clips} == {0, 1, 2}
    assert len(WORLD.labels) == 3
    assert {int(np.isnan(clip.truth["position"][0, :, 0]).sum()) for clip in clips} == {0, 1}


def _centre(video):
    """Centre of what differs from the background, which is dark, as (x, y) in [0,1]."""
    bright = video.max(-1) > 75
    grid = (np.arange(video.shape[2]) + 0.5) / video.shape[2]
    total = bright.sum((1, 2))
    return np.stack([(bright * g).sum((1, 2)) / total for g in (grid, grid[:, None])], -1)


def test_actions_are_the_velocity_of_the_first_shape():
    turns = 0
    for i in range(20):
        clip = SyntheticWorld(1, 240, 8, fps=120.0)[i]
        assert (clip.action.dtype, clip.action.shape) == (np.float32, (240, 2))
        moved = np.diff(clip.truth["position"][:, 0], axis=0) * 120
        steady = (clip.action[1:] == clip.action[:-1]).all(1)
        np.testing.assert_allclose(moved[steady], clip.action[1:][steady], atol=1e-3)
        turns += (~steady).sum()
    assert turns > 20


def test_captions_tell_what_is_drawn():
    seen = set()
    for i in range(40):
        clip = SyntheticWorld(5, 8, 32, shapes=(1, 2))[i]
        shapes, kind = clip.decode.args[0], WORLD.labels[clip.label]
        light = [shape.tones[0] for shape in shapes]
        colours = [
            {(1, 0, 0): "red", (1, 1, 0): "yellow", (0, 1, 0): "green", (0, 1, 1): "cyan",
             (0, 0, 1): "blue", (1, 0, 1): "magenta"}[tuple((rgb > 0.5).astype(int))]
            for rgb in light
        ]  # fmt: skip
        if len(shapes) == 1:
            x, y = np.abs(np.diff(clip.truth["position"][:, 0], axis=0)).max(0)
            way = "side to side" if x > y else "up and down"
            assert clip.caption == f"a {colours[0]} {kind} moving {way}"
        else:
            assert clip.caption == f"2 {kind}s: {colours[0]} and {colours[1]}"
        seen |= set(clip.caption.split())
    assert seen > {"circle", "squares:", "red", "magenta", "side", "up", "2", "a"}
