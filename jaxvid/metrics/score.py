"""A score: a number with all that is needed to compare it with another."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxvid.errors import InputError
from jaxvid.metrics.best_of import best_of
from jaxvid.metrics.bootstrap import bootstrap
from jaxvid.metrics.metric import FEATURES, METRICS, Features, Metric, Paired
from jaxvid.metrics.protocols import Protocol


@dataclasses.dataclass(frozen=True)
class Score:
    """The score of drawn clips in one metric.

    Attributes:
      metric: name of the metric.
      value: the score.
      error: its standard error, see `bootstrap`; value ± 1.96 errors is its 95 % interval.
      better: "lower", "higher", or "real" for close to the floor.
      drawn: number of drawn clips.
      real: number of real clips.
      protocol: name and version of the protocol, and its number of clips if that was changed.
      feature: name and version of the feature, such as a hash of the network's weights.
      seed: seed of the clips and of the error.
      floor: the metric of real clips of the other split, in place of drawn clips, with as many
        clips; a perfect model reaches it. None if there are none.
      floor_error: its standard error.
      curve: the scores of the windows of long clips, or of each predicted frame.
      curve_errors: their standard errors.
    """

    metric: str
    value: float
    error: float
    better: str
    drawn: int
    real: int
    protocol: str
    feature: str
    seed: int
    floor: float | None = None
    floor_error: float | None = None
    curve: list[float] | None = None
    curve_errors: list[float] | None = None

    def __str__(self) -> str:
        floor = ""
        if self.floor is not None:
            floor = f"; real clips {self.floor:.4g} ± {self.floor_error:.2g}"
        return (
            f"{self.metric} {self.value:.4g} ± {self.error:.2g}{floor} ({self.protocol}, "
            f"{self.drawn} against {self.real} clips)"
        )


def compare(
    protocol: Protocol,
    drawn: Mapping[str, Features],
    real: Mapping[str, Features],
    others: Mapping[str, Features] | None,
) -> list[Score]:
    """Scores the features of drawn clips in all metrics of a protocol.

    Args:
      protocol: its metrics and its seed are used.
      drawn: for each feature, its rows of the drawn clips, [N,...], or [N,W,...] for W windows; and
        for each metric of pairs, its numbers of each frame and prediction, [N,k,T].
      real: for each feature, its rows of the real clips.
      others: the same of real clips of the other split, for the floor; or None.

    Raises:
      InputError: a feature is not finite.
    """
    for rows in (drawn, real):
        check_finite(rows)
    scores = []
    for name in protocol.metrics:
        metric = METRICS[name]
        if isinstance(metric, Paired):
            best = best_of(drawn[name].swapaxes(0, 1), metric.better == "higher")
            values = dict(value=best.mean, error=best.error, curve=best.curve.tolist())
            values |= dict(feature=f"{name} {metric.version}", real=len(drawn[name]))
            values["curve_errors"] = best.curve_error.tolist()
        else:
            x, y, z = (rows and rows[metric.of] for rows in (drawn, real, others))
            values = (_of_windows if protocol.window else measure)(metric, x, y, protocol.seed)
            values |= dict(feature=f"{metric.of} {FEATURES[metric.of].version}", real=len(y))
            if z is not None:
                floor = measure(metric, z, y, protocol.seed)
                values |= dict(floor=floor["value"], floor_error=floor["error"])
        scores.append(
            Score(
                metric=name,
                better=metric.better,
                drawn=protocol.clips,
                protocol=protocol.label,
                seed=protocol.seed,
                **values,
            )
        )
    return scores


def check_finite(rows: Mapping[str, Features]) -> None:
    """Raises InputError, which names the first clip, if a row of an array is not finite."""
    for name, x in rows.items():
        finite = np.isfinite(x).reshape(len(x), -1).all(1)
        if not finite.all():
            raise InputError(
                f"{name} is not finite in {(~finite).sum()} of {len(x)} clips, the first of them "
                f"clip {finite.argmin()}: leave these clips out"
            )


def measure(metric: Metric, x: Features, y: Features, seed: int) -> dict[str, float]:
    """The `value` of a metric of the features of drawn and real clips, and its `error`."""
    if metric.table is None:
        compare = metric.compare
    else:  # its numbers are made once for all that the error needs
        table = metric.table(np.concatenate([x, y]))
        x, y = np.arange(len(x)), len(x) + np.arange(len(y))

        def compare(x: Features, y: Features) -> float:
            return metric.compare(*(table[np.ix_(*ij)] for ij in ((x, x), (y, y), (x, y))))

    return {"value": float(compare(x, y)), "error": bootstrap(compare, x, y, seed)[0]}


def _of_windows(metric: Metric, x: Features, y: Features, seed: int) -> dict[str, Any]:
    """The scores of all windows [N,W,...] and their mean, whose error is that of one window."""
    curve = [measure(metric, window, y, seed) for window in x.swapaxes(0, 1)]
    values, errors = ([point[name] for point in curve] for name in ("value", "error"))
    # Windows of a clip are alike, so their mean is hardly more certain than one of them.
    return {
        "value": float(np.mean(values)), "error": float(np.mean(errors)),
        "curve": values, "curve_errors": errors,
    }  # fmt: skip
