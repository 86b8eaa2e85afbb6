import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvid.diffusion.process import PROCESSES
from jaxvid.diffusion.schedule import SPACINGS, ladder, staggered
from jaxvid.errors import InputError

FLOW = PROCESSES["rectified_flow"]
NONE = np.zeros(3, bool)


@pytest.mark.parametrize("process", PROCESSES.values(), ids=lambda p: p.name)
@pytest.mark.parametrize("spacing", SPACINGS)
def test_levels_fall_strictly_from_exactly_one_to_exactly_zero(process, spacing):
    for steps in (1, 1000):
        levels = np.asarray(ladder(process, steps, spacing))
        assert levels.dtype == np.float32
        assert len(levels) == steps + 1
        assert levels[0] == 1
        assert levels[-1] == 0
        assert (np.diff(levels) < 0).all()


@pytest.mark.parametrize("name", ["rectified_flow", "cosine", "edm"])
@pytest.mark.parametrize(
    ("spacing", "scale"), [("logsnr", np.log), ("karras", lambda k: k ** (1 / 7))]
)
def test_spacing_is_even_in_its_own_quantity(name, spacing, scale):
    process = PROCESSES[name]
    levels = ladder(process, 20, spacing)[1:-1]
    kappa = np.asarray(process.sigma(levels) / process.alpha(levels), np.float64)
    expected = np.linspace(scale(80.0), scale(0.002), 20)[1:]
    np.testing.assert_allclose(scale(kappa), expected, rtol=1e-4, atol=1e-4)


def test_karras_levels_are_even_in_the_time_of_edm_above_its_smallest_sigma():
    levels = np.asarray(ladder(PROCESSES["edm"], 18, "karras"))
    np.testing.assert_allclose(levels[:-1], np.linspace(1, (0.002 / 80) ** (1 / 7), 18), rtol=1e-5)


def test_uniform_levels_also_under_jit():
    np.testing.assert_array_equal(ladder(FLOW, 4), [1, 0.75, 0.5, 0.25, 0])
    jitted = jax.jit(lambda: ladder(FLOW, 9, "karras"))()
    np.testing.assert_allclose(jitted, ladder(FLOW, 9, "karras"), rtol=1e-5)


@pytest.mark.parametrize(
    ("lag", "expected"),
    [
        (0, [[1, 1, 0, 1], [0.5, 0.5, 0, 0.5], [0, 0, 0, 0]]),
        (1, [[1, 1, 0, 1], [0.5, 1, 0, 1], [0, 0.5, 0, 1], [0, 0, 0, 0.5], [0, 0, 0, 0]]),
        (
            2,
            [[1, 1, 0, 1], [0.5, 1, 0, 1], [0, 1, 0, 1], [0, 0.5, 0, 1], [0, 0, 0, 1]]
            + [[0, 0, 0, 0.5], [0, 0, 0, 0]],
        ),
    ],
)
def test_unknown_frames_follow_one_another(lag, expected):
    observed = np.array([False, False, True, False])
    np.testing.assert_array_equal(staggered(ladder(FLOW, 2), observed, lag), expected)


@pytest.mark.parametrize("lag", [0, 1, 3, 5])
def test_every_row_moves_a_frame_and_every_frame_descends_the_whole_ladder(lag):
    levels = ladder(FLOW, 5)
    rows = np.asarray(staggered(levels, np.array([True, False, False, True, False]), lag))
    assert (np.diff(rows, axis=0) != 0).any(1).all()
    for frame in (1, 2, 4):
        np.testing.assert_array_equal(np.unique(rows[:, frame])[::-1], levels)
    assert (rows[:, [0, 3]] == 0).all()


def test_observed_frames_stay_at_their_level():
    observed = np.array([True, False, True])
    rows = staggered(ladder(FLOW, 2), observed, observed_level=0.25)
    np.testing.assert_array_equal(rows, [[0.25, 1, 0.25], [0.25, 0.5, 0.25], [0.25, 0, 0.25]])


def test_bad_settings():
    with pytest.raises(InputError, match="0 steps"):
        ladder(FLOW, 0)
    with pytest.raises(InputError, match=r"'karas'.*uniform, logsnr, karras"):
        ladder(FLOW, 5, "karas")
    for lag in (-1, 5):
        with pytest.raises(InputError, match=f"lag={lag} with 4 steps"):
            staggered(jnp.linspace(1, 0, 5), NONE, lag)
