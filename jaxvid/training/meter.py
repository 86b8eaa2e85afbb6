"""Metrics between two lines of the log: means, rates and bad records."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int32

from jaxvid.errors import InputError
from jaxvid.training.goodput import Goodput


class Meter:
    """Collects the metrics of the steps since the last `close`.

    They stay on the devices until `close`, so that no step waits for the host.

    Args:
      step: number of steps already taken.
      max_bad: number of bad records above which the run stops.
      metrics_of: the metrics of a step by name, from what `add` is given.
      goodput: the stopwatch of the run.
    """

    def __init__(
        self,
        step: int,
        max_bad: int,
        metrics_of: Callable[[Any], dict[str, Any]] = dict,
        goodput: Goodput | None = None,
    ):
        self._first, self._max_bad, self._metrics_of = step + 1, max_bad, metrics_of
        self._goodput = goodput or Goodput(time.monotonic())
        self._bad: dict[int, Any] = {}
        self._steps: list[Any] = []
        self._clips = 0
        self.restart_clock()

    def restart_clock(self) -> None:
        """Excludes the time since the last step from the rates."""
        self._waited, self._began = 0.0, time.monotonic()

    @contextlib.contextmanager
    def waiting_for_data(self, idle: Callable[[], bool]) -> Iterator[None]:
        """Counts the enclosed time as waiting if the devices are idle at its end."""
        self._goodput.lap("steps")
        began = time.monotonic()
        yield
        waited = idle()
        self._waited += waited * (time.monotonic() - began)
        self._goodput.lap("data" if waited else "steps")

    def count_bad(
        self,
        bad: Int32[np.ndarray, "..."],
        say: Callable[[str], None],
        name_of: Callable[[int], Any] = int,
    ) -> None:
        """Reports new bad records; raises InputError if there are more than `max_bad`."""
        new = sorted(set(bad[bad >= 0].tolist()) - self._bad.keys())
        if not new:
            return
        self._bad |= {record: name_of(record) for record in new}
        names = [self._bad[record] for record in new]
        say(f"skipped bad record(s) {names}: {len(self._bad)} so far")
        if len(self._bad) > self._max_bad:
            raise InputError(
                f"{len(self._bad)} records are bad, more than config.data.max_bad={self._max_bad}: "
                f"{[name for _, name in sorted(self._bad.items())]}; prepare the data again, or "
                "raise the limit"
            )

    def add(self, metrics: Any, clips: int) -> None:
        """Adds the metrics of a step, and the number of its clips."""
        self._steps.append(metrics)
        self._clips += clips

    def close(self, step: int) -> dict[str, float]:
        """Means and rates of the steps since the last call, up to `step`.

        Raises InputError, with the step and the arrays, if a loss, a gradient or a parameter is not
        finite.
        """
        fetched = [self._metrics_of(metrics) for metrics in jax.device_get(self._steps)]
        for i, metrics in enumerate(fetched):
            _check_finite(self._first + i, metrics)
        seconds = time.monotonic() - self._began
        sums, counts = (sum(m["bins"][i] for m in fetched) for i in range(2))
        values = {
            name: float(np.mean([m[name] for m in fetched]))
            for name in ("loss", "lr", "grad_norm", "param_norm")
        }
        values |= by_level("loss", sums, counts)
        values["clips_per_s"] = self._clips / seconds
        values["data_wait"] = self._waited / seconds
        values["bad_records"] = len(self._bad)
        values |= self._goodput.values()
        self._first, self._steps, self._clips = step + 1, [], 0
        self.restart_clock()
        return values


def by_level(
    name: str, sums: Float[np.ndarray, " bins"], counts: Float[np.ndarray, " bins"]
) -> dict[str, float]:
    """Mean losses in equal intervals of the noise level, by name; see `loss.by_noise_level`."""
    edges = np.linspace(0, 1, len(sums) + 1)
    return {
        f"{name}/noise_{low:.2f}-{high:.2f}": float(total / count)
        for low, high, total, count in zip(edges, edges[1:], sums, counts, strict=False)
        if count
    }


def _check_finite(step: int, metrics: dict[str, Any]) -> None:
    # The parameters may overflow in a step whose loss and gradient are finite.
    if all(np.isfinite(metrics[name]) for name in ("loss", "grad_norm", "param_norm")):
        return
    norms = jax.tree_util.tree_leaves_with_path(metrics["grad_norms"])
    parts = ["/".join(key.key for key in path) for path, norm in norms if not np.isfinite(norm)]
    where = f"{len(parts)} of {len(norms)} arrays" + (f": {', '.join(parts[:8])}" if parts else "")
    raise InputError(
        f"at step {step} the loss is {metrics['loss']}, the gradient is not finite in {where}, and "
        f"the norm of the new parameters is {metrics['param_norm']}. "
        "The last good checkpoint is kept. Try a lower optimizer.lr, a longer optimizer.warmup, "
        "optimizer.clip=1, or model.dtype=float32"
    )
