import cv2
import numpy as np
import pytest

from jaxvid.data.sources.synthetic import COLOURS, SyntheticWorld, render
from jaxvid.errors import InputError
from jaxvid.metrics.physics import LAWS, physics, track

FPS = 8.0


def _draw(change=lambda shapes: shapes, since=0, count=16, frames=8, size=24, shapes=(1, 1)):
    """Clips of the world whose shapes are changed from frame `since` on."""
    world = SyntheticWorld(0, frames, size, FPS, shapes, 1.0)
    clips = []
    for i in range(count):
        drawn, ground, _ = world[i].decode.args
        parts = (drawn, np.arange(since)), (change(drawn), np.arange(since, frames))
        videos = [render([s.at(t) for s in shown], ground, size) for shown, t in parts]
        clips.append(np.concatenate(videos))
    return np.stack(clips)


def _mean(clips):
    return dict(zip(LAWS, physics(clips, FPS).mean(axis=0), strict=True))


def _moved(offset):
    return lambda shapes: [s._replace(centre=s.centre + offset(s)) for s in shapes]


def _recoloured(shapes):
    """The first shape in the opposite hue, red as cyan."""
    tones = shapes[0].tones.max(axis=1, keepdims=True) - shapes[0].tones
    return [shapes[0]._replace(tones=tones), *shapes[1:]]


@pytest.mark.parametrize(
    ("shapes", "frames", "size", "most"),
    [((1, 1), 8, 24, (0, 0, 0.01, 0.005)), ((2, 3), 16, 32, (0.03, 0.03, 0.01, 0.01))],
)
def test_clips_of_the_world_obey_its_laws(shapes, frames, size, most):
    clips = _draw(shapes=shapes, frames=frames, size=size, count=48)
    assert (physics(clips, FPS).mean(axis=0) <= most).all()


def test_a_track_is_the_true_path_and_colour():
    world = SyntheticWorld(0, 8, 24, FPS, (1, 1))
    for i in range(16):
        clip = world[i]
        tracks = track(clip.decode(np.arange(8)))
        colour = COLOURS.index(clip.caption.split()[1])
        assert (tracks.pieces[:, colour] == 1).all()
        assert tracks.pieces.sum() == 8
        error = 24 * (tracks.centre[:, colour] - clip.truth["position"][:, 0])
        assert np.sqrt((error**2).sum(axis=-1).mean()) < 0.5


def test_a_shape_that_changes_its_colour_breaks_identity_alone():
    for since in (4, 6, 7, 8):
        found = _mean(_draw(_recoloured, since))
        assert found["identity"] == pytest.approx((8 - since) / 8)
        assert found["count"] == 0
        assert found["path"] < 0.01


@pytest.mark.parametrize("shapes", [(1, 1), (2, 3)])
def test_a_shape_that_vanishes_breaks_the_count(shapes):
    def without_first(drawn):
        return [drawn[0]._replace(inradius=-1.0), *drawn[1:]]

    found = [_mean(_draw(without_first, since, shapes=shapes)) for since in (8, 7, 6, 4)]
    for law in ("count", "identity"):
        values = [f[law] for f in found]
        assert (np.diff(values) > 0.01).all()
        assert values[-1] > 0.5 * 4 / 8


def test_a_second_shape_of_the_same_colour_breaks_the_count():
    def opposite(shapes):
        shape = shapes[0]._replace(inradius=0.75 * shapes[0].inradius)
        return [shape, shape._replace(centre=1 - shape.centre)]

    clips = _draw(opposite, count=48)
    apart = np.array([(track(clip).pieces.sum(axis=1) == 2).sum() for clip in clips])
    one = _draw(lambda shapes: opposite(shapes)[:1], count=48)
    clips[:, :5] = one[:, :5]
    found = physics(clips[apart == 8], FPS)
    assert len(found) > 4
    np.testing.assert_allclose(found[:, LAWS.index("count")], 3 / 8)


def test_a_shape_that_grows_breaks_identity():
    def grown(factor):
        return lambda s: [s[0]._replace(inradius=factor * s[0].inradius)]

    assert _mean(_draw(grown(1.05), 6))["identity"] == 0
    assert _mean(_draw(grown(1.3), 6))["identity"] > 0.9 * 2 / 8


@pytest.mark.parametrize("shapes", [(1, 1), (2, 3)])
def test_the_path_error_is_the_size_of_a_jitter(shapes):
    rng = np.random.default_rng(0)
    for scale in (0.02, 0.05):
        jitter = _moved(lambda s, scale=scale: rng.normal(0, scale, s.centre.shape))
        # Distances in two dimensions, of which the fit of two numbers for each takes a part.
        expected = scale * np.sqrt(2 * (1 - 2 / 16))
        found = _mean(_draw(jitter, shapes=shapes, frames=16))
        assert found["path"] == pytest.approx(expected, rel=0.2)


def test_a_shape_that_passes_through_a_wall_leaves_its_path():
    time = np.arange(8)[:, None] / FPS

    def through(shape):
        velocity = (shape.centre[1] - shape.centre[0]) * FPS
        return (shape.centre[0] + velocity * time) % 1 - shape.centre

    lawful, worse = _draw(), _draw(_moved(through))
    bounces = physics(worse, FPS)[(lawful != worse).any(axis=(1, 2, 3, 4)), LAWS.index("path")]
    assert len(bounces) > 8
    assert bounces.mean() > 8 * _mean(lawful)["path"]


def test_frames_out_of_order_or_frozen_leave_the_path():
    clips, rng = _draw(), np.random.default_rng(1)

    def path(share, source):
        worse = clips.copy()
        for clip, to in zip(clips, worse, strict=True):
            moved = 1 + rng.permutation(7)[: round(share * 7)]
            to[moved] = clip[source(moved)]
        return _mean(worse)["path"]

    for source in (lambda moved: np.roll(moved, 1), lambda moved: moved - 1):
        values = [path(share, source) for share in (0, 0.3, 0.6)]
        assert values[1] > 3 * values[0]
        assert values[2] > values[1]


def test_speed_is_the_distance_from_the_range_of_the_world():
    clips = _draw(frames=16)
    still = physics(np.repeat(clips[:, :1], 8, axis=1), FPS)
    np.testing.assert_allclose(still, np.tile([0, 0, 0, 0.25], (16, 1)), atol=0.02)
    strided = [_mean(clips[:, : 8 * stride : stride])["speed"] for stride in (1, 2)]
    assert strided[0] < 0.01
    assert strided[1] > 0.1
    assert physics(clips[:, ::2], FPS / 2)[:, LAWS.index("speed")].mean() < 0.02


def test_mild_blur_and_noise_break_no_law():
    clips = _draw()
    blurred = np.stack([[cv2.GaussianBlur(f, (0, 0), 0.7) for f in clip] for clip in clips])
    noise = np.random.default_rng(2).normal(0, 8, clips.shape)
    for mild in (blurred, np.clip(np.rint(clips + noise), 0, 255).astype(np.uint8)):
        assert (physics(mild, FPS).mean(axis=0) < (0.01, 0.01, 0.012, 0.01)).all()


def test_clips_without_shapes_break_all_laws():
    black = np.zeros((1, 3, 24, 24, 3), np.uint8)
    noise = np.random.default_rng(3).integers(0, 256, (1, 3, 32, 32, 3), np.uint8)
    for clips in (black, noise):
        np.testing.assert_array_equal(physics(clips, FPS), [[1, 1, 1, 0.25]])


@pytest.mark.parametrize(("shape", "line"), [((2, 8, 8), "2 frames"), ((3, 8, 6), "8 x 6 pixels")])
def test_clips_that_are_too_short_or_not_square_are_refused(shape, line):
    with pytest.raises(InputError, match=line):
        physics(np.zeros((1, *shape, 3), np.uint8), FPS)
