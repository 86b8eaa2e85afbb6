import numpy as np
import pytest

from jaxvid.metrics.best_of import best_of


def test_the_best_prediction_of_a_clip_is_that_of_the_best_mean_and_gives_its_whole_curve():
    first = [[9.0, 1.0], [4.0, 4.0]]  # each clip's frames
    second = [[6.0, 6.0], [2.0, 3.0]]  # better for the first clip, though not in its first frame
    found = best_of(np.array([first, second]), higher_is_better=True)
    np.testing.assert_allclose(found.curve, [5, 5])
    np.testing.assert_allclose(found.curve_error, [1, 1])  # of 6 and 4: sqrt(2) / sqrt(2)
    assert (found.mean, found.error) == pytest.approx((5, 1))
    found = best_of(np.array([first, second]), higher_is_better=False)
    np.testing.assert_allclose(found.curve, [5.5, 2])
    np.testing.assert_allclose(found.curve_error, [3.5, 1])  # of 9 and 2, and of 1 and 3
    assert (found.mean, found.error) == pytest.approx((3.75, 1.25))  # of 5 and 2.5


def test_more_predictions_are_never_worse_and_their_order_does_not_matter():
    scores = np.random.default_rng(0).normal(size=(10, 5, 4))
    means = [best_of(scores[:k], higher_is_better=True).mean for k in (1, 2, 4, 10)]
    assert means[0] == pytest.approx(scores[0].mean())
    assert means == sorted(means)
    assert means[-1] > means[0]
    assert best_of(scores[::-1], higher_is_better=True).mean == pytest.approx(means[-1])
    assert best_of(-scores, higher_is_better=False).mean == pytest.approx(-means[-1])


def test_errors_are_the_spread_of_the_means_of_other_clips():
    draws = np.random.default_rng(1).gumbel(size=(400, 3, 30, 2))
    found = [best_of(scores, higher_is_better=True) for scores in draws]
    spread = np.std([f.curve for f in found], axis=0), np.std([f.mean for f in found])
    np.testing.assert_allclose(np.mean([f.curve_error for f in found], axis=0), spread[0], rtol=0.1)
    assert np.mean([f.error for f in found]) == pytest.approx(spread[1], rel=0.1)
