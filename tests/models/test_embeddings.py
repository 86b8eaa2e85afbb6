import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvid.models import embeddings
from jaxvid.models.attention import attention


@pytest.mark.parametrize("patch", [(1, 2, 4), (2, 4, 2)])
def test_unpatchify_inverts_patchify_and_a_patch_is_one_block_of_pixels(patch):
    video = jax.random.normal(jax.random.key(0), (2, 4, 8, 8, 3))
    patches = embeddings.patchify(video, patch)
    np.testing.assert_array_equal(embeddings.unpatchify(patches, patch, (8, 8)), video)
    p, q, r = patch
    second = video[:, :p, :q, r : 2 * r].reshape(2, -1)
    np.testing.assert_array_equal(patches[:, 0, 1], second)


def test_rotary_scores_depend_on_differences_of_coordinates_only():
    q, k = jax.random.normal(jax.random.key(0), (2, 1, 3, 4, 1, 16))
    seconds = jnp.array([[0.0, 0.3, 1.0]])
    place = embeddings.grid(2, 2)

    def scores(seconds, place):
        turn = embeddings.rotary(16, seconds, place)
        turned = [embeddings.rotate(x, turn) for x in (q, k)]
        return jnp.einsum("btnkh,bsmkh->btnsm", *turned)

    moved = scores(seconds + 5.0, place + jnp.array([2.0, -3.0]))
    np.testing.assert_allclose(scores(seconds, place), moved, atol=2e-5)
    assert not np.allclose(scores(seconds, place), scores(2 * seconds, place), atol=1e-2)


def test_frames_and_places_have_distinct_angles():
    turn = embeddings.rotary(16, jnp.arange(8.0)[None] / 30, embeddings.grid(8, 8))
    flat = np.moveaxis(np.asarray(turn)[:, 0], 0, -1).reshape(8 * 64, -1)
    distance = np.abs(flat[:, None] - flat[None]).max(-1) + np.eye(len(flat))
    assert distance.min() > 0.1


def test_attention_is_that_of_jax():
    q, k, v = jax.random.normal(jax.random.key(0), (3, 2, 5, 4, 8))
    np.testing.assert_allclose(
        attention(q, k, v), jax.nn.dot_product_attention(q, k, v), rtol=1e-5, atol=1e-6
    )
