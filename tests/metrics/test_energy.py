import math

import numpy as np
import pytest

from jaxvid.metrics.energy import VIEWS, energy, energy_distance


def _between_gaussians(shift: float) -> float:
    """The energy distance of N(0, 1) and N(shift, 1): X - Y is N(shift, 2)."""
    apart = 2 / math.sqrt(math.pi) * math.exp(-(shift**2) / 4) + shift * math.erf(shift / 2)
    return 2 * apart - 4 / math.sqrt(math.pi)


@pytest.mark.parametrize("shift", [0.0, 0.5, 2.0])
def test_energy_distance_of_gaussians_is_the_known_one_and_its_error_the_spread(shift):
    rng = np.random.default_rng(0)
    draws = [
        energy_distance(rng.normal(size=(60, 1)), rng.normal(shift, 1, (90, 1))) for _ in range(300)
    ]
    values, errors = np.array(draws).T
    # Unbiased, so its mean has no error but chance; at 0 half of the estimates are below it.
    assert abs(values.mean() - _between_gaussians(shift)) < 4 * values.std() / math.sqrt(
        len(values)
    )
    ratio = np.sqrt((errors**2).mean()) / values.std()
    assert 0.9 < ratio < (2 if shift == 0 else 1.2)


def test_energy_distance_is_the_sum_over_pairs_and_its_error_the_jackknife():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(4, 2, 3)), rng.normal(0.3, 1, (5, 2, 3))

    def plain(x, y):
        def mean(a, b):
            d = [np.sqrt(((p - q) ** 2).mean()) for p in a for q in b]
            return sum(d) / (len(a) * (len(b) - (a is b)))

        return 2 * mean(x, y) - mean(x, x) - mean(y, y)

    without_x = np.array([plain(np.delete(x, i, 0), y) for i in range(4)])
    without_y = np.array([plain(x, np.delete(y, i, 0)) for i in range(5)])
    value, error = energy_distance(x, y)
    assert value == pytest.approx(plain(x, y))
    assert error**2 == pytest.approx(3 * without_x.var() + 4 * without_y.var())


def test_clips_under_noise_are_further_from_clean_ones_than_pale_clips_are():
    rng = np.random.default_rng(2)

    def clips(brightness=1.0, noise=0.0):
        smooth = brightness * rng.normal(size=(200, 1, 1, 1, 3)) + np.zeros((200, 4, 4, 4, 3))
        return smooth + noise * rng.normal(size=smooth.shape)

    real, pale, noisy = clips(), clips(0.5), clips(0.5, 0.5)
    assert energy_distance(noisy, real)[0] < energy_distance(pale, real)[0]
    assert energy_distance(noisy, real, VIEWS)[0] > 5 * energy_distance(pale, real, VIEWS)[0]
    separately = [energy_distance(view(noisy), view(real))[0] for view in VIEWS]
    assert energy_distance(noisy, real, VIEWS)[0] == pytest.approx(sum(separately))


def test_the_metric_counts_thousandths_of_a_pixels_range_and_knows_equal_clips():
    rng = np.random.default_rng(3)
    grey = rng.integers(0, 128, (40, 3, 4, 4, 3), np.uint8)
    value, error = energy(grey + np.uint8(51), grey)
    exact = energy_distance((grey + 51.0) / 255, grey / 255, VIEWS)
    assert (value, error) == pytest.approx((1000 * exact[0], 1000 * exact[1]))
    assert value > 10 * error > 0
    same = energy(grey[:20], grey[20:])
    assert abs(same[0]) < 4 * same[1]
