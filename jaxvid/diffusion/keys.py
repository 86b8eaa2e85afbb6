"""Random keys for a batch: one for all of it, or several, each for an equal part of its rows.

With a key for each part, the noise of a part does not depend on the others: what several draw side
by side is what each would draw alone.
"""

from collections.abc import Callable

import jax
from jaxtyping import Array, Float32, Key


def each(change: Callable[[Array], Array], key: Key[Array, "*n"]) -> Key[Array, "*n"]:
    """Applies a function of one key to a key, or to each of several."""
    return jax.vmap(change)(key) if key.ndim else change(key)


def normal(key: Key[Array, "*n"], shape: tuple[int, ...]) -> Float32[Array, "B ..."]:
    """Gaussian noise; with n keys, the k-th gives the k-th of n equal parts of the first axis."""
    if not key.ndim:
        return jax.random.normal(key, shape)
    part = (shape[0] // len(key), *shape[1:])
    return jax.vmap(lambda key: jax.random.normal(key, part))(key).reshape(shape)
