"""Noise levels for training: how often the network sees which t.

    (1)  uniform       t = u,                           u ~ U[0, 1)
    (2)  logit_normal  t = 1 / (1 + exp(-(mean + std n))),  n ~ N(0, 1)

(2) is Esser et al. 2024 (arXiv 2403.03206): most of the effort goes to the middle levels, where the
structure of a clip is decided. Either is then mapped to [low, 1] by t -> low + (1 - low) t.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32, Key

from jaxvid.errors import InputError

DISTRIBUTIONS = ("uniform", "logit_normal")


def sample_noise(
    key: Key[Array, ""],
    shape: tuple[int, ...],
    distribution: str,
    *,
    mean: float = 0.0,
    std: float = 1.0,
    low: float = 0.0,
) -> Float32[Array, "..."]:
    """Independent noise levels in [low, 1]: equation (1) or (2).

    `mean` and `std` are of the logit and matter to "logit_normal" only. A `low` above 0 bounds the
    weight of a loss that is measured in another space than the network predicts (see `loss`).
    Raises InputError for another `distribution`, a `low` outside [0, 1) or a negative `std`.
    """
    if not 0 <= low < 1:
        raise InputError(f"lowest noise level is {low}: it must be in [0, 1)")
    if std < 0:
        raise InputError(f"std of the noise levels is {std}: it must not be negative")
    match distribution:
        case "uniform":
            t = jax.random.uniform(key, shape, jnp.float32)
        case "logit_normal":
            t = jax.nn.sigmoid(mean + std * jax.random.normal(key, shape, jnp.float32))
        case _:
            known = ", ".join(DISTRIBUTIONS)
            raise InputError(f"unknown noise distribution {distribution!r}: choose one of {known}")
    return low + (1 - low) * t
