import dataclasses
import math

import numpy as np
import pytest

from jaxvid.metrics.energy import VIEWS, distances, energy_distance
from jaxvid.metrics.metric import METRICS
from jaxvid.metrics.score import measure


def _between_gaussians(shift: float) -> float:
    """The energy distance of N(0, 1) and N(shift, 1): X - Y is N(shift, 2)."""
    apart = 2 / math.sqrt(math.pi) * math.exp(-(shift**2) / 4) + shift * math.erf(shift / 2)
    return 2 * apart - 4 / math.sqrt(math.pi)


@pytest.mark.parametrize("shift", [0.0, 0.5, 2.0])
def test_energy_distance_of_gaussians_is_the_known_one(shift):
    rng = np.random.default_rng(0)
    values = np.array(
        [
            energy_distance(rng.normal(size=(60, 1)), rng.normal(shift, 1, (90, 1)))
            for _ in range(300)
        ]
    )
    # Unbiased, so its mean has no error but chance; at 0 half of the estimates are below it.
    error = values.std() / math.sqrt(len(values))
    assert abs(values.mean() - _between_gaussians(shift)) < 4 * error


def test_energy_distance_is_the_sum_over_pairs():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(4, 2, 3)), rng.normal(0.3, 1, (5, 2, 3))

    def mean(a, b):
        d = [np.sqrt(((p - q) ** 2).mean()) for p in a for q in b]
        return sum(d) / (len(a) * (len(b) - (a is b)))

    assert energy_distance(x, y) == pytest.approx(2 * mean(x, y) - mean(x, x) - mean(y, y))


def test_clips_under_noise_are_further_from_clean_ones_than_pale_clips_are():
    rng = np.random.default_rng(2)

    def clips(brightness=1.0, noise=0.0):
        smooth = brightness * rng.normal(size=(200, 1, 1, 1, 3)) + np.zeros((200, 4, 4, 4, 3))
        return smooth + noise * rng.normal(size=smooth.shape)

    real, pale, noisy = clips(), clips(0.5), clips(0.5, 0.5)
    assert energy_distance(noisy, real) < energy_distance(pale, real)
    assert energy_distance(noisy, real, VIEWS) > 5 * energy_distance(pale, real, VIEWS)
    separately = [energy_distance(view(noisy), view(real)) for view in VIEWS]
    assert energy_distance(noisy, real, VIEWS) == pytest.approx(sum(separately))


def test_the_metric_counts_thousandths_of_a_pixels_range_and_knows_equal_clips():
    rng = np.random.default_rng(3)
    grey = rng.integers(0, 128, (40, 3, 4, 4, 3), np.uint8)
    lighter = measure(METRICS["energy"], grey + np.uint8(51), grey, seed=0)
    exact = energy_distance((grey + 51.0) / 255, grey / 255, VIEWS)
    assert lighter["value"] == pytest.approx(1000 * exact)
    assert lighter["value"] > 10 * lighter["error"] > 0
    same = measure(METRICS["energy"], grey[:20], grey[20:], seed=0)
    assert abs(same["value"]) < 4 * same["error"]


def test_the_error_from_the_table_of_pairs_is_that_of_the_clips_themselves():
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(12, 3)), rng.normal(1, 1, (16, 3))
    of_pairs = dataclasses.replace(METRICS["energy"], table=distances)
    of_clips = dataclasses.replace(of_pairs, table=None, compare=energy_distance)
    a, b = (measure(metric, x, y, seed=0) for metric in (of_pairs, of_clips))
    assert (a["value"], a["error"]) == pytest.approx((b["value"], b["error"]))
