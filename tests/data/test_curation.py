"""From a video to clips worth keeping: cuts, borders, scores, duplicates and tables."""

import json
import tracemalloc
from unittest import mock

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from jaxvid.data.curation import duplicates
from jaxvid.data.curation.clips import cut_video
from jaxvid.data.curation.duplicates import find_duplicates, parse_hashes, perceptual_hash
from jaxvid.data.curation.letterbox import find_borders
from jaxvid.data.curation.scores import SCORES, failed, measure, parse_filters
from jaxvid.data.curation.settings import Settings
from jaxvid.data.curation.table import read_table
from jaxvid.data.video import Borders, preview, write_video
from jaxvid.errors import InputError

FPS = 12.0
TIME = np.arange(8, dtype=np.float32) / FPS


def scene(number, frames, height=48, width=64):
    """A pattern of its own colours that moves."""
    rng = np.random.default_rng(number)
    coarse = rng.integers(0, 256, (6, 12, 3), np.uint8)
    wide = cv2.resize(coarse, (2 * width, height), interpolation=cv2.INTER_CUBIC)
    return np.stack([wide[:, t : t + width] for t in np.arange(frames) % width])


# Cuts are found by comparison with two frames on each side.
@settings(max_examples=6, deadline=None)
@given(
    lengths=st.lists(st.integers(5, 30), min_size=2, max_size=4),
    fps=st.sampled_from([6.0, 12.0, 20.0]),
)
def test_no_clip_goes_over_a_cut_and_none_is_lost(tmp_path_factory, lengths, fps):
    path = tmp_path_factory.mktemp("cuts") / "a.mp4"
    write_video(path, np.concatenate([scene(i, n) for i, n in enumerate(lengths)]), FPS)
    ends = np.cumsum(lengths[:-1])
    try:
        pieces = list(cut_video(path, Settings(16, fps, 4, 95, cuts=3.0)))
    except InputError:
        pieces = []
    scenes = []
    for piece in pieces:
        shown = np.round((piece.start + piece.time) * FPS - 0.01).astype(int)
        (number,) = set(np.searchsorted(ends, shown, side="right"))
        scenes.append(number)
    for number, length in enumerate(lengths):
        # A scene may share the ticks at its ends with those beside it.
        assert -1 <= length * fps / FPS - 4 * scenes.count(number) <= 4 + 2 * fps / FPS


def test_without_detection_clips_go_over_cuts(tmp_path):
    write_video(tmp_path / "a.mp4", np.concatenate([scene(0, 6), scene(1, 6)]), FPS)
    (piece,) = cut_video(tmp_path / "a.mp4", Settings(16, FPS, 12, 95))
    assert len(piece.frames) == 12
    with pytest.raises(InputError, match="12 frames at 12 fps, in 2 scenes, 12 are needed"):
        list(cut_video(tmp_path / "a.mp4", Settings(16, FPS, 12, 95, cuts=3.0)))


@settings(max_examples=30, deadline=None)
@given(st.tuples(*[st.integers(0, 12)] * 4))
def test_borders_are_what_is_dark_in_all_pictures(sides):
    above, below, left, right = sides
    pictures = np.random.default_rng(0).integers(40, 256, (3, 48, 48)).astype(np.uint8)
    pictures = np.pad(pictures, [(0, 0), (above, below), (left, right)], constant_values=16)
    pictures[0] = 0  # fades in from black
    found = find_borders(pictures)
    # Two more at each edge, where the picture is often half dark.
    assert found == Borders(*(n and n + 2 for n in sides))


def test_a_dark_video_has_no_borders():
    assert find_borders(np.zeros((3, 8, 8), np.uint8)) == Borders()
    assert find_borders([]) == Borders()


def test_borders_are_cut_off(tmp_path):
    boxed = np.pad(scene(0, 24), [(0, 0), (16, 16), (0, 0), (0, 0)])
    write_video(tmp_path / "a.mp4", boxed, FPS)
    assert find_borders(p for p, _ in preview(tmp_path / "a.mp4")) in (Borders(18, 18),)
    (piece,) = cut_video(tmp_path / "a.mp4", Settings(24, FPS, 24, 95, letterbox=True))
    (whole,) = cut_video(tmp_path / "a.mp4", Settings(24, FPS, 24, 95))
    dark = [p.frames[:, :2].mean() for p in (piece, whole)]
    assert dark[1] < 20 < dark[0]


def test_previews_come_from_all_over_a_video(tmp_path):
    write_video(tmp_path / "a.mp4", np.concatenate([scene(i, 13) for i in range(6)]), FPS)
    times = [time for _, time in preview(tmp_path / "a.mp4", 3)]
    assert times == sorted(set(times))
    assert times[0] == 0


def moving(shift, blur=0.0, gain=1.0):
    rng = np.random.default_rng(1)
    coarse = cv2.resize(rng.integers(0, 256, (24, 24), np.uint8), (192, 192), interpolation=1)
    frames = np.stack([np.roll(coarse, shift * t, axis=1)[:64, :64] for t in range(8)])
    if blur:
        frames = np.stack([cv2.GaussianBlur(f, (0, 0), blur) for f in frames])
    return np.repeat((frames * gain).astype(np.uint8)[..., None], 3, axis=-1)


def test_motion_is_in_sides_of_the_picture_per_second():
    for shift in (1, 2):
        speed = shift * FPS / 64
        assert measure(moving(shift), TIME)["motion"] == pytest.approx(speed, rel=0.25)
        assert measure(moving(shift), 2 * TIME)["motion"] == pytest.approx(speed / 2, rel=0.25)
    assert measure(moving(0), TIME)["motion"] < 0.002


def test_scores_mean_what_they_say():
    sharp, blurred, dim = (
        measure(video, TIME) for video in (moving(1), moving(1, blur=2), moving(1, gain=0.5))
    )
    assert blurred["sharpness"] < sharp["sharpness"] / 2
    assert blurred["contrast"] < sharp["contrast"]
    assert dim["brightness"] == pytest.approx(sharp["brightness"] / 2, rel=0.02)
    grey = measure(np.full((8, 64, 64, 3), 51, np.uint8), TIME)
    assert grey == {"motion": 0.0, "sharpness": 0.0, "brightness": 0.2, "contrast": 0.0}
    one = measure(moving(1)[:1], TIME[:1])
    assert one["motion"] == 0
    assert set(one) == set(SCORES)


def test_filters_keep_what_is_within_their_bounds():
    filters = parse_filters(["motion(least=0.1, most=1)", "brightness(most=0.9)"])
    scores = {"motion": 0.5, "brightness": 0.5}
    assert failed(scores, filters) == ""
    assert failed(scores | {"motion": 0.05}, filters) == "motion"
    assert failed(scores | {"motion": 2.0}, filters) == "motion"
    assert failed(scores | {"brightness": 0.95}, filters) == "brightness"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("motoin(least=1)", "did you mean 'motion'"),
        ("motion", "write it as"),
        ("motion(leats=1)", "write it as"),
        ("motion(least='a')", "write it as"),
        ("motion(1)", "write it as"),
    ],
)
def test_what_is_no_filter_is_named(text, words):
    with pytest.raises(InputError, match=words) as caught:
        parse_filters([text])
    assert text in str(caught.value)


def test_the_hash_of_a_clip_survives_another_size_and_quality():
    videos = [scene(number, 8, 96, 128) for number in range(6)]
    hashes = [int(perceptual_hash(video), 16) for video in videos]
    for video, number in zip(videos, hashes, strict=True):
        worse = [
            cv2.imdecode(cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, 80])[1], 1)
            for frame in (cv2.resize(f, (64, 48), interpolation=cv2.INTER_AREA) for f in video)
        ]
        assert (number ^ int(perceptual_hash(np.stack(worse)), 16)).bit_count() <= 6
    apart = [(a ^ b).bit_count() for i, a in enumerate(hashes) for b in hashes[:i]]
    assert min(apart) > 20


@settings(max_examples=25, deadline=None)
@given(
    bits=arrays.arrays(np.uint8, (24, 16), elements=st.integers(0, 1)),
    most=st.integers(0, 12),
    at_once=st.sampled_from([4, 1 << 20]),  # pairs; if there are more, halves are searched
)
def test_duplicates_are_those_that_differ_little_from_one_that_is_kept(bits, most, at_once):
    # Far from each other in few places: bytes of 0 or 1 are 16 bits of 128.
    hashes, kept, expected = [row.tobytes().hex() for row in bits], [], []
    for row in bits:
        expected.append(any((row != other).sum() <= most for other in kept))
        if not expected[-1]:
            kept.append(row)
    with mock.patch.object(duplicates, "_AT_ONCE", at_once):
        assert find_duplicates(parse_hashes(hashes), most).tolist() == expected


def test_many_clips_that_look_alike_take_little_memory():
    rng, n = np.random.default_rng(0), 1_000
    hashes = rng.integers(0, 1 << 64, (n, 2), np.uint64)
    alike = rng.random(n) < 0.9
    hashes[alike] = 0
    for bit in rng.integers(0, 128, (2, n)):
        hashes[np.arange(n), bit // 64] ^= np.where(alike, np.uint64(1) << bit.astype("u8") % 64, 0)
    tracemalloc.start()
    with mock.patch.object(duplicates, "_AT_ONCE", 1 << 8):
        found = find_duplicates(hashes, 4)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1e6  # a list of all pairs would take three times as much
    alike[alike.argmax()] = False
    np.testing.assert_array_equal(found, alike)


def test_a_table_gives_captions_and_labels(tmp_path):
    names = ["a.mp4", "cats/b.mkv", "cats/b.mp4", "c.mp4"]
    csv = tmp_path / "t.csv"
    csv.write_text(
        'path,label,caption,url\na,dog,"a dog,\nrunning",x\ncats/b.mkv,,a cat,\nno,x,y,z\n'
    )
    assert read_table(csv, names) == {
        "a.mp4": {"label": "dog", "caption": "a dog, running"},
        "cats/b.mkv": {"caption": "a cat"},
    }
    lines = tmp_path / "t.jsonl"
    rows = [{"path": "cats/b", "label": 3}, {"path": "c.mp4", "caption": None}]
    lines.write_text("\n\n".join(map(json.dumps, rows)))
    assert read_table(lines, names) == {"cats/b.mkv": {"label": "3"}, "c.mp4": {}}


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("t.csv", "file,caption\na,b\n", "row 1 has file, caption, but needs path"),
        ("t.csv", "path,caption\nx.mp4,b\n", "none of its 1 rows .* not 'x.mp4'"),
        ("t.csv", "", "none of its 0 rows"),
        ("t.jsonl", '{"path": "a.mp4", "caption": "b"}\n{', "cannot be read after row 1"),
        ("t.jsonl", "[1]", "cannot be read after row 0: '.1.' is not an object"),
        ("t.csv", "path,caption\na.mp4,caf\udce9\n", "cannot be read after row 0"),
        ("t.parquet", "", r"end its name in \.csv or \.jsonl"),
        ("none.csv", None, "cannot be read after row 0: .*No such file"),
    ],
)
def test_a_table_that_cannot_be_used_is_one_line(tmp_path, name, content, words):
    if content is not None:
        (tmp_path / name).write_text(content, errors="surrogateescape")
    with pytest.raises(InputError, match=words) as caught:
        read_table(tmp_path / name, ["a.mp4"])
    assert "\n" not in str(caught.value)
