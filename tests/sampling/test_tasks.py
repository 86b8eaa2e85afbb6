import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvid.errors import InputError
from jaxvid.sampling.tasks import TASKS, observed_frames, sample_observed

EVEN = dict.fromkeys(TASKS, 1.0)


def draw(shares, batch, frames, seed=0):
    return np.asarray(sample_observed(jax.random.key(seed), shares, batch, frames))


def patterns(observed):
    return {"".join("01"[int(o)] for o in clip) for clip in observed}


def test_each_task_draws_exactly_its_patterns():
    assert patterns(draw({"generate": 1}, 2000, 8)) == {"00000000"}
    assert patterns(draw({"predict": 1}, 2000, 8)) == {
        "10000000", "11000000", "11100000", "11110000",
    }  # fmt: skip
    assert patterns(draw({"interpolate": 1}, 2000, 8)) == {"10000001", "11000011"}
    assert patterns(draw({"random": 1}, 2000, 4)) == {f"{i:04b}" for i in range(15)}


def test_a_plan_observes_what_its_calls_see():
    planned = jnp.asarray(np.random.default_rng(0).random((2000, 8)) < 0.5)
    key, shares = jax.random.key(0), {"generate": 1, "plan": 3}
    observed = np.asarray(sample_observed(key, shares, 2000, 8, planned))
    rows = observed.any(1)
    np.testing.assert_array_equal(observed[rows], planned[rows])
    np.testing.assert_allclose(rows.mean(), 3 / 4, atol=0.03)
    # Without plans, nothing changes.
    np.testing.assert_array_equal(sample_observed(key, EVEN, 2000, 8, planned), draw(EVEN, 2000, 8))


def test_tasks_come_in_proportion_to_their_shares():
    observed = draw({"generate": 1, "predict": 2, "interpolate": 5}, 2000, 8)
    first, last = observed[:, 0], observed[:, -1]
    shares = [np.mean(~first), np.mean(first & ~last), np.mean(first & last)]
    np.testing.assert_allclose(shares, [1 / 8, 2 / 8, 5 / 8], atol=0.03)


def test_tasks_follow_time_whatever_the_order_of_the_frames():
    shares, key = {"generate": 1, "predict": 1, "interpolate": 1}, jax.random.key(0)
    order = np.argsort(np.random.default_rng(0).random((2000, 8)), axis=1)
    moved = np.asarray(sample_observed(key, shares, 2000, 8, order=jnp.asarray(order)))
    np.testing.assert_array_equal(moved, np.take_along_axis(draw(shares, 2000, 8), order, axis=1))


def test_counts_are_uniform():
    predict = draw({"predict": 1}, 2000, 8).sum(1)
    np.testing.assert_allclose(np.bincount(predict, minlength=9)[1:5] / 2000, 1 / 4, atol=0.03)
    random = draw({"random": 1}, 2000, 8)
    np.testing.assert_allclose(np.bincount(random.sum(1)) / 2000, 1 / 8, atol=0.03)
    np.testing.assert_allclose(random.mean(0), 3.5 / 8, atol=0.03)


@pytest.mark.parametrize("frames", [1, 2, 4])
@pytest.mark.parametrize("shares", [EVEN, *({task: 1.0} for task in TASKS)])
def test_something_is_always_unknown(shares, frames):
    observed = draw(shares, 2000, frames)
    assert observed.shape == (2000, frames)
    assert not observed.all(axis=1).any()
    if frames > 2 and shares != {"generate": 1.0}:
        assert observed.any()


def test_a_pure_function_of_the_key_also_under_jit():
    jitted = jax.jit(lambda key: sample_observed(key, EVEN, 2000, 8))(jax.random.key(3))
    np.testing.assert_array_equal(jitted, draw(EVEN, 2000, 8, seed=3))
    assert (draw(EVEN, 2000, 8, seed=4) != draw(EVEN, 2000, 8, seed=3)).any()


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ({"predct": 1.0}, "'predct': did you mean 'predict'"),
        ({"predict": -1.0, "generate": 2.0}, "negative"),
        ({"predict": 0.0}, "above 0"),
        ({}, "above 0"),
    ],
)
def test_bad_shares(shares, message):
    with pytest.raises(InputError, match=message):
        draw(shares, 2, 8)


@pytest.mark.parametrize(
    ("task", "count", "pattern"),
    [
        ("generate", 0, "00000000"),
        ("predict", 1, "10000000"),
        ("predict", 7, "11111110"),
        ("interpolate", 1, "10000001"),
        ("interpolate", 3, "11100111"),
        ("random", 2, "10001000"),
        ("random", 7, "11111110"),
    ],
)
def test_frames_observed_in_sampling(task, count, pattern):
    assert patterns([observed_frames(task, 8, count)]) == {pattern}


def test_a_single_frame_can_only_be_generated():
    assert not observed_frames("generate", 1, 0).any()
    for task in TASKS[1:]:
        with pytest.raises(InputError, match=f"{task}.*unknown"):
            observed_frames(task, 1, 1)


@pytest.mark.parametrize(
    ("task", "count", "message"),
    [
        ("interpolat", 1, "'interpolat': did you mean 'interpolate'"),
        ("zzz", 1, "'zzz': choose one of generate"),
        ("predict", 8, "8 observed frames leaves none"),
        ("interpolate", 4, "4 observed frames at either end"),
        ("random", 9, "fewer"),
        ("predict", 0, "at least 1"),
    ],
)
def test_bad_tasks_and_counts(task, count, message):
    with pytest.raises(InputError, match=message):
        observed_frames(task, 8, count)
