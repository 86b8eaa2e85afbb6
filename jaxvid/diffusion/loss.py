"""The training loss: a weighted squared error for each frame, and its sums by noise level.

The network makes one prediction, and the loss may measure the error in the space of another. At a
fixed x_t the conversions are affine, so the choice of space weights the noise levels:

    (1)  |velocity_hat - velocity|^2 = (alpha'  - sigma' alpha / sigma)^2 |x0_hat - x0|^2
    (2)  |eps_hat - eps|^2           = SNR |x0_hat - x0|^2,        SNR = alpha^2 / sigma^2

(Salimans & Ho 2022, arXiv 2202.00512, section 4). For rectified flow the weight in (1) is 1 / t^2.
It is unbounded as t approaches 0, so keep the sampled levels above 0 (`low` of `sample_noise`).
The named weightings of |x0_hat - x0|^2 replace the choice of a space:

    (3)  min_snr  min(SNR, gamma)                          Hang et al. 2023, arXiv 2303.09556
    (4)  sigmoid  SNR sigmoid(bias - ln SNR)               Hoogeboom et al. 2024, arXiv 2410.19324
    (5)  edm      SNR + 1 / SIGMA_DATA^2                   Karras et al. 2022, arXiv 2206.00364

(4) is a smooth version of (3) with gamma = exp(bias). It weights the error in eps by
sigmoid(bias - ln SNR) (Kingma & Gao 2023, arXiv 2303.00848; the distribution of the sampled levels
replaces their factor d lnSNR / dt). (5) is lambda = 1 / c_out^2: a weight of 1 in the space of the
"edm" prediction. For any other prediction it is unbounded as t approaches 0, like (1).
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32

from jaxvid.config import ABOVE_0, Rule, declare, is_number, key, one_of
from jaxvid.diffusion.process import PREDICTIONS, Process, convert, regression_target
from jaxvid.errors import InputError

WEIGHTINGS = ("uniform", "min_snr", "sigmoid", "edm")


declare(
    "diffusion",
    loss_space=key(
        "velocity",
        one_of(PREDICTIONS),
        "space in which the error is measured",
        was="diffusion.loss",
    ),
    weighting=key(
        "uniform",
        one_of(WEIGHTINGS),
        "weighting of the noise levels; all but uniform ignore loss_space",
    ),
    gamma=key(5.0, ABOVE_0, 'largest weight in the weighting "min_snr"'),
    bias=key(
        0.0,
        Rule("a number from -20 to 20", lambda v: is_number(v) and abs(v) <= 20),
        'log-SNR at the midpoint of the weighting "sigmoid"',
    ),
)


def frame_errors(
    process: Process,
    output: Float[Array, "B T H W C"],
    x_t: Float[Array, "B T H W C"],
    x0: Float[Array, "B T H W C"],
    eps: Float[Array, "B T H W C"],
    noise: Float[Array, "B T"],
    prediction: str,
    space: str,
    weighting: str = "uniform",
    *,
    gamma: float | int = 5.0,
    bias: float | int = 0.0,
) -> Float32[Array, "B T"]:
    """The weighted mean squared error of each frame of `output`, which predicts `prediction`.

    `x_t` is `corrupt(process, x0, eps, noise)`. The weighting "uniform" gives the unweighted error
    in `space`. The others ignore `space`: they are equations (3), with `gamma`, (4), with `bias`,
    and (5). Errors of observed frames (noise 0) are finite but have no meaning. Raises InputError
    for an unknown `prediction`, `space` or `weighting`, and for a `gamma` that is not above 0.
    """
    match weighting:
        case "uniform":
            weight = 1.0
        case "min_snr" | "sigmoid":
            space, weight = "x0", _x0_weight(process, noise, weighting, gamma, bias)
        case "edm":
            space, weight = "edm", 1.0
        case _:
            known = ", ".join(WEIGHTINGS)
            raise InputError(f"unknown loss weighting {weighting!r}: choose one of {known}")
    estimate = convert(process, output, x_t, noise, prediction, space)
    error = estimate - regression_target(process, x0, eps, noise, space)
    return weight * jnp.mean(error**2, axis=(2, 3, 4))


def _x0_weight(
    process: Process, noise: Array, weighting: str, gamma: float | int, bias: float | int
) -> Float32[Array, "B T"]:
    """Equation (3) or (4), in a form that stays finite where sigma or alpha is 0."""
    t = noise.astype(jnp.float32)
    signal, variance = process.alpha(t) ** 2, process.sigma(t) ** 2
    if weighting == "sigmoid":
        return signal / (variance + signal * math.exp(-bias))
    if not gamma > 0:
        raise InputError(f"gamma={gamma} for the min_snr weighting: it must be above 0")
    return signal / jnp.maximum(variance, signal / gamma)


def by_noise_level(
    errors: Float[Array, "B T"],
    noise: Float[Array, "B T"],
    unknown: Bool[Array, "B T"],
    bins: int,
) -> tuple[Float32[Array, " {bins}"], Float32[Array, " {bins}"]]:
    """Sums and counts of the unknown frames' errors in `bins` equal intervals of the noise level.

    Both can be added over steps and devices; sum / count is the mean of an interval.
    """
    index = jnp.minimum((noise * bins).astype(jnp.int32), bins - 1)
    member = unknown[..., None] & jax.nn.one_hot(index, bins, dtype=bool)
    sums = jnp.sum(jnp.where(member, errors[..., None], 0), axis=(0, 1), dtype=jnp.float32)
    return sums, jnp.sum(member, axis=(0, 1), dtype=jnp.float32)
