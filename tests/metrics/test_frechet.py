import math

import numpy as np
import pytest
import scipy.linalg

from jaxvid.metrics.frechet import Moments, frechet_distance, frechet_of_moments


def _features(rng, mean, root, n=50):
    """Features whose mean and covariance root^T root are exact."""
    rank, d = np.shape(root)
    x = rng.normal(size=(n, rank))
    white = np.linalg.qr(x - x.mean(axis=0))[0] * math.sqrt(n - 1)
    return np.broadcast_to(mean, (n, d)) + white @ root


def test_it_is_the_distance_by_scipys_matrix_root():
    rng = np.random.default_rng(0)
    mix = rng.normal(size=(12, 12))
    drawn, real = rng.normal(0.3, 2, (40, 12)) @ mix, rng.normal(size=(70, 12))
    s1, s2 = np.cov(drawn.T), np.cov(real.T)
    gap = drawn.mean(axis=0) - real.mean(axis=0)
    expected = gap @ gap + np.trace(s1 + s2 - 2 * scipy.linalg.sqrtm(s1 @ s2).real)
    assert frechet_distance(drawn, real) == pytest.approx(expected)
    assert frechet_distance(real, drawn) == pytest.approx(expected)
    single = frechet_distance(drawn.astype(np.float32), real.astype(np.float32))
    assert single == pytest.approx(expected, rel=1e-5)


def test_it_is_the_known_distance_of_gaussians():
    rng = np.random.default_rng(1)
    # Of covariances that commute, the square of the differences of the standard deviations.
    drawn = _features(rng, [1.0, 0.0, -2.0], np.diag([1.0, 2.0, 3.0]))
    real = _features(rng, 0.0, np.diag([2.0, 2.0, 0.5]))
    assert frechet_distance(drawn, real) == pytest.approx(1 + 4 + 1 + 0 + 2.5**2)
    # Of two features, tr M^(1/2) = (tr M + 2 det(M)^(1/2))^(1/2).
    a, b = np.array([[1.0, 2.0], [0.0, 1.0]]), np.array([[1.0, 0.0], [-1.0, 3.0]])
    s1, s2 = a.T @ a, b.T @ b
    overlap = math.sqrt(np.trace(s1 @ s2) + 2 * math.sqrt(np.linalg.det(s1 @ s2)))
    value = frechet_distance(_features(rng, 0.0, a), _features(rng, 0.0, b))
    assert value == pytest.approx(np.trace(s1 + s2) - 2 * overlap)


def test_it_is_the_known_distance_on_lines_where_covariances_have_no_inverse():
    rng = np.random.default_rng(2)
    u, v = np.array([[3.0, 4.0, 0.0]]), np.array([[2.0, 0.0, 0.0]])
    value = frechet_distance(_features(rng, 0.0, u), _features(rng, 1.0, v))
    assert value == pytest.approx(3 + 25 + 4 - 2 * 6)


def test_it_holds_for_fewer_clips_than_features():
    rng = np.random.default_rng(3)
    drawn, real = rng.normal(size=(8, 30)), rng.normal(0.2, 1.5, (12, 30))
    s1, s2 = np.cov(drawn.T), np.cov(real.T)
    values, vectors = np.linalg.eigh(s1)
    root = vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T
    overlap = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ s2 @ root), 0)).sum()
    gap = drawn.mean(axis=0) - real.mean(axis=0)
    expected = gap @ gap + np.trace(s1) + np.trace(s2) - 2 * overlap
    assert frechet_distance(drawn, real) == pytest.approx(expected)
    assert 0 <= frechet_distance(real, real[::-1]) < 1e-10


def test_moments_of_shards_add_up_to_those_of_all_rows():
    rng = np.random.default_rng(4)
    spread = np.array([1e-3, 1.0, 10.0, 1e-3])
    x, y = 1e3 + spread * rng.normal(size=(60, 4)), 1e3 + 2 * spread * rng.normal(size=(50, 4))
    merged = Moments.of(x[:1]) + Moments.of(x[1:3])
    for start in range(3, 60, 19):
        merged += Moments.of(x[start : start + 19])
    assert merged.count == 60
    np.testing.assert_allclose(merged.mean, x.mean(axis=0), rtol=1e-13)
    covariance = merged.root.T @ merged.root / 59
    np.testing.assert_allclose(covariance, np.cov(x.T), rtol=1e-6, atol=1e-12)
    assert len(merged.root) == 4
    assert frechet_of_moments(merged, Moments.of(y)) == pytest.approx(frechet_distance(x, y))


def test_a_single_clip_has_no_covariance():
    x = np.ones((3, 2))
    with pytest.raises(ValueError, match="at least 2 drawn and 2 real clips"):
        frechet_distance(x[:1], x)
    with pytest.raises(ValueError, match="not 3 and 1"):
        frechet_distance(x, x[:1])
