import statistics

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvid.diffusion.noise import DISTRIBUTIONS, sample_noise
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


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_levels_stay_between_low_and_one(distribution):
    noise = sample_noise(jax.random.key(1), (100_000,), distribution, std=30.0, low=0.02)
    assert noise.min() >= 0.02
    assert noise.max() <= 1
    assert noise.min() < 0.03
    assert noise.max() > 0.99


@pytest.mark.parametrize(
    ("distribution", "settings", "message"),
    [
        ("normal", {}, "'normal'.*logit_normal"),
        ("uniform", {"low": 1.0}, r"1\.0.*\[0, 1\)"),
        ("logit_normal", {"std": -1.0}, "-1.0.*negative"),
    ],
)
def test_bad_settings(distribution, settings, message):
    with pytest.raises(InputError, match=message):
        sample_noise(jax.random.key(0), (2,), distribution, **settings)
