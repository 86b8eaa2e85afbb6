import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxvid.errors import InputError
from jaxvid.hierarchy.plan import (
    KINDS,
    SCHEMES,
    Call,
    Plan,
    by_importance,
    kind_of,
    make_plan,
)

THOROUGH = settings(deadline=None, max_examples=300, database=None, derandomize=True)


@st.composite
def numbers(draw):
    """Window, frames, given frames and overlap of any plan for windows of 4 frames or more."""
    window = draw(st.integers(4, 20))
    given = draw(st.integers(0, window - 1))
    return window, draw(st.integers(given + 1, 300)), given, draw(st.integers(1, window - 1))


def any_plan(*schemes):
    return given(st.sampled_from(schemes or list(SCHEMES)), numbers())


def plan_of(scheme, numbers):
    window, frames, start, overlap = numbers
    if scheme == "overlapping":
        start, overlap = 0, min(overlap, window // 2)
    return make_plan(scheme, window, frames, start, overlap=overlap)


@st.composite
def scattered(draw):
    """A window, and given frames at any distances at which calls between them fill it."""
    window = draw(st.integers(4, 16))
    gaps = st.lists(st.integers(1, 2 * window), min_size=window, max_size=60)
    gaps = draw(gaps.filter(lambda gaps: max(gaps) > 1))
    return window, tuple(int(i) for i in np.cumsum([0, *gaps]))


@THOROUGH
@any_plan()
def test_every_frame_is_drawn_once_and_seen_only_after_that(scheme, numbers):
    plan = plan_of(scheme, numbers)
    assert plan.given == tuple(range(len(plan.given)))
    assert plan.start == len(plan.given)
    there = drawn_once(plan)
    # Few frames are drawn that nobody keeps: those that fill up the last window of a level.
    assert sum(i >= plan.frames for i in there) < 2 * plan.window


def drawn_once(plan):
    """All frames of a plan in the order in which they come, each after those that it sees."""
    there = list(plan.given)
    for call in plan.calls:
        assert set(call.sees) <= set(there)
        there += call.draws
    if not plan.blends:
        assert len(there) == len(set(there))
    assert set(there) >= set(range(plan.frames))
    return there


@settings(THOROUGH, max_examples=100)
@given(scattered())
def test_key_frames_that_are_given_stay_and_those_between_are_drawn(scattered):
    window, given_frames = scattered
    plan = make_plan("key_frames", window, given_frames[-1] + 1, given_frames)
    assert plan.given == given_frames
    assert sorted(drawn_once(plan)) == list(range(plan.frames))
    assert set(range(plan.start)) <= set(plan.given)
    assert plan.start not in plan.given
    for call in plan.calls:
        assert len(call.frames) == plan.window
        # Each frame lies between two that its call sees.
        assert min(call.sees) < min(call.draws) <= max(call.draws) < max(call.sees)
    # Calls between key frames that are near wait for none.
    if max(np.diff(plan.given)) < plan.window:
        assert len(plan.rounds()) == 1


@settings(THOROUGH, max_examples=60)
@any_plan("overlapping")
def test_the_shares_of_overlapping_windows_sum_to_one_and_rise_evenly(scheme, numbers):
    plan = plan_of(scheme, numbers)
    assert len(plan.rounds()) == 1
    total, shares = np.zeros(plan.frames + plan.window), []
    for call in plan.calls:
        total[call.frames] += call.weights
    for call in plan.calls:
        shares.append(call.weights / total[call.frames])
    overlap = plan.window if len(plan.calls) == 1 else plan.window - plan.calls[1].draws[0]
    assert shares[0][0] == shares[-1][-1] == 1
    for before, after in itertools.pairwise(shares):
        ramp = (np.arange(overlap) + 0.5) / overlap
        np.testing.assert_allclose(after[:overlap], ramp)
        np.testing.assert_allclose(before[-overlap:], 1 - ramp)


@THOROUGH
@any_plan(*(name for name in SCHEMES if name != "streaming"))
def test_every_call_fills_its_window(scheme, numbers):
    plan = plan_of(scheme, numbers)
    for call in plan.calls:
        assert len(call.frames) == plan.window
        assert call.draws
        assert tuple(call.frames[call.observed]) == tuple(sorted(call.sees))


@THOROUGH
@any_plan()
def test_calls_of_a_round_do_not_wait_for_one_another(scheme, numbers):
    plan = plan_of(scheme, numbers)
    there, calls = set(plan.given), []
    for together in plan.rounds():
        assert all(set(call.sees) <= there for call in together)
        there |= {i for call in together for i in call.draws}
        calls += together
    assert sorted(calls) == sorted(plan.calls)


@THOROUGH
@any_plan("sliding", "long_range", "geometric", "streaming", "overlapping")
def test_plans_for_causal_networks_see_only_the_past(scheme, numbers):
    plan = plan_of(scheme, numbers)
    assert not plan.looks_ahead()


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        ("sliding", [((), (0, 1, 2, 3)), ((2, 3), (4, 5)), ((4, 5), (6, 7)), ((6, 7), (8, 9))]),
        ("sliding(overlap=1)", [((), (0, 1, 2, 3)), ((3,), (4, 5, 6)), ((6,), (7, 8, 9))]),
        ("long_range", [((), (0, 1, 2, 3)), ((0, 3), (4, 5)), ((0, 5), (6, 7)), ((0, 7), (8, 9))]),
        ("geometric", [((), (0, 1, 2, 3)), ((2, 3), (4, 5)), ((4, 5), (6, 7)), ((6, 7), (8, 9))]),
        ("key_frames", [((), (0, 3, 6, 9)), ((0, 3), (1, 2)), ((3, 6), (4, 5)), ((6, 9), (7, 8))]),
        ("hierarchy_2", [((), (0, 3, 6, 9)), ((0, 3), (1, 2)), ((3, 6), (4, 5)), ((6, 9), (7, 8))]),
        ("overlapping(overlap=1)", [((), (0, 1, 2, 3)), ((), (3, 4, 5, 6)), ((), (6, 7, 8, 9))]),
        ("key_frames(every=3)", [((0, 3), (1, 2)), ((3, 6), (4, 5)), ((6, 9), (7, 8))]),
    ],
)
def test_ten_frames_by_windows_of_four(text, calls):
    assert make_plan(text, 4, 10).calls == tuple(Call(*call) for call in calls)


def test_what_the_schemes_see_of_a_long_past():
    last = {name: make_plan(name, 8, 100).calls[-1] for name in SCHEMES}
    assert last["sliding"] == Call((92, 93, 94, 95), (96, 97, 98, 99))
    assert last["long_range"] == Call((0, 93, 94, 95), (96, 97, 98, 99))
    assert last["geometric"] == Call((88, 92, 94, 95), (96, 97, 98, 99))
    # A call of the second level goes on from the last frames, and sees the next key frames.
    call = make_plan("hierarchy_2(spacing=20)", 8, 100).calls[2]
    assert call == Call((3, 4, 20, 40), (5, 6, 7, 8))


def test_key_frames_of_three_levels():
    plan = make_plan("key_frames(spacings=(16,4))", 8, 64)
    keys, four, one = plan.rounds()
    assert [call.draws for call in keys] == [tuple(range(0, 8 * 16, 16))]
    assert sorted(i for call in four for i in call.draws) == [
        i for i in range(64) if i % 4 == 0 and i % 16
    ]
    assert sorted(i for call in one for i in call.draws) == [i for i in range(64) if i % 4]
    # Given key frames far apart: a level between them, then the rest.
    plan = make_plan("key_frames(every=12)", 5, 61)
    assert plan.given == (0, 12, 24, 36, 48, 60)
    assert [sorted(i for call in calls for i in call.draws) for calls in plan.rounds()] == [
        [i for i in range(61) if i % 4 == 0 and i % 12],
        [i for i in range(61) if i % 4],
    ]
    # By default one call draws all key frames, the last of which is the last frame.
    assert make_plan("key_frames", 8, 64).calls[0].draws == tuple(range(0, 64, 9))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("keyframes", "did you mean 'key_frames'"),
        ("sliding(overlaps=1)", "did you mean 'overlap'"),
        ("sliding(4)", "write it as"),
        ("sliding(overlap=", "write it as"),
        ("sliding(overlap=0)", "at least 1"),
        ("sliding(overlap=(1, 2))", "overlap must be an integer of at least 1"),
        ("sliding(overlap=8)", "--overlap=8: it must be from 1 to 7"),
        ("key_frames(spacings=(4,16))", "must fall"),
        ("key_frames(spacings=30)", "29 frames lie between two that are 30 apart"),
        ("sliding(frames=9)", "sliding takes overlap"),
        ("sliding(every=4)", "sliding: it goes on from the first frames of a video, but others"),
        ("key_frames(every=4)", "of 64 frames, 0 to 60 are given: .* or ask for 61 frames"),
        ("key_frames(every=0)", "every must be an integer of at least 1"),
        ("overlapping(overlap=5)", "overlap=5 must be at most half of the 8 frames"),
    ],
)
def test_texts_that_are_not_valid(text, message):
    with pytest.raises(InputError, match=message):
        make_plan(text, 8, 64)


def test_lengths_that_are_not_valid():
    with pytest.raises(InputError, match="say how long the video is"):
        make_plan("sliding", 8)
    with pytest.raises(InputError, match="8 frames are given: it must be from 0 to 7"):
        make_plan("sliding", 8, 64, 8)
    with pytest.raises(InputError, match="--frames=3: 3 of them are given"):
        make_plan("sliding", 8, 3, 3)
    with pytest.raises(InputError, match=r"key_frames takes overlap, spacings$"):
        make_plan("key_frames(every=4)", 8, 61, 0)
    with pytest.raises(InputError, match="a call has 5 frames, but the network draws 8 at once"):
        make_plan("key_frames", 8, 5, (0, 4))
    with pytest.raises(InputError, match="overlapping: its calls see no given frames"):
        make_plan("overlapping", 8, 64, 1)
    with pytest.raises(InputError, match="windows of 3 frames"):
        make_plan("key_frames", 3, 64)
    assert make_plan("sliding(frames=9)", 8).frames == 9


@pytest.mark.parametrize(
    ("calls", "message"),
    [
        ([Call((), (0, 1))], "no call draws frame 2"),
        ([Call((), (0, 1)), Call((1,), (1, 2))], "call 1 draws frame 1 again"),
        ([Call((3,), (0, 1))], "call 0 sees frame 3, which is not drawn yet"),
        ([Call((), (0, 1, 2, 3, 4))], "call 0 has 5 frames"),
    ],
)
def test_plans_that_do_not_draw_the_video_are_refused(calls, message):
    plan = Plan("mine", 3, 4, (), ())
    with pytest.raises(InputError, match=message):
        dataclasses.replace(plan, calls=tuple(calls)).check()
    assert np.array_equal(Call((5, 1), (3,)).observed, [True, False, True])


@settings(THOROUGH, max_examples=100)
@any_plan()
def test_what_a_call_is_for_and_which_of_its_frames_deserve_detail(scheme, numbers):
    kinds = set()
    for call in plan_of(scheme, numbers).calls:
        kinds.add(call.kind)
        frames, observed = call.frames, call.observed
        order = by_importance(frames, observed)
        np.testing.assert_array_equal(np.sort(order), np.arange(len(frames)))
        seen = [int(i) for i in frames[order] if i in call.sees]
        drawn = [int(i) for i in frames[order] if i in call.draws]
        if not seen:
            assert call.kind == "outline"
            assert drawn == sorted(drawn)
            continue
        first, last = (seen, drawn) if call.kind == "between" else (drawn, seen)
        assert [*frames[order]] == first + last
        assert (call.kind == "between") == (bool(drawn) and max(seen) > min(drawn))
        if drawn:
            nearest = [min(abs(i - j) for j in drawn) for i in seen]
            assert nearest == sorted(nearest)
            apart = [min(abs(i - j) for j in seen) for i in drawn]
            assert call.kind == "onwards" or apart == sorted(apart, reverse=True)
    assert kinds <= set(KINDS)


def test_importance_depends_on_distances_in_time_alone():
    time = np.array([0.0, 0.5, 0.6, 4.0, 4.1])
    assert [*by_importance(time, np.array([1, 0, 0, 0, 1], bool))] == [4, 0, 2, 1, 3]
    assert [*by_importance(time, np.array([1, 1, 1, 0, 0], bool))] == [3, 4, 2, 1, 0]
    assert kind_of(np.array([1, 1, 1], bool)) == "onwards"
