import numpy as np
import pytest
from scipy.stats import wasserstein_distance

from jaxvid.metrics.wasserstein import wasserstein


def test_it_is_scipys_distance_in_standard_deviations_of_the_mixture():
    rng = np.random.default_rng(0)
    # The second feature has ties, within and between the sets.
    drawn = np.stack([rng.normal(1, 2, 30), rng.integers(0, 4, 30)], axis=1)
    real = np.stack([rng.gamma(2, 1, 70), rng.integers(1, 5, 70)], axis=1)
    expected = [
        wasserstein_distance(x, y) / np.concatenate([np.repeat(x, 7), np.repeat(y, 3)]).std()
        for x, y in zip(drawn.T, real.T, strict=True)
    ]
    assert wasserstein(drawn, real) == pytest.approx(np.mean(expected))
    assert wasserstein(real, drawn) == pytest.approx(np.mean(expected))
    for i in range(2):
        assert wasserstein(drawn[:, i : i + 1], real[:, i : i + 1]) == pytest.approx(expected[i])


def test_it_grows_with_shift_and_scale_up_to_2_whatever_the_units():
    rng = np.random.default_rng(1)
    real = rng.normal(size=(300, 2))
    shifted = [wasserstein(real + shift, real) for shift in (0.0, 0.1, 1.0, 10.0, 1e6)]
    scaled = [wasserstein(real * scale, real) for scale in (1.0, 1.5, 3.0, 30.0)]
    assert shifted[0] == scaled[0] == 0
    assert (np.diff(shifted) > 0).all()
    assert (np.diff(scaled) > 0).all()
    assert shifted[1] == pytest.approx(0.1, rel=0.1)
    assert shifted[-1] == pytest.approx(2)
    units = np.array([1e-6, 1e6])
    drawn = rng.normal(0.5, 2, (200, 2))
    assert wasserstein(drawn * units, real * units) == pytest.approx(wasserstein(drawn, real))


def test_constant_features_count_as_0_if_equal_and_as_2_if_not():
    still, moved = np.zeros((5, 3)), np.tile([0.0, 7.0, 0.0], (4, 1))
    assert wasserstein(still, still) == 0
    assert wasserstein(moved, still) == pytest.approx(2 / 3)


def test_a_single_clip_has_no_spread():
    x = np.ones((3, 2))
    with pytest.raises(ValueError, match="at least 2 drawn and 2 real clips, not 1 and 3"):
        wasserstein(x[:1], x)
    with pytest.raises(ValueError, match="at least 2 drawn and 2 real clips, not 3 and 1"):
        wasserstein(x, x[:1])
