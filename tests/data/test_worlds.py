import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxvid.build import default_config
from jaxvid.config import override
from jaxvid.data.augment import active
from jaxvid.data.augment.crop import window
from jaxvid.data.augment.flip import mirror
from jaxvid.data.augment.rotate import turn
from jaxvid.data.clips import sample_clip
from jaxvid.data.sources import make_source
from jaxvid.data.worlds import WORLDS
from jaxvid.data.worlds.world import PALETTES, a, listed

FRAMES = 12
ALL = np.arange(FRAMES)
every_world = pytest.mark.parametrize("name", WORLDS)


def data_of(name, **keys):
    config = default_config()
    config.data.update(source=name, frames=FRAMES, size=32)
    for key, value in keys.items():
        override(config, f"data.{key.replace('__', '.')}", str(value))
    return config.data


def world(name, split="train", **keys):
    return make_source(data_of(name, **keys), split)


def ink(video):
    """How far the pixels are from the background, the colour of the first pixel of all frames."""
    return np.abs(video.astype(float) - np.median(video, axis=(0, 1, 2))).max(-1)


def centre(weight):
    """The centre (x, y) of each frame in image coordinates."""
    along = (np.arange(weight.shape[-1]) + 0.5) / weight.shape[-1]
    total = weight.sum((1, 2))
    return np.stack([(weight * a).sum((1, 2)) / total for a in (along, along[:, None])], -1)


def at(frame, points):
    """The colours of a picture at points (x, y), by linear interpolation."""
    x, y = np.moveaxis(np.asarray(points) * len(frame) - 0.5, -1, 0)
    i, j = np.floor(y).astype(int), np.floor(x).astype(int)
    down, right = (y - i)[..., None], (x - j)[..., None]
    rows = [(1 - right) * frame[i + k, j] + right * frame[i + k, j + 1] for k in (0, 1)]
    return (1 - down) * rows[0] + down * rows[1]


@every_world
def test_a_clip_is_a_function_of_its_number(name):
    one, again, held_out = world(name), world(name), world(name, "validation")
    video = one[7].decode(ALL)
    one[8].decode(ALL)
    np.testing.assert_array_equal(again[7].decode(ALL), video)
    assert (one[8].decode(ALL) != video).any()
    assert (held_out[7].decode(ALL) != video).any()
    assert one.fingerprint == again.fingerprint != held_out.fingerprint
    assert len({world(name, palette=p).fingerprint for p in PALETTES}) == len(PALETTES)


@every_world
def test_any_frame_can_be_drawn_alone(name):
    clip, some = world(name)[3], np.array([10, 4])
    np.testing.assert_array_equal(clip.decode(some), clip.decode(ALL)[some])


@every_world
def test_another_size_shows_the_same(name):
    small, large = world(name, size=32)[5], world(name, size=128)[5]
    assert small.caption == large.caption
    for rows, others in zip(small.truth.values(), large.truth.values(), strict=True):
        np.testing.assert_array_equal(rows, others)
    coarse = large.decode(ALL).astype(float).reshape(FRAMES, 32, 4, 32, 4, 3).mean((2, 4))
    assert np.abs(coarse - small.decode(ALL)).mean() < 6


@pytest.mark.parametrize("name", sorted(set(WORLDS) - {"bodies"}))
def test_another_rate_shows_the_same_motion(name):
    slow, fast = world(name, fps=8)[5], world(name, fps=16, frames=2 * FRAMES - 1)[5]
    np.testing.assert_array_equal(fast.decode(2 * ALL), slow.decode(ALL))


@every_world
def test_labels_and_captions_are_of_the_scene_and_vary(name):
    source = world(name, palette="pastel")
    clips = [source[i] for i in range(60)]
    assert {clip.label for clip in clips} == set(range(len(source.labels)))
    colours = set().union(*PALETTES.values())
    wordings = {
        " ".join(w for w in c.caption.split() if w.strip(",:") not in colours) for c in clips
    }
    assert len(wordings) >= 2 * min(3, len(source.labels))
    for clip in clips:
        named = {word.strip(",:") for word in clip.caption.split()} & colours
        assert named <= set(PALETTES["pastel"])
        assert named or name == "glyphs"


@every_world
def test_motion_is_in_every_clip(name):
    source = world(name)
    for i in range(10):
        video = source[i].decode(ALL).astype(float)
        assert np.abs(np.diff(video, axis=0)).mean((1, 2, 3)).max() > 0.3


@pytest.mark.parametrize("name", ["bodies", "glyphs"])
@settings(max_examples=25, deadline=None)
@given(
    number=st.integers(0, 999), side=st.floats(0.8, 1), left=st.floats(0, 1), top=st.floats(0, 1),
    angle=st.floats(-0.3, 0.3), flip=st.booleans(), reverse=st.booleans(),
)  # fmt: skip
def test_a_thing_is_drawn_where_the_truth_says_after_any_augmentation(
    name, number, side, left, top, angle, flip, reverse
):
    data = data_of(name, size=64, **{f"{name}__count": (1, 1)})
    retime = active(["reverse(p=1)"] * reverse, temporal=True)
    clip, rng = make_source(data)[number], np.random.default_rng(0)
    sample = window(sample_clip(clip, data, rng, retime=retime), side, left, top)
    sample = turn(sample, angle)
    sample = mirror(sample) if flip else sample
    weight = ink(sample["video"])
    if name == "bodies":  # they have two tones
        weight = np.minimum(weight, 20)
    edges = np.maximum(weight[:, [0, -1]].max((1, 2)), weight[:, :, [0, -1]].max((1, 2)))
    whole = (edges < 2) & (weight.max((1, 2)) > 10)
    np.testing.assert_allclose(
        centre(weight[whole]), sample["position"][whole, 0], atol=0.8 / 64
    )  # fmt: skip
    steps = np.diff(sample["position"][:, 0], axis=0) * data.fps
    mean = (sample["velocity"][1:, 0] + sample["velocity"][:-1, 0]) / 2
    free = np.abs(np.diff(sample["velocity"][:, 0, 0])) < 1e-4  # no bounce in between
    np.testing.assert_allclose(steps[free, 0], mean[free, 0], atol=0.02)


def test_bodies_fall_freely_between_contacts():
    source, seen = world("bodies", bodies__gravity=1.2, bodies__count=(1, 3)), 0
    for i in range(20):
        truth = source[i].truth
        velocity, free = truth["velocity"], truth["contact"] == 0
        free = free[1:] & free[:-1]
        change = np.diff(velocity, axis=0)[free] * 8
        np.testing.assert_allclose(change, np.tile([0, 1.2], (len(change), 1)), atol=1e-3)
        seen += len(change)
    assert seen > 50


def test_a_bounce_keeps_the_given_share_of_the_speed():
    for bounce in (0.5, 1.0):
        source, seen = world("bodies", bodies__gravity=0.0, bodies__bounce=bounce,
                             bodies__count=(1, 1), bodies__speed=1.5), 0  # fmt: skip
        for i in range(60):
            clip = source[i]
            across = clip.truth["velocity"][:, 0, 0]
            if clip.label:  # boxes turn
                continue
            along = clip.truth["velocity"][:, 0, 1]  # at no other wall, which would brake it
            (hits,) = np.nonzero((across[1:] * across[:-1] < 0) & (along[1:] * along[:-1] > 0))
            for k in hits:
                assert clip.truth["contact"][k, 0] == clip.truth["contact"][k + 1, 0] == 1
                assert abs(-across[k + 1] / across[k] - bounce) < 0.03
            seen += len(hits)
        assert seen > 10


def test_collisions_keep_the_momentum_and_elastic_ones_the_energy():
    source, seen = world("bodies", bodies__gravity=0.0, bodies__bounce=1.0,
                         bodies__count=(2, 2), bodies__speed=1.0, frames=24), 0  # fmt: skip
    for i in range(150):
        clip = source[i]
        if clip.label:
            continue
        velocity, position = clip.truth["velocity"], clip.truth["position"]
        change = np.abs(np.diff(velocity, axis=0)).sum(-1)
        inside = ((position > 0.2) & (position < 0.8)).all((1, 2))
        for k in np.flatnonzero((change > 0.02).all(1) & inside[1:] & inside[:-1]):
            before, after = velocity[k], velocity[k + 1]
            np.testing.assert_allclose(before.sum(0), after.sum(0), atol=5e-3)
            energy = (before**2).sum(), (after**2).sum()
            assert 0.75 < energy[1] / energy[0] < 1.25  # friction turns some of it to spin
            seen += 1
    assert seen > 10


def test_bodies_stay_in_the_box():
    source = world("bodies", bodies__count=(9, 9), bodies__gravity=3.0, frames=40)
    for i in range(4):
        position = source[i].truth["position"]
        assert position.min() > 0.05
        assert position.max() < 0.95


def test_the_camera_says_where_the_picture_goes():
    source, seen = world("layers", layers__count=(1, 1), size=64), set()
    for i in range(20):
        clip = source[i]
        video, camera = clip.decode(ALL).astype(float), clip.truth["camera"]
        inner = np.stack(np.meshgrid(*[np.linspace(0.1, 0.9, 20)] * 2), -1)
        for t in (1, FRAMES - 1):
            change = camera[t] @ np.linalg.inv(camera[0])
            moved = inner @ change[:2, :2].T + change[:2, 2]
            inside = ((moved > 0.05) & (moved < 0.95)).all(-1)
            if inside.sum() > 20:
                error = at(video[t], moved[inside]) - at(video[0], inner[inside])
                assert np.abs(error).mean() < 5
                assert np.abs(at(video[t], inner[inside]) - at(video[0], inner[inside])).mean() > 0
                seen.add(source.labels[clip.label])
    assert seen == set(source.labels)
    sample = mirror(window({"video": video.astype(np.uint8), "camera": camera}, 0.7, 1.0, 0.0))
    point = np.linalg.inv(camera[3]) @ [0.6, 0.4, 1]  # a point of the world
    there = (sample["camera"][3] @ point)[:2]
    np.testing.assert_allclose(at(sample["video"][3], there), at(video[3], [0.6, 0.4]), atol=25)
    np.testing.assert_allclose(there, [1 - (0.6 - 0.3) / 0.7, 0.4 / 0.7], atol=0.02)


def test_marks_keep_the_colour_of_the_texture():
    source, seen = world("flow", size=128), set()
    for i in range(12):
        clip = source[i]
        video, marks = clip.decode(ALL).astype(float), clip.truth["position"]
        inside = ((marks > 0.05) & (marks < 0.95)).all((0, 2))
        colours = np.stack([at(v, m[inside]) for v, m in zip(video, marks, strict=True)])
        assert np.median(np.abs(colours - colours[0])) < 4
        assert np.abs(np.diff(marks, axis=0)).max() > 1e-3
        seen.add(source.labels[clip.label])
    assert seen == set(source.labels)


def test_a_list_of_words():
    assert (a("red ball"), a("orange ball")) == ("a red ball", "an orange ball")
    assert listed(["red"]) == "red"
    assert listed(["red", "blue"]) == "red and blue"
    assert listed(["red", "blue", "green"]) == "red, blue and green"


@pytest.mark.parametrize("behind", ["flow", "layers"])
@pytest.mark.parametrize("name", ["bodies", "glyphs"])
def test_another_world_behind_changes_nothing_of_what_is_in_front(name, behind):
    plain, mixed = world(name), world(name, backdrop=behind)
    assert plain.fingerprint != mixed.fingerprint
    for number in range(3):
        clips = plain[number], mixed[number]
        assert clips[0].caption == clips[1].caption
        np.testing.assert_array_equal(clips[0].truth["position"], clips[1].truth["position"])
        videos = [clip.decode(ALL).astype(int) for clip in clips]
        changed = np.abs(videos[0] - videos[1]).max(-1) > 0
        bright = ink(videos[0]) > 60
        assert (changed & bright).mean() < 0.08  # at edges
        assert changed[~bright].mean() > 0.5
        assert np.percentile(videos[1][~bright], 99) < 100
        assert np.abs(np.diff(videos[1], axis=0))[~bright[1:]].mean() > 0.1
