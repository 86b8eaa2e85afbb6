import jax.numpy as jnp
import numpy as np

from jaxvid.data.pixels import to_float, to_uint8


def test_every_byte_comes_back_from_an_even_spread_over_minus_one_to_one():
    pixels = jnp.tile(jnp.arange(256, dtype=jnp.uint8)[:, None], (1, 3))
    floats = to_float(pixels)
    np.testing.assert_allclose(floats[:, 0], np.linspace(-1, 1, 256), atol=1e-6)
    np.testing.assert_array_equal(to_uint8(floats), pixels)


def test_what_lies_outside_is_clipped_and_what_lies_between_is_rounded():
    floats = jnp.array([[-7.0, 7.0, -1 + 1.4 / 127.5], [jnp.inf, -jnp.inf, -1 + 1.6 / 127.5]])
    np.testing.assert_array_equal(to_uint8(floats), [[0, 255, 1], [255, 0, 2]])
