"""Diffusion processes, and the conversions between predictions.

The noise level t of a frame runs from 0 (clean) to 1 (pure noise). Each frame has its own level:

    (1)  x_t      = alpha(t) x0 + sigma(t) eps,                eps ~ N(0, I)
    (2)  v        = alpha eps - sigma x0
    (3)  velocity = dx_t/dt = alpha' x0 + sigma' eps
    (4)  edm      = (sigma / s x0 - s alpha eps) / n,          n^2 = sigma^2 + s^2 alpha^2

(1) and (2) are Salimans & Ho 2022 (arXiv 2202.00512), (3) is Lipman et al. 2023 (arXiv 2210.02747),
(4) is F of Karras et al. 2022 (arXiv 2206.00364) at any alpha, with s = `SIGMA_DATA`:

    (5)  x0 = c_skip x_t + c_out F,      c_skip = s^2 alpha / n^2,     c_out = s sigma / n

Given x_t, any prediction determines the pair (x0, eps), and so all other predictions:

    (6)  from x0                eps = (x_t - alpha x0) / sigma
    (7)  from eps               x0  = (x_t - sigma eps) / alpha
    (8)  from y = p x0 + q eps  x0  = (q x_t - sigma y) / (alpha q - sigma p)
                                eps = (alpha y - p x_t) / (alpha q - sigma p)

The denominator of (8) is never 0 for v and edm. For velocity it is 0 only at t = 0 of the edm
process. There, and where sigma = 0 in (6) or alpha = 0 in (7), x_t and the prediction contain no
information about eps or about x0. Where a denominator is below `FLOOR`, the undetermined half is
set to its mean, 0.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32

from jaxvid.config import declare, key, one_of
from jaxvid.errors import InputError

PREDICTIONS = ("x0", "eps", "v", "velocity", "edm")

# A denominator this small amplifies the float32 rounding error to a hundredth of the result.
FLOOR = 1e-5

SIGMA_DATA = 0.5
EDM_SIGMA_MAX = 80.0
EDM_RHO = 7

# The first of the thousand steps of the published VP processes.
FIRST_STEP = 1e-3


@dataclasses.dataclass(frozen=True, eq=False)
class Process:
    """Equation (1): `alpha` and `sigma` are differentiable functions of the noise level in [0, 1].

    alpha(0) = 1 and sigma(0) = 0 exactly, and alpha / sigma decreases strictly. x_1 is
    sigma(1) N(0, I); "vp_linear" and "edm" leave a little signal in it.

    Attributes:
      name: key in `PROCESSES`.
      alpha, sigma: coefficients of the signal and of the noise.
      unit_input: whether the network sees x_t scaled to unit variance (`input_scale`).
      suits: config keys and their published values, for a process that trains badly with others.
    """

    name: str
    alpha: Callable[[Array], Array]
    sigma: Callable[[Array], Array]
    unit_input: bool = False
    suits: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def zero_terminal_snr(process: Process) -> Process:
    """Rescales a process with alpha^2 + sigma^2 = 1, so that x_1 contains no signal.

    alpha becomes (alpha - alpha(1)) / (1 - alpha(1)), which is exactly 0 at t = 1 and 1 at t = 0
    (Lin et al. 2024, arXiv 2305.08891, algorithm 1).
    """

    @functools.cache
    def end() -> tuple[float, float]:
        """alpha(1) and alpha'(1), computed at the first use: an import must not start devices."""
        # The first call may be traced, under a guard that forbids transfers.
        with jax.ensure_compile_time_eval(), jax.transfer_guard("allow"):
            value, slope = jax.jvp(process.alpha, (jnp.float32(1),), (jnp.float32(1),))
            return float(value), float(slope)

    def alpha(t: Array) -> Array:
        last, slope = end()
        # At t = 1 the tangent is exactly 0; a difference of rounded numbers may not be.
        return jnp.where(t < 1, process.alpha(t) - last, -slope * (1 - t)) / (1 - last)

    def sigma(t: Array) -> Array:
        # 1 - alpha^2 = (1 + alpha) (1 - alpha), and rescaling divides 1 - alpha by 1 - alpha(1).
        ratio = (1 + alpha(t)) / ((1 + process.alpha(t)) * (1 - end()[0]))
        return jnp.where(t < 1, process.sigma(t) * jnp.sqrt(ratio), 1.0)

    return Process(f"{process.name}_zero_snr", alpha, sigma)


def _variance_preserving(
    name: str, alpha: Callable[[Array], Array], variance: Callable[[Array], Array]
) -> Process:
    """The process with sigma^2 = `variance` = 1 - alpha^2, which is linear in t near t = 0.

    Below `FIRST_STEP` sigma falls linearly to 0. As a square root of t it would have an infinite
    slope at t = 0, and no velocity.
    """

    def sigma(t: Array) -> Array:
        early = t < FIRST_STEP
        root = jnp.sqrt(variance(jnp.where(early, FIRST_STEP, t)))
        return jnp.where(early, root * t / FIRST_STEP, root)

    def early_alpha(t: Array) -> Array:
        # This is sqrt(1 - sigma^2) in float32 precision, because sigma is at most 0.01 here.
        return jnp.where(t < FIRST_STEP, 1 - sigma(t) ** 2 / 2, alpha(t))

    return Process(name, early_alpha, sigma)


def _vp_linear(first: float = 0.1, last: float = 20.0) -> Process:
    """beta = first + (last - first) t, alpha^2 = exp(-integral of beta) (arXiv 2011.13456)."""

    def integral(t: Array) -> Array:
        return t * (first + (last - first) / 2 * t)

    return _variance_preserving(
        "vp_linear",
        alpha=lambda t: jnp.exp(-integral(t) / 2),
        variance=lambda t: -jnp.expm1(-integral(t)),
    )


def _vp_cosine(s: float = 0.008) -> Process:
    """alpha = cos(a(t)) / cos(a(0)), a = pi/2 (t + s) / (1 + s) (arXiv 2102.09672, equation 17)."""
    scale, cos = math.pi / 2 / (1 + s), math.cos(math.pi / 2 * s / (1 + s))
    return _variance_preserving(
        "vp_cosine",
        # A sine, because cos(pi/2) is not 0 in float32.
        alpha=lambda t: jnp.sin(scale * (1 - t)) / cos,
        # cos^2 a - cos^2 b = sin(b - a) sin(b + a) avoids the cancellation.
        variance=lambda t: jnp.sin(scale * t) * jnp.sin(scale * (t + 2 * s)) / cos**2,
    )


PROCESSES = {
    process.name: process
    for process in (
        Process("rectified_flow", alpha=lambda t: 1 - t, sigma=lambda t: t),
        Process(
            "cosine",
            alpha=lambda t: jnp.sin(jnp.pi / 2 * (1 - t)),
            sigma=lambda t: jnp.sin(jnp.pi / 2 * t),
        ),
        _vp_linear(),
        zero_terminal_snr(_vp_linear()),
        _vp_cosine(),
        # Equal steps in t give the spacing of Karras et al. 2022, equation (5), with sigma_min = 0.
        Process(
            "edm",
            alpha=jnp.ones_like,
            sigma=lambda t: EDM_SIGMA_MAX * t**EDM_RHO,
            unit_input=True,
            suits={
                "diffusion.prediction": "edm",
                "diffusion.loss_space": "edm",
                "diffusion.noise_distribution": "edm",
                "diffusion.noise_mean": -1.2,
                "diffusion.noise_std": 1.2,
            },
        ),
    )
}


declare(
    "diffusion",
    process=key("rectified_flow", one_of(PROCESSES), "diffusion process: alpha and sigma"),
    prediction=key("velocity", one_of(PREDICTIONS), "what the network predicts"),
)


def logsnr(process: Process, t: Float[Array, "..."]) -> Float32[Array, "..."]:
    """ln(alpha^2 / sigma^2), which decreases in `t`: inf at 0, -inf at 1 if alpha(1) = 0."""
    t = _float32(t)
    return 2 * (jnp.log(process.alpha(t)) - jnp.log(process.sigma(t)))


def inverse_logsnr(process: Process, value: Float[Array, "..."]) -> Float32[Array, "..."]:
    """The noise level in [0, 1] at which `logsnr` is `value`, or the nearest end of [0, 1].

    Found by bisection to float32 precision. Monotone in `value`; has no gradient.
    """
    value = _float32(value)

    def halve(_, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = (low + high) / 2
        cleaner = (logsnr(process, middle) >= value) & (value < jnp.inf)
        return jnp.where(cleaner, middle, low), jnp.where(cleaner, high, middle)

    return jax.lax.fori_loop(0, 64, halve, (jnp.zeros_like(value), jnp.ones_like(value)))[0]


def input_scale(process: Process, noise: Float[Array, "B T"]) -> Float32[Array, "B T 1 1 1"]:
    """The factor by which x_t is multiplied before it enters the network.

    1, or with `unit_input` c_in of Karras et al. 2022, which is 1 / n of equation (4).
    """
    t = _per_pixel(noise)
    if not process.unit_input:
        return jnp.ones_like(t)
    return 1 / jnp.hypot(process.sigma(t), SIGMA_DATA * process.alpha(t))


def corrupt(
    process: Process,
    x0: Float[Array, "B T H W C"],
    eps: Float[Array, "B T H W C"],
    noise: Float[Array, "B T"],
) -> Float32[Array, "B T H W C"]:
    """x_t of equation (1) from clean frames `x0`, Gaussian `eps` and `noise` levels in [0, 1]."""
    t = _per_pixel(noise)
    return process.alpha(t) * _float32(x0) + process.sigma(t) * _float32(eps)


def regression_target(
    process: Process,
    x0: Float[Array, "B T H W C"],
    eps: Float[Array, "B T H W C"],
    noise: Float[Array, "B T"],
    prediction: str,
) -> Float32[Array, "B T H W C"]:
    """The target of `prediction`, one of `PREDICTIONS`, for this x0 and eps.

    Raises InputError for an unknown `prediction`.
    """
    x0, eps = _float32(x0), _float32(eps)
    match prediction:
        case "x0":
            return x0
        case "eps":
            return eps
    p, q = _shares(process, noise, prediction)
    return p * x0 + q * eps


def convert(
    process: Process,
    value: Float[Array, "B T H W C"],
    x_t: Float[Array, "B T H W C"],
    noise: Float[Array, "B T"],
    source: str,
    target: str,
) -> Float32[Array, "B T H W C"]:
    """Converts `value`, a prediction of `source` from `x_t`, to `target`: equations (6)-(8).

    `source` and `target` are in `PREDICTIONS`; if they are equal, `value` is returned unchanged.
    The result is finite for every `noise` in [0, 1]: where a denominator is below `FLOOR`, the
    undetermined half, eps or x0, is set to 0. Raises InputError for an unknown name.
    """
    value, x_t = _float32(value), _float32(x_t)
    if source == target and source in PREDICTIONS:
        return value
    t = _per_pixel(noise)
    alpha, sigma = process.alpha(t), process.sigma(t)
    match source:
        case "x0":
            x0, eps = value, _divide(x_t - alpha * value, sigma)
        case "eps":
            x0, eps = _divide(x_t - sigma * value, alpha), value
        case _:
            p, q = _shares(process, noise, source)
            det = alpha * q - sigma * p
            x0 = _divide(q * x_t - sigma * value, det, otherwise=x_t)
            eps = _divide(alpha * value - p * x_t, det)
    return regression_target(process, x0, eps, noise, target)


def _float32(x: Array) -> Array:
    return x.astype(jnp.float32)


def _per_pixel(noise: Float[Array, "B T"]) -> Float32[Array, "B T 1 1 1"]:
    return _float32(noise)[:, :, None, None, None]


def _shares(process: Process, noise: Array, prediction: str) -> tuple[Array, Array]:
    """p and q, each [B, T, 1, 1, 1], of the prediction p x0 + q eps: equations (2)-(4)."""
    t = _per_pixel(noise)
    alpha, sigma = process.alpha(t), process.sigma(t)
    match prediction:
        case "v":
            return -sigma, alpha
        case "velocity":
            coefficients = (process.alpha, process.sigma)
            return tuple(jax.jvp(f, (t,), (jnp.ones_like(t),))[1] for f in coefficients)
        case "edm":
            norm = jnp.hypot(sigma, SIGMA_DATA * alpha)
            return sigma / SIGMA_DATA / norm, -SIGMA_DATA * alpha / norm
    known = ", ".join(PREDICTIONS)
    raise InputError(f"unknown prediction {prediction!r}: choose one of {known}")


def _divide(numerator: Array, denominator: Array, otherwise: Array | float = 0.0) -> Array:
    """The quotient, or `otherwise` where |denominator| < `FLOOR`; gradients are finite."""
    singular = jnp.abs(denominator) < FLOOR
    return jnp.where(singular, otherwise, numerator / jnp.where(singular, 1.0, denominator))
