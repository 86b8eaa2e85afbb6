"""Noise levels for training: the distribution of t.

With u ~ U(0, 1), and n the normal quantile of u,

    (1)  uniform       t = u
    (2)  logit_normal  t = 1 / (1 + exp(-(mean + std n)))
    (3)  edm           t = (sigma / 80)^(1/7),   ln sigma = mean + std n

(2) is Esser et al. 2024 (arXiv 2403.03206): most samples fall on the middle levels, which decide
the structure of a clip. (1) and (2) are then mapped to [low, 1] by t -> low + (1 - low) t.
(3) is Karras et al. 2022 (arXiv 2206.00364, with mean -1.2 and std 1.2), expressed in the levels of
the "edm" process and clipped to [low, 1].

Larger clips lose their structure only at higher noise levels. A time shift moves all levels up:

    (4)  t' = s t / (1 + (s - 1) t)

(Esser et al. 2024, equation 23), where s is the root of the ratio of pixels.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Key

from jaxvid.config import ABOVE_0, FLAG, FRACTION, NOT_BELOW_0, NUMBER, declare, key, one_of
from jaxvid.diffusion.process import EDM_RHO, EDM_SIGMA_MAX
from jaxvid.errors import InputError

DISTRIBUTIONS = ("uniform", "logit_normal", "edm")


declare(
    "diffusion",
    noise_distribution=key(
        "logit_normal",
        one_of(DISTRIBUTIONS),
        "distribution of the noise levels in training",
        was="diffusion.noise",
    ),
    noise_mean=key(0.0, NUMBER, 'mean of the logit of the level, or of ln sigma with "edm"'),
    noise_std=key(1.0, ABOVE_0, 'standard deviation of that logit, or of ln sigma with "edm"'),
    noise_low=key(0.05, FRACTION, "lowest noise level in training"),
    stratified=key(
        False, FLAG, "whether the levels of a batch are spread evenly over their distribution"
    ),
    per_frame=key(False, FLAG, "whether every frame has its own level (diffusion forcing)"),
    shift_reference=key(
        0, NOT_BELOW_0, "pixels of a clip at which the time shift is 1; 0 turns the shift off"
    ),
)


def sample_noise(
    key: Key[Array, ""],
    shape: tuple[int, ...],
    distribution: str,
    *,
    mean: float = 0.0,
    std: float = 1.0,
    low: float = 0.0,
    stratified: bool = False,
) -> Float32[Array, "..."]:
    """Draws noise levels in [low, 1] by equation (1), (2) or (3).

    Args:
      shape: (B, 1) for one level per clip, (B, T) for a level per frame (diffusion forcing, Chen et
        al. 2024, arXiv 2407.01392), where B is the global batch.
      mean, std: of the logit or of ln sigma; "uniform" ignores them.
      low: lowest level; above 0 it bounds the weight of a loss that is measured in another space
        than the network's prediction (see `loss`).
      stratified: each of the B intervals [i / B, (i + 1) / B) holds the quantile u of one clip,
        in a random order that is independent for each frame. The distribution of a single level
        is the same, but the mean of a batch varies less (cf. Kingma et al. 2021, arXiv
        2107.00630).

    Raises InputError for an unknown `distribution`, a `low` outside [0, 1) or a negative `std`.
    """
    if not 0 <= low < 1:
        raise InputError(f"low={low} for the noise levels: it must be in [0, 1)")
    if std < 0:
        raise InputError(f"std={std} for the noise levels: it must be at least 0")
    u = _quantiles(key, shape, stratified)
    match distribution:
        case "uniform":
            t = u
        case "logit_normal":
            t = jax.nn.sigmoid(mean + std * jax.scipy.special.ndtri(u))
        case "edm":
            log_sigma = mean + std * jax.scipy.special.ndtri(u)
            t = jnp.exp((log_sigma - math.log(EDM_SIGMA_MAX)) / EDM_RHO)
            return jnp.clip(t, low, 1.0)
        case _:
            known = ", ".join(DISTRIBUTIONS)
            raise InputError(f"unknown noise distribution {distribution!r}: choose one of {known}")
    return low + (1 - low) * t


def shift(t: Float[Array, "..."], s: float | int) -> Float32[Array, "..."]:
    """Equation (4): an `s` above 1 moves levels towards 1. 0 and 1 are kept exactly.

    Shifts compose: shift(shift(t, a), b) = shift(t, a b). Raises InputError if `s` is not above 0.
    """
    if not s > 0:
        raise InputError(f"time shift {s}: it must be above 0; 1 leaves the levels unchanged")
    t = t.astype(jnp.float32)
    return t / (t + (1 - t) / s)


def resolution_shift(shape: tuple[int, int, int], reference: float | int) -> float:
    """The `s` of equation (4) for clips of `shape` (T, H, W): sqrt(T H W / reference).

    `reference` is the number of pixels per clip at which `s` is 1. Raises InputError unless all
    are above 0.
    """
    if min(*shape, reference) <= 0:
        raise InputError(
            f"time shift for clips of {shape} and a reference of {reference} pixels: "
            "all must be above 0"
        )
    return math.sqrt(math.prod(shape) / reference)


def _quantiles(key: Array, shape: tuple[int, ...], stratified: bool) -> Float32[Array, "..."]:
    """u ~ U(0, 1) for `sample_noise`; excludes 0 and 1, whose normal quantiles are infinite."""
    u_key, order_key = jax.random.split(key)
    u = jax.random.uniform(u_key, shape, jnp.float32)
    if stratified:
        stratum = jnp.broadcast_to(jnp.arange(shape[0]).reshape(-1, *[1] * (len(shape) - 1)), shape)
        order = jax.random.permutation(order_key, stratum, independent=True)
        u = (order + u) / shape[0]
    limits = jnp.finfo(jnp.float32)
    return jnp.clip(u, limits.tiny, 1 - limits.epsneg)
