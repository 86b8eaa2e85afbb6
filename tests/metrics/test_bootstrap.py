import math

import numpy as np
import pytest

from jaxvid.metrics.bootstrap import bootstrap
from jaxvid.metrics.frechet import frechet_distance
from jaxvid.metrics.manifold import precision
from jaxvid.metrics.mmd import mmd


def mean(drawn, real):
    return float(drawn.mean() - real.mean())


def _simulate(score, shift):
    """The error in units of the true one, and the share of intervals that hold the mean score."""
    rng = np.random.default_rng(0)

    def sets():
        return shift + rng.uniform(-1, 1, (50, 2)), rng.uniform(-1, 1, (70, 2))

    intervals = np.array([bootstrap(score, *sets(), seed, draws=30) for seed in range(80)])
    values = np.array([score(*sets()) for _ in range(300)])
    error, low, high = intervals.T
    ratio = np.sqrt((error**2).mean()) / values.std()
    return ratio, ((low < values.mean()) & (values.mean() < high)).mean()


@pytest.mark.parametrize("score", [mean, frechet_distance, mmd, precision])
def test_intervals_cover_the_expected_score_at_their_rate(score):
    ratio, covered = _simulate(score, shift=0.5)
    assert 0.85 < ratio < 1.3
    assert covered > 0.87


@pytest.mark.parametrize("score", [frechet_distance, mmd, precision])
def test_intervals_are_not_too_narrow_for_equal_distributions(score):
    ratio, covered = _simulate(score, shift=0.0)
    assert 1 < ratio < 2
    assert covered > 0.93


def test_the_error_of_a_mean_is_the_known_one_and_both_sets_add_to_it():
    rng = np.random.default_rng(1)
    drawn, real = rng.normal(0, 3, 40), rng.normal(5, 1, 10)
    error, low, high = bootstrap(mean, drawn, real, seed=0, draws=5000)
    expected = math.sqrt(drawn.var(ddof=1) / 40 + real.var(ddof=1) / 10)
    assert error == pytest.approx(expected, rel=0.04)
    assert (low + high) / 2 == pytest.approx(mean(drawn, real))
    assert (high - low) / 2 == pytest.approx(1.96 * error)


def test_halves_repeat_no_clip_and_depend_only_on_the_seed():
    drawn, real = np.arange(21).reshape(21, 1, 1), np.arange(10).reshape(10, 1, 1)
    sizes = []

    def count(a, b):
        sizes.append((len(np.unique(a)), len(np.unique(b))))
        return mean(a, b)

    first = bootstrap(count, drawn, real, seed=3, draws=20)
    assert sorted(set(sizes)) == [(10, 5), (21, 10)]
    assert first == bootstrap(mean, drawn, real, seed=3, draws=20)
    assert first[0] != bootstrap(mean, drawn, real, seed=4, draws=20)[0]


def test_a_single_clip_has_no_halves():
    x = np.ones((3, 2))
    with pytest.raises(ValueError, match="at least 2 drawn and 2 real clips, not 1 and 3"):
        bootstrap(mean, x[:1], x, seed=0)
