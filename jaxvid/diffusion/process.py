"""Diffusion processes, and the one place where predictions convert into one another.

The noise level t runs from 0 (clean) to 1 (pure noise), and each frame has its own:

    (1)  x_t      = alpha(t) x0 + sigma(t) eps,                eps ~ N(0, I)
    (2)  v        = alpha eps - sigma x0
    (3)  velocity = dx_t/dt = alpha' x0 + sigma' eps

(1) and (2) are Salimans & Ho 2022 (arXiv 2202.00512), (3) is Lipman et al. 2023 (arXiv 2210.02747).
With x_t at hand, any one of x0, eps, v and velocity gives the pair (x0, eps), and so the others:

    (4)  from x0        eps = (x_t - alpha x0) / sigma
    (5)  from eps       x0  = (x_t - sigma eps) / alpha
    (6)  from v         x0  = (alpha x_t - sigma v) / (alpha^2 + sigma^2)
                        eps = (sigma x_t + alpha v) / (alpha^2 + sigma^2)
    (7)  from velocity  x0  = (sigma' x_t - sigma velocity) / (alpha sigma' - sigma alpha')
                        eps = (alpha velocity - alpha' x_t) / (alpha sigma' - sigma alpha')

The denominators of (6) and (7) never vanish. Those of (4) and (5) do, at t = 0 and at t = 1, where
x_t holds nothing of eps and nothing of x0: below `FLOOR` the unknown half is set to its mean, 0.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32

from jaxvid.errors import InputError

PREDICTIONS = ("x0", "eps", "v", "velocity")

# A denominator this small amplifies the rounding of float32 to a hundredth of the answer.
FLOOR = 1e-5


@dataclass(frozen=True)
class Process:
    """Equation (1): `alpha` and `sigma` are differentiable functions of the noise level in [0, 1].

    sigma(0) and alpha(1) are exactly 0: clean frames are clean, and noise holds no signal
    (Lin et al. 2024, arXiv 2305.08891).
    """

    name: str
    alpha: Callable[[Array], Array]
    sigma: Callable[[Array], Array]


PROCESSES = {
    process.name: process
    for process in (
        Process("rectified_flow", alpha=lambda t: 1 - t, sigma=lambda t: t),
        # As a sine, because cos(pi/2) is not 0 in float32.
        Process(
            "cosine",
            alpha=lambda t: jnp.sin(jnp.pi / 2 * (1 - t)),
            sigma=lambda t: jnp.sin(jnp.pi / 2 * t),
        ),
    )
}


def corrupt(
    process: Process,
    x0: Float[Array, "B T H W C"],
    eps: Float[Array, "B T H W C"],
    noise: Float[Array, "B T"],
) -> Float32[Array, "B T H W C"]:
    """x_t of equation (1) for clean frames `x0`, Gaussian `eps` and `noise` levels in [0, 1]."""
    t = _per_pixel(noise)
    return process.alpha(t) * _float32(x0) + process.sigma(t) * _float32(eps)


def regression_target(
    process: Process,
    x0: Float[Array, "B T H W C"],
    eps: Float[Array, "B T H W C"],
    noise: Float[Array, "B T"],
    prediction: str,
) -> Float32[Array, "B T H W C"]:
    """What a perfect network would output: `prediction`, one of `PREDICTIONS`, of this x0 and eps.

    Raises InputError for another `prediction`.
    """
    x0, eps = _float32(x0), _float32(eps)
    (alpha, d_alpha), (sigma, d_sigma) = _coefficients(process, noise)
    match prediction:
        case "x0":
            return x0
        case "eps":
            return eps
        case "v":
            return alpha * eps - sigma * x0
        case "velocity":
            return d_alpha * x0 + d_sigma * eps
    raise _unknown(prediction)


def convert(
    process: Process,
    value: Float[Array, "B T H W C"],
    x_t: Float[Array, "B T H W C"],
    noise: Float[Array, "B T"],
    source: str,
    target: str,
) -> Float32[Array, "B T H W C"]:
    """`value`, a prediction of `source` from `x_t`, as a prediction of `target`: equations (4)-(7).

    `source` and `target` are of `PREDICTIONS`; equal ones return `value` unchanged. Finite for
    every `noise` in [0, 1]: where sigma (from x0) or alpha (from eps) is below `FLOOR`, the half
    that `value` and `x_t` do not determine, eps or x0, is taken as 0. Raises InputError for an
    unknown name.
    """
    value, x_t = _float32(value), _float32(x_t)
    if source == target and source in PREDICTIONS:
        return value
    (alpha, d_alpha), (sigma, d_sigma) = _coefficients(process, noise)
    match source:
        case "x0":
            x0, eps = value, _divide(x_t - alpha * value, sigma)
        case "eps":
            x0, eps = _divide(x_t - sigma * value, alpha), value
        case "v":
            norm = alpha**2 + sigma**2
            x0, eps = (alpha * x_t - sigma * value) / norm, (sigma * x_t + alpha * value) / norm
        case "velocity":
            det = alpha * d_sigma - sigma * d_alpha
            x0, eps = (d_sigma * x_t - sigma * value) / det, (alpha * value - d_alpha * x_t) / det
        case _:
            raise _unknown(source)
    return regression_target(process, x0, eps, noise, target)


def _float32(x: Array) -> Array:
    return x.astype(jnp.float32)


def _per_pixel(noise: Float[Array, "B T"]) -> Float32[Array, "B T 1 1 1"]:
    return _float32(noise)[:, :, None, None, None]


def _coefficients(process: Process, noise: Array) -> tuple[tuple[Array, Array], ...]:
    """(alpha, alpha') and (sigma, sigma') at `noise`, each [B, T, 1, 1, 1]."""
    t = _per_pixel(noise)
    return tuple(jax.jvp(f, (t,), (jnp.ones_like(t),)) for f in (process.alpha, process.sigma))


def _divide(numerator: Array, denominator: Array) -> Array:
    """The quotient, or 0 where the denominator is below `FLOOR`, with finite gradients in both."""
    singular = denominator < FLOOR
    return jnp.where(singular, 0.0, numerator / jnp.where(singular, 1.0, denominator))


def _unknown(prediction: str) -> InputError:
    return InputError(f"unknown prediction {prediction!r}: choose one of {', '.join(PREDICTIONS)}")
