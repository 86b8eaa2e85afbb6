"""The training loss: squared errors per frame, and what is averaged over which frames.

The network predicts one thing and the loss may be measured in the space of another. At a fixed x_t
the conversions are affine, so this weighs the noise levels; for what is most used,

    (1)  |velocity_hat - velocity|^2 = (alpha'  - sigma' alpha / sigma)^2 |x0_hat - x0|^2
    (2)  |eps_hat - eps|^2           = (alpha / sigma)^2 |x0_hat - x0|^2

(Salimans & Ho 2022, arXiv 2202.00512, section 4). For rectified flow the weight in (1) is 1 / t^2:
it grows without bound towards t = 0, so keep the sampled levels away from there (`sample_noise`'s
`low`).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32

from jaxvid.diffusion.process import Process, convert, regression_target


def frame_errors(
    process: Process,
    output: Float[Array, "B T H W C"],
    x_t: Float[Array, "B T H W C"],
    x0: Float[Array, "B T H W C"],
    eps: Float[Array, "B T H W C"],
    noise: Float[Array, "B T"],
    prediction: str,
    space: str,
) -> Float32[Array, "B T"]:
    """Each frame's mean squared error, in `space`, of an `output` that predicts `prediction`.

    `x_t` is `corrupt(process, x0, eps, noise)`. The errors of observed frames (noise 0) are finite
    but mean nothing. Raises InputError for a `prediction` or `space` that is not of `PREDICTIONS`.
    """
    estimate = convert(process, output, x_t, noise, prediction, space)
    error = estimate - regression_target(process, x0, eps, noise, space)
    return jnp.mean(error**2, axis=(2, 3, 4))


def by_noise_level(
    errors: Float[Array, "B T"],
    noise: Float[Array, "B T"],
    unknown: Bool[Array, "B T"],
    bins: int,
) -> tuple[Float32[Array, "{bins}"], Float32[Array, "{bins}"]]:
    """Sums and counts of the unknown frames' errors in `bins` equal intervals of [0, 1].

    Both add up over steps and over devices; their quotient is the mean of each interval.
    """
    index = jnp.minimum((noise * bins).astype(jnp.int32), bins - 1)
    member = unknown[..., None] & jax.nn.one_hot(index, bins, dtype=bool)
    sums = jnp.sum(jnp.where(member, errors[..., None], 0), axis=(0, 1), dtype=jnp.float32)
    return sums, jnp.sum(member, axis=(0, 1), dtype=jnp.float32)
