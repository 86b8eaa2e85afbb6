import jax
import jax.numpy as jnp
import numpy as np

from jaxvid.models.conditioning import concat_channels


def test_channels_lie_behind_the_video_in_their_place():
    video = jax.random.normal(jax.random.key(0), (4, 6, 8, 8, 3))
    ramp = jnp.broadcast_to(jnp.arange(4.0)[:, None], (4, 6, 4, 4))[..., None]
    out = concat_channels(video, ramp)
    assert out.shape == (4, 6, 8, 8, 4)
    np.testing.assert_array_equal(out[..., :3], video)
    rows = np.asarray(out[0, 0, :, :, 3])
    np.testing.assert_array_equal(rows, rows[:, :1].repeat(8, axis=1))
    np.testing.assert_allclose(rows[:, 0], [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3])
