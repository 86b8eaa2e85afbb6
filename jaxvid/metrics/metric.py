"""The registry of metrics, which training computes every `evals.every` steps.

    @metric("energy")
    def energy(drawn, real): ...

A metric is a function `(drawn, real) -> (value, error)` of clips, uint8 [N,T,H,W,3] and
[M,T,H,W,3]. It returns the score of the drawn clips and its standard error.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import UInt8

Clips = UInt8[np.ndarray, "N T H W 3"]
Metric = Callable[[Clips, Clips], tuple[float, float]]

METRICS: dict[str, Metric] = {}


def metric(name: str) -> Callable[[Metric], Metric]:
    """Registers a function as the metric `name`."""

    def register(function: Metric) -> Metric:
        METRICS[name] = function
        return function

    return register
