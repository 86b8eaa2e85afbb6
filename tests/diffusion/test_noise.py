import functools
import statistics

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvid.diffusion.noise import DISTRIBUTIONS, resolution_shift, sample_noise, shift
from jaxvid.errors import InputError

LEVELS = [0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99]


def quantiles(distribution, **settings):
    noise = sample_noise(jax.random.key(0), (400, 500), distribution, **settings)
    assert noise.dtype == jnp.float32
    return np.quantile(noise, LEVELS)


@pytest.mark.parametrize("low", [0.0, 0.2])
@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (-0.8, 0.5), (1.0, 2.0)])
def test_logit_normal_quantiles(mean, std, low):
    normal = statistics.NormalDist(mean, std)
    expected = [1 / (1 + np.exp(-normal.inv_cdf(level))) for level in LEVELS]
    found = quantiles("logit_normal", mean=mean, std=std, low=low)
    np.testing.assert_allclose(found, low + (1 - low) * np.array(expected), atol=5e-3)


@pytest.mark.parametrize("low", [0.0, 0.2])
def test_uniform_quantiles(low):
    found = quantiles("uniform", low=low)
    np.testing.assert_allclose(found, low + (1 - low) * np.array(LEVELS), atol=5e-3)


@pytest.mark.parametrize(("mean", "std"), [(-1.2, 1.2), (0.5, 0.3)])
def test_edm_quantiles(mean, std):
    sigma = np.exp([statistics.NormalDist(mean, std).inv_cdf(level) for level in LEVELS])
    found = quantiles("edm", mean=mean, std=std)
    np.testing.assert_allclose(80 * found**7, sigma, rtol=0.03)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_levels_stay_between_low_and_one(distribution):
    noise = sample_noise(jax.random.key(1), (100_000,), distribution, std=30.0, low=0.02)
    assert noise.min() >= 0.02
    assert noise.max() <= 1
    assert noise.min() < 0.03
    assert noise.max() > 0.99


@pytest.mark.parametrize("shape", [(256, 1), (256, 5)])
def test_stratified_has_one_clip_in_every_interval_in_random_order(shape):
    draws = [
        np.asarray(sample_noise(jax.random.key(seed), shape, "uniform", stratified=True))
        for seed in (0, 1)
    ]
    for u in draws:
        strata, index = np.floor(u * 256), np.arange(256)[:, None]
        np.testing.assert_array_equal(np.sort(strata, axis=0), np.broadcast_to(index, shape))
        correlation = np.corrcoef(np.concatenate([strata, index], axis=1).T)
        assert np.abs(correlation - np.eye(shape[1] + 1)).max() < 0.25
    assert (draws[0] != draws[1]).all()


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_stratified_levels_have_the_same_distribution(distribution):
    settings = dict(mean=-0.4, std=1.3, low=0.1)
    keys = jax.random.split(jax.random.key(2), 20_000)

    def draw(stratified):
        one = functools.partial(sample_noise, stratified=stratified, **settings)
        return jax.vmap(lambda key: one(key, (4, 2), distribution))(keys)

    found = [draw(False), draw(True)]
    for clip in range(4):
        plain, stratified = (np.quantile(t[:, clip], LEVELS) for t in found)
        np.testing.assert_allclose(stratified, plain, atol=0.015)
    plain, stratified = (t.mean(axis=(1, 2)).std() for t in found)
    assert stratified < 0.5 * plain


def test_a_level_per_clip_or_per_frame():
    clip, frame = (sample_noise(jax.random.key(0), (8, n), "uniform") for n in (1, 6))
    assert clip.shape == (8, 1)
    assert len(np.unique(frame)) == 8 * 6


def test_shift_is_monotone_fixes_the_ends_and_composes():
    t = jnp.linspace(0, 1, 1001)
    for s in (0.3, 1, 2.5, 40):
        shifted = shift(t, s)
        np.testing.assert_array_equal(shifted[jnp.array([0, -1])], [0, 1])
        assert (np.diff(shifted) > 0).all()
        exact = np.float64(t)
        np.testing.assert_allclose(shifted, s * exact / (1 + (s - 1) * exact), rtol=1e-6)
        np.testing.assert_allclose(shift(shifted, 3), shift(t, 3 * s), rtol=1e-6)
    np.testing.assert_allclose(shift(t, 1), t, rtol=1e-6)


def test_resolution_shift():
    assert resolution_shift((16, 32, 32), 16 * 32 * 32) == 1
    assert resolution_shift((16, 64, 64), 16 * 32 * 32) == 2
    assert resolution_shift((64, 32, 32), 16 * 32 * 32) == 2


def test_bad_shifts():
    with pytest.raises(InputError, match=r"-1.*above 0"):
        shift(jnp.zeros(2), -1)
    with pytest.raises(InputError, match=r"reference of 0 pixels.*above 0"):
        resolution_shift((16, 32, 32), 0)


@pytest.mark.parametrize(
    ("distribution", "settings", "message"),
    [
        ("normal", {}, "'normal'.*logit_normal"),
        ("uniform", {"low": 1.0}, r"1\.0.*\[0, 1\)"),
        ("logit_normal", {"std": -1.0}, "std=-1.0.*at least 0"),
    ],
)
def test_bad_settings(distribution, settings, message):
    with pytest.raises(InputError, match=message):
        sample_noise(jax.random.key(0), (2,), distribution, **settings)
