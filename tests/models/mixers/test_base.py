"""How a word is added from outside: one import, one decorated class."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxvid.config import POSITIVE
from jaxvid.errors import InputError
from jaxvid.models.mixers import MIXERS, MixerConfig, argument, mixer
from jaxvid.models.transformer import SpaceTimeTransformer


@pytest.fixture(autouse=True)
def no_trace():
    before = dict(MIXERS)
    yield
    MIXERS.clear()
    MIXERS.update(before)


def shift():
    @mixer("shift")
    class Shift(nn.Module):
        """Each frame takes the place of the one `frames` later."""

        config: MixerConfig
        frames: int = argument(1, POSITIVE)
        scale: float = 1.0

        def __call__(self, x, context):
            return self.scale * jnp.roll(x, self.frames, axis=1)

    return Shift


def changed_frames(blocks):
    """The frames of the output that change with frame 1 of the input."""
    net = SpaceTimeTransformer(blocks, depth=1, width=16, heads=2, patch=(1, 4, 4))
    video, level = jnp.zeros((1, 4, 4, 4, 3)), jnp.zeros((1, 4))
    variables = jax.eval_shape(net.init, jax.random.key(0), video, level, level)
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda x: rng.normal(size=x.shape), nn.meta.unbox(variables))
    apply = jax.jit(net.apply)
    out = [apply(variables, v, level, level) for v in (video, video.at[:, 1].set(1.0))]
    return np.flatnonzero(np.any(out[0] != out[1], axis=(0, 2, 3, 4)))


def test_a_word_is_added_by_one_class_whose_fields_are_its_arguments():
    with pytest.raises(InputError, match="unknown word 'shift'"):
        changed_frames("shift")
    shift()
    assert changed_frames("shift").tolist() == [1, 2]
    assert changed_frames("shift(frames=2)").tolist() == [1, 3]
    assert changed_frames("shift(2, scale=0)").tolist() == [1]
    with pytest.raises(InputError, match="'frames' must be an integer of at least 1"):
        changed_frames("shift(0)")
    with pytest.raises(InputError, match="'scale' must be a number"):
        changed_frames("shift(scale='much')")


def test_a_word_belongs_to_one_class():
    shift()
    shift()  # the same class, imported again
    with pytest.raises(ValueError, match=r"'space' is .*attention\.Space already"):
        mixer("space")(MIXERS["shift"])
    assert MIXERS["space"].__name__ == "Space"


@pytest.mark.parametrize("word", ["", "two words", "3d", "a+b", "f("])
def test_a_word_must_be_readable(word):
    with pytest.raises(ValueError, match="letters, digits"):
        mixer(word)


def test_a_field_that_cannot_be_checked_is_refused_at_registration():
    class Sized(nn.Module):
        config: MixerConfig
        sizes: tuple[int, ...] = (1, 2)

    with pytest.raises(TypeError, match=r"Sized\.sizes.* argument\(default, rule\)"):
        mixer("sized")(Sized)
    assert "sized" not in MIXERS
