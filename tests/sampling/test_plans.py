import jax
import numpy as np
import pytest

from jaxvid.errors import InputError
from jaxvid.sampling import draw as sampling
from jaxvid.sampling.plans import rollout
from jaxvid.training.optimizer import make_optimizer
from jaxvid.training.state import make_init, make_network


@pytest.mark.parametrize("causal", [False, True])
def test_a_longer_video_begins_as_a_shorter_one_and_keeps_what_was_given(
    config, one_device_mesh, causal
):
    config.data.update(action_dim=2, low_res=2)
    config.model.update(causal=causal, blocks="space+time recur mlp", depth=1)
    mesh, net = one_device_mesh, make_network(config)
    init, _ = make_init(config, net, make_optimizer(config), mesh)
    rng = np.random.default_rng(0)
    clips = sampling.blank_clips(config, 4, mesh)
    clips["video"][:] = rng.integers(0, 256, clips["video"].shape)
    clips |= {
        "action": rng.normal(size=(4, 7, 2)).astype(np.float32),
        "action_mask": np.ones((4, 7), bool),
        "low_res": rng.integers(0, 256, (4, 9, 4, 4, 3), np.uint8),
    }
    with jax.set_mesh(mesh):
        params = jax.tree.map(
            lambda x: x + 0.1 * rng.normal(size=x.shape).astype(x.dtype), init().params
        )

        def roll(frames, clips=clips, overlap=2):
            key = jax.random.key(0)
            return rollout(config, net, mesh, params, key, clips, 1, frames, overlap)

        nine = roll(9)
        assert nine.shape == (4, 9, 8, 8, 3)
        np.testing.assert_array_equal(nine[:, :1], clips["video"][:, :1])
        np.testing.assert_array_equal(roll(5), nine[:, :5])

        # Actions that are masked are as good as none. Then of clips 1 to 3 something is changed:
        # an action, a frame of low-resolution video, the frames to start from.
        other = {name: x.copy() for name, x in clips.items()}
        other["action"] = np.pad(clips["action"], ((0, 0), (0, 2), (0, 0)), constant_values=5)
        other["action_mask"] = np.pad(clips["action_mask"], ((0, 0), (0, 2)))
        other["action"][1, 6] += 5
        other["low_res"][2, 6] ^= 255
        other["video"][3] ^= 255
        changed = (roll(9, other) != nine).any(axis=(2, 3, 4))
        assert not changed[0].any()
        assert not changed[1:3, :6].any()
        assert changed[1:3, 6].all()
        assert changed[3].all()
        with pytest.raises(InputError, match="from 1 to 3"):
            roll(5, overlap=4)

        # Where what is seen again is all noise, what was given decides nothing.
        config.sampler.observed_noise = 1.0
        np.testing.assert_array_equal(
            roll(9)[:, 1:], roll(9, clips | {"video": other["video"]})[:, 1:]
        )
