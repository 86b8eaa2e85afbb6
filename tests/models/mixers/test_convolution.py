"""What the convolution alone does; what it shares with the recurrence is in test_recurrence.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxvid.models.mixers import Context, MixerConfig
from jaxvid.models.mixers.convolution import Convolution

B, T, N, D = 2, 6, 2, 4


@pytest.mark.parametrize("frames", [1, T])
@pytest.mark.parametrize("size", [3, 5])
@pytest.mark.parametrize("causal", [True, False])
def test_it_is_a_convolution_by_numpy_of_each_channel_then_a_product(causal, size, frames):
    module = Convolution(MixerConfig(1, 1, jnp.dtype("float32"), causal), size)
    x = jax.random.normal(jax.random.key(0), (B, frames, N, D))
    context = Context(jnp.zeros((B, frames)))
    variables = nn.meta.unbox(jax.jit(module.init)(jax.random.key(1), x, context))
    taps = np.asarray(variables["params"]["taps"])
    assert taps.shape == (size, D)
    assert np.unique(taps).size == taps.size

    # The last tap meets the newest frame, and numpy turns the taps round.
    first = 0 if causal else size // 2
    expected = np.empty(x.shape)
    for b, n, d in np.ndindex(B, N, D):
        whole = np.convolve(x[b, :, n, d], taps[::-1, d])
        expected[b, :, n, d] = whole[first : first + frames]
    expected = expected @ variables["params"]["out"]["kernel"]
    np.testing.assert_allclose(jax.jit(module.apply)(variables, x, context), expected, atol=1e-5)
