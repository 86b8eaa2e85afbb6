import math

import numpy as np
import pytest

from jaxvid.metrics.mmd import mmd


def test_it_is_the_mean_over_pairs_of_different_clips():
    rng = np.random.default_rng(0)
    drawn, real = rng.normal(0.3, 1, (5, 3)), rng.normal(size=(4, 3))

    def mean(a, b):
        pairs = [(p, q) for i, p in enumerate(a) for j, q in enumerate(b) if a is not b or i != j]
        return sum((p @ q / 3 + 1) ** 3 for p, q in pairs) / len(pairs)

    expected = mean(drawn, drawn) + mean(real, real) - 2 * mean(drawn, real)
    assert mmd(drawn, real) == pytest.approx(expected)


def test_many_clips_are_compared_in_blocks_with_the_same_result():
    rng = np.random.default_rng(1)
    drawn, real = rng.normal(size=(1100, 2)), rng.normal(1, 1, (2100, 2))
    kxx, kyy, kxy = (
        (a @ b.T / 2 + 1) ** 3 for a, b in ((drawn, drawn), (real, real), (drawn, real))
    )
    among = [(k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)) for k in (kxx, kyy)]
    assert mmd(drawn, real) == pytest.approx(sum(among) - 2 * kxy.mean())


@pytest.mark.parametrize(
    ("draw", "moments"),
    [
        (lambda rng, n: rng.normal(size=n), np.array([0.0, 1.0, 0.0])),
        (lambda rng, n: rng.normal(0.5, 1, n), np.array([0.5, 1.25, 1.625])),
        (lambda rng, n: rng.exponential(size=n) - 1, np.array([0.0, 1.0, 2.0])),
    ],
)
def test_it_has_no_bias_and_sees_three_moments(draw, moments):
    rng = np.random.default_rng(2)
    values = [mmd(draw(rng, 40)[:, None], rng.normal(size=(60, 1))) for _ in range(500)]
    # (x y + 1)^3 = 1 + 3 x y + 3 x^2 y^2 + x^3 y^3.
    expected = np.array([3.0, 3.0, 1.0]) @ (moments - np.array([0.0, 1.0, 0.0])) ** 2
    assert abs(np.mean(values) - expected) < 4 * np.std(values) / math.sqrt(len(values))


def test_a_single_clip_forms_no_pair():
    x = np.ones((3, 2))
    with pytest.raises(ValueError, match="to form pairs, not 1 and 3"):
        mmd(x[:1], x)
    with pytest.raises(ValueError, match="to form pairs, not 3 and 1"):
        mmd(x, x[:1])
