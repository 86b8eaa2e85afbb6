import math

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from jaxvid.metrics.manifold import coverage, density, precision, recall


def test_clips_on_a_line_have_the_scores_that_one_can_count():
    # With k = 1, the balls are [-1, 1], [0, 2], [1, 3] and [2, 18] around the real clips, and
    # [-0.5, 1.5], [0.5, 2.5] and [-60.5, 0.5] around the drawn ones.
    real, drawn = np.array([[0.0], [1.0], [2.0], [10.0]]), np.array([[0.5], [1.5], [-30.0]])
    assert precision(drawn, real, k=1) == pytest.approx(2 / 3)
    assert recall(drawn, real, k=1) == pytest.approx(3 / 4)
    assert density(drawn, real, k=1) == pytest.approx(4 / 3)
    assert coverage(drawn, real, k=1) == pytest.approx(3 / 4)


@pytest.mark.parametrize(("n", "m"), [(60, 1100), (2100, 50)])
def test_blocks_give_the_scores_of_all_distances_at_once(n, m):
    rng = np.random.default_rng(0)
    # Far from the origin, where squares would round.
    drawn, real = 1e6 + rng.normal(0.5, 1, (n, 3)), 1e6 + rng.normal(size=(m, 3))

    def inside(points, centres, k):
        radii = np.sort(cdist(centres, centres))[:, k]
        return cdist(centres, points) <= radii[:, None]

    assert precision(drawn, real) == inside(drawn, real, 3).any(axis=0).mean()
    assert recall(drawn, real) == inside(real, drawn, 3).any(axis=0).mean()
    assert density(drawn, real) == pytest.approx(inside(drawn, real, 5).sum() / (5 * n))
    assert coverage(drawn, real) == inside(drawn, real, 5).any(axis=1).mean()


def test_density_and_coverage_have_their_known_expectations_for_equal_distributions():
    rng = np.random.default_rng(1)
    n, m, k = 30, 40, 5
    pairs = [(rng.normal(size=(n, 2)), rng.normal(size=(m, 2))) for _ in range(300)]
    missed = math.prod((m - i) / (n + m - i) for i in range(1, k + 1))
    for score, expected in ((density, 1.0), (coverage, 1 - missed)):
        values = [score(drawn, real, k) for drawn, real in pairs]
        assert abs(np.mean(values) - expected) < 4 * np.std(values) / math.sqrt(len(values))


def test_lost_modes_lower_recall_and_coverage_and_noise_lowers_precision_and_density():
    rng = np.random.default_rng(2)
    modes = np.repeat([[0.0, 0.0], [50.0, 0.0]], 200, axis=0)
    real = modes + rng.normal(size=modes.shape)
    one = rng.normal(size=modes.shape)
    noisy = modes + rng.normal(0, 4, modes.shape)
    assert min(precision(one, real), density(one, real)) > 0.9
    assert max(recall(one, real), coverage(one, real)) < 0.55
    assert max(precision(noisy, real), density(noisy, real)) < 0.4
    assert recall(noisy, real) > 0.9


def test_density_and_coverage_withstand_an_outlier_which_precision_does_not():
    rng = np.random.default_rng(3)
    drawn, real = rng.normal(8, 1, (200, 2)), rng.normal(size=(200, 2))
    with_outlier = np.concatenate([real, [[20.0, 20.0]]])
    assert precision(drawn, real) < 0.05
    assert precision(drawn, with_outlier) > 0.95
    assert density(drawn, with_outlier) - density(drawn, real) <= 1 / 5
    assert coverage(drawn, with_outlier) - coverage(drawn, real) <= 1 / 200


def test_too_few_clips_have_no_neighbours():
    x = np.ones((6, 2))
    with pytest.raises(ValueError, match="3 neighbours need at least 4 clips"):
        precision(x, x[:3])
    with pytest.raises(ValueError, match="not 3 and 6"):
        recall(x[:3], x)
    with pytest.raises(ValueError, match="at least 1 clip to lie in them, not 6 and 0"):
        coverage(x[:0], x)
