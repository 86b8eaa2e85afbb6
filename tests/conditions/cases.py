"""One condition of each kind, clips that have them, and a network that does nothing else."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxvid.conditions import condition
from jaxvid.conditions.action import Action
from jaxvid.conditions.label import Label
from jaxvid.conditions.low_res import LowRes
from jaxvid.conditions.text import Text
from jaxvid.models.conditioning import Setting

B, T, L, E, A, D = 4, 6, 10, 5, 2, 16
LABEL = Label(3, ("circle", "square", "triangle"))
TEXT = Text(L, depth=1)
EMBEDDED = Text(L, dim=E)
ACTION = Action(A)
LOW_RES = LowRes(2, size=(4, 4), fps=8.0, process="rectified_flow")
ALL = (LABEL, TEXT, ACTION, LOW_RES)
EACH = {"label": LABEL, "text": TEXT, "embedded": EMBEDDED, "action": ACTION, "low_res": LOW_RES}


def given(conditions=ALL, clips=B, seed=0):
    """What a batch gives: random, and everything known."""
    rng = np.random.default_rng(seed)
    mask = np.arange(L) < rng.integers(1, L, (clips, 1))
    text = {"bytes": rng.integers(0, 256, (clips, L), np.uint8), "mask": mask}
    if EMBEDDED in conditions:
        text = {"embedding": rng.normal(size=(clips, L, E)).astype(np.float16), "mask": mask}
    arrays = {
        "label": rng.permutation(np.arange(clips, dtype=np.int32) % 3),
        "text": text,
        "action": {
            "action": rng.normal(size=(clips, T, A)).astype(np.float32),
            "mask": np.ones((clips, T), bool),
        },
        "low_res": {"video": rng.integers(0, 256, (clips, T, 2, 2, 3), np.uint8)},
    }
    return jax.tree.map(jnp.asarray, {c.name: arrays[c.name] for c in conditions})


def seen(conditions=ALL, clips=B, seed=0):
    """What the network sees of it in training."""
    raw = given(conditions, clips, seed)
    return condition.prepare(conditions, raw, jax.random.key(seed), training=True)


class Net(nn.Module):
    """The entry of each condition into a network."""

    conditions: tuple
    per_patch: int = 1
    dtype: jnp.dtype = jnp.dtype("float32")

    @nn.compact
    def __call__(self, given):
        setting = Setting(D, 2, self.per_patch, self.dtype)
        return {c.name: c.embed(given[c.name], setting) for c in self.conditions}


@functools.cache
def network(*conditions, **fields):
    """Jitted, with parameters that all are random."""
    net, rng = Net(conditions, **fields), np.random.default_rng(0)
    shapes = nn.meta.unbox(jax.eval_shape(net.init, jax.random.key(0), seen(conditions)))
    return jax.jit(net.apply), jax.tree.map(lambda x: 0.3 * rng.normal(size=x.shape), shapes)
