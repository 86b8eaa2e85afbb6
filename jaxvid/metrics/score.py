"""A score: a number with all that is needed to compare it with another."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxvid.errors import InputError
from jaxvid.metrics.bootstrap import bootstrap
from jaxvid.metrics.metric import FEATURES, METRICS, Features
from jaxvid.metrics.protocols import Protocol


@dataclasses.dataclass(frozen=True)
class Score:
    """The score of drawn clips in one metric.

    Attributes:
      metric: name of the metric.
      value: the score.
      error: its standard error, see `bootstrap`.
      low, high: ends of its 95 % interval.
      floor: the metric of real clips of the other split, in place of drawn clips, with as many
        clips; a perfect model reaches it. None if there are none.
      floor_error: its standard error.
      better: "lower", "higher", or "real" for close to the floor.
      drawn: number of drawn clips.
      real: number of real clips.
      protocol: name and version of the protocol, and its number of clips if that was changed.
      feature: name and version of the feature, such as a hash of the network's weights.
      seed: seed of the clips and of the error.
    """

    metric: str
    value: float
    error: float
    low: float
    high: float
    floor: float | None
    floor_error: float | None
    better: str
    drawn: int
    real: int
    protocol: str
    feature: str
    seed: int

    def __str__(self) -> str:
        floor = ""
        if self.floor is not None:
            floor = f"; real clips {self.floor:.4g} ± {self.floor_error:.2g}"
        return (
            f"{self.metric} {self.value:.4g} ± {self.error:.2g}{floor} ({self.protocol}, "
            f"{self.drawn} against {self.real} clips)"
        )

    def to_json(self) -> dict[str, Any]:
        """Its attributes, for JSON."""
        return dataclasses.asdict(self)


def compare(
    protocol: Protocol,
    drawn: Mapping[str, Features],
    real: Mapping[str, Features],
    others: Mapping[str, Features] | None,
) -> list[Score]:
    """Scores the features of drawn clips in all metrics of a protocol.

    Args:
      protocol: its metrics and its seed are used.
      drawn: for each feature, its rows of the drawn clips.
      real: the same of the real clips.
      others: the same of real clips of the other split, for the floor; or None.

    Raises:
      InputError: a feature is not finite.
    """
    for rows in (drawn, real):
        for name, x in rows.items():
            if not np.isfinite(x).all():
                bad = np.flatnonzero(~np.isfinite(x.reshape(len(x), -1)).all(1))
                raise InputError(
                    f"the feature {name} is not finite in {len(bad)} of {len(x)} clips, the first "
                    f"of them clip {bad[0]}: leave these clips out"
                )
    return [_score(protocol, name, drawn, real, others) for name in protocol.metrics]


def _score(
    protocol: Protocol,
    name: str,
    drawn: Mapping[str, Features],
    real: Mapping[str, Features],
    others: Mapping[str, Features] | None,
) -> Score:
    metric = METRICS[name]
    x, y = drawn[metric.of], real[metric.of]
    error, low, high = bootstrap(metric.compare, x, y, protocol.seed)
    floor = floor_error = None
    if others is not None:
        z = others[metric.of]
        floor = float(metric.compare(z, y))
        floor_error = bootstrap(metric.compare, z, y, protocol.seed)[0]
    return Score(
        metric=name,
        value=float(metric.compare(x, y)),
        error=error,
        low=low,
        high=high,
        floor=floor,
        floor_error=floor_error,
        better=metric.better,
        drawn=len(x),
        real=len(y),
        protocol=protocol.label,
        feature=f"{metric.of} {FEATURES[metric.of].version}",
        seed=protocol.seed,
    )
