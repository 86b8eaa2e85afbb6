import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvid.diffusion.guidance import guide
from jaxvid.errors import InputError

X = jax.random.normal(jax.random.key(0), (3, 2, 4, 4, 1))
NOISE = jnp.linspace(0.1, 0.9, 6).reshape(3, 2)
CONDITION = {"label": jnp.array([1.0, 2.0, 3.0]), "text": jnp.ones((3, 5)), "action": None}
NULL = jax.tree.map(jnp.zeros_like, CONDITION)


class Network:
    """Mixes its inputs clip by clip, and remembers the batch sizes it was called with."""

    def __init__(self):
        self.batches = []

    def __call__(self, x, noise, condition):
        self.batches.append(len(x))
        gain = 1 + condition["label"] + condition["text"].sum(1)
        return jnp.sin(x * gain[:, None, None, None, None]) * noise[:, :, None, None, None]


@pytest.mark.parametrize("scale", [0.0, 0.5, 2.0, 7.5])
def test_linear_in_the_scale_and_one_call(scale):
    network = Network()
    guided = guide(network, CONDITION, NULL, scale)(X, NOISE)
    assert network.batches == [6]
    conditional, unconditional = (network(X, NOISE, c) for c in (CONDITION, NULL))
    assert jnp.abs(conditional - unconditional).max() > 0.1
    expected = unconditional + scale * (conditional - unconditional)
    np.testing.assert_allclose(guided, expected, atol=1e-5)


def test_scale_one_is_no_guidance_to_the_last_bit():
    network = Network()
    guided = guide(network, CONDITION, NULL, 1.0)(X, NOISE)
    assert network.batches == [3]
    np.testing.assert_array_equal(guided, network(X, NOISE, CONDITION))


def test_guidance_without_a_condition_changes_nothing():
    network = Network()
    guided = guide(network, NULL, NULL, 3.0)(X, NOISE)
    np.testing.assert_allclose(guided, network(X, NOISE, NULL), atol=1e-6)


def frames(x):
    return x[:, :, None, None, None]


def test_outside_the_interval_nothing_is_guided_frame_by_frame():
    network = Network()
    guided = guide(network, CONDITION, NULL, 4.0, interval=(0.2, 0.6), rescale=0.7)(X, NOISE)
    everywhere = guide(network, CONDITION, NULL, 4.0, rescale=0.7)(X, NOISE)
    conditional = guide(network, CONDITION, NULL, 1.0)(X, NOISE)
    inside = (NOISE >= 0.2) & (NOISE <= 0.6)
    assert 0 < inside.sum() < inside.size
    assert (jnp.abs(everywhere - conditional).max((2, 3, 4)) > 0.01).all()
    np.testing.assert_array_equal(guided, jnp.where(frames(inside), everywhere, conditional))


def test_the_null_costs_nothing_where_no_unknown_frame_is_guided():
    """Had it been computed, in a batch of twice the size, the result would not be finite."""

    def denoise(x, noise, condition):
        return x if len(x) == len(X) else jnp.full_like(x, jnp.nan)

    levels = jnp.array([0.5, 0.9])[None].repeat(len(X), 0)
    for which, computed in ((None, True), (jnp.array([False, True]), False)):
        guided = guide(denoise, (), (), 2.0, interval=(0.4, 0.6), frames=which)
        assert jnp.isnan(guided(X, levels)).any() == computed


@pytest.mark.parametrize("rescale", [0.3, 1.0])
def test_rescaling_moves_the_contrast_of_each_frame_towards_the_conditional_one(rescale):
    network = Network()
    guided = guide(network, CONDITION, NULL, 5.0)(X, NOISE)
    rescaled = guide(network, CONDITION, NULL, 5.0, rescale=rescale)(X, NOISE)
    wanted, before, after = (
        v.std((2, 3, 4)) for v in (network(X, NOISE, CONDITION), guided, rescaled)
    )
    assert (jnp.abs(before / wanted - 1) > 0.05).any()
    np.testing.assert_allclose(after, (1 - rescale) * before + rescale * wanted, rtol=1e-4)
    np.testing.assert_allclose(rescaled / frames(after), guided / frames(before), atol=1e-4)


def test_a_frame_without_contrast_stays_finite():
    flat = guide(lambda x, noise, c: jnp.ones_like(x), CONDITION, NULL, 5.0, rescale=1.0)(X, NOISE)
    np.testing.assert_array_equal(flat, 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"interval": (0.6, 0.2)}, r"\[0\.6, 0\.2\]"),
        ({"interval": (0.1, 80.0)}, r"\[0\.1, 80\.0\].*noise levels"),
        ({"rescale": 1.2}, r"rescale=1\.2"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(InputError, match=message):
        guide(Network(), CONDITION, NULL, 2.0, **settings)
