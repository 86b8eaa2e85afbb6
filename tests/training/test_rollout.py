import jax
import numpy as np
import pytest

from jaxvid.errors import InputError
from jaxvid.training import sampling
from jaxvid.training.optimizer import make_optimizer
from jaxvid.training.rollout import rollout
from jaxvid.training.state import make_init, make_network


@pytest.mark.parametrize("causal", [False, True])
def test_a_longer_video_begins_as_a_shorter_one_and_keeps_what_was_given(
    config, one_device_mesh, causal
):
    config.model.update(causal=causal, blocks="space+time recur mlp", depth=1)
    mesh, net = one_device_mesh, make_network(config)
    init, _ = make_init(config, net, make_optimizer(config), mesh)
    rng = np.random.default_rng(0)
    clips = sampling.blank_clips(config, 2, mesh)
    clips["video"][:] = rng.integers(0, 256, clips["video"].shape)
    with jax.set_mesh(mesh):
        params = jax.tree.map(
            lambda x: x + 0.1 * rng.normal(size=x.shape).astype(x.dtype), init().params
        )

        def roll(frames, clips=clips, overlap=2):
            key = jax.random.key(0)
            return rollout(config, net, mesh, params, key, clips, 1, frames, overlap)

        nine = roll(9)
        assert nine.shape == (2, 9, 8, 8, 3)
        np.testing.assert_array_equal(nine[:, :1], clips["video"][:, :1])
        np.testing.assert_array_equal(roll(5), nine[:, :5])
        other = roll(5, clips | {"video": 255 - clips["video"]})
        assert (other[:, 1:] != nine[:, 1:5]).any(axis=(2, 3, 4)).all()
        with pytest.raises(InputError, match="from 1 to 3"):
            roll(5, overlap=4)
