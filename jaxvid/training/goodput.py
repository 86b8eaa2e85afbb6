"""Goodput: the share of a run's wall time in steps that count.

The wall time of the first process, over all starts of a run, is divided into

  steps       the training loop, but for what follows
  start       from the start of a command to its first step
  compile     tracing and compiling, wherever it happens, or reading what is compiled
  data        the devices were idle, and the next batch was not ready
  checkpoint  saving, while steps wait for it
  actions     snapshots, samples, scores and profiles
  lost        steps after the checkpoint from which the next start resumed, and which it repeats

The time of a command that was interrupted is known up to its last line of metrics. What came after
that line, and the time until the next start, are in no part.
"""

import contextlib
import threading
import time
from collections.abc import Iterable, Iterator, Mapping

import jax

PARTS = {
    "steps": "steps",
    "start": "start-up",
    "compile": "compiling",
    "data": "data wait",
    "checkpoint": "checkpoints",
    "actions": "actions",
    "lost": "lost steps",
}
COMPILE_EVENTS = "/jax/core/compile/"


class Goodput(contextlib.AbstractContextManager):
    """A stopwatch for the parts of the wall time. Inside its context it also knows `compile`.

    Args:
      began: when the command started, by `time.monotonic`.
    """

    def __init__(self, began: float):
        self._seconds = dict.fromkeys(PARTS, 0.0)
        self._lap, self._part = began, "start"
        self._compiled: list[tuple[float, float]] = []
        self._thread = threading.get_ident()

    def __enter__(self) -> "Goodput":
        jax.monitoring.register_event_duration_secs_listener(self._on_event)
        return self

    def __exit__(self, *_: object) -> None:
        jax.monitoring.unregister_event_duration_listener(self._on_event)

    def _on_event(self, event: str, seconds: float, **_: object) -> None:
        if event.startswith(COMPILE_EVENTS) and threading.get_ident() == self._thread:
            end = time.monotonic()
            # An event comes after those inside it.
            while self._compiled and self._compiled[-1][0] >= end - seconds:
                self._compiled.pop()
            self._compiled.append((end - seconds, end))

    def add_earlier(self, step: int, lines: Iterable[tuple[int, Mapping[str, float]]]) -> None:
        """Adds the time of earlier starts of the run, which resumes at `step`.

        `lines` are the steps and values of its metrics, including those after `step`.
        """
        last, kept = {f"seconds/{part}": 0.0 for part in PARTS}, 0.0
        for at, values in lines:
            if "goodput" in values:  # scores have lines of their own
                last = values
                kept = values["seconds/steps"] if at <= step else kept
        for part in PARTS:
            self._seconds[part] += last[f"seconds/{part}"]
        self._seconds["steps"] -= last["seconds/steps"] - kept
        self._seconds["lost"] += last["seconds/steps"] - kept

    def lap(self, part: str) -> None:
        """Gives the time since the last lap to a part, but for what compiling took of it."""
        now, compiled = time.monotonic(), sum(end - begin for begin, end in self._compiled)
        self._seconds[part] += now - self._lap - compiled
        self._seconds["compile"] += compiled
        self._lap = now
        self._compiled.clear()

    def begin_steps(self) -> None:
        """Ends the start-up."""
        self.lap("start")
        self._part = "steps"

    @contextlib.contextmanager
    def on(self, part: str) -> Iterator[None]:
        """Gives the enclosed time to a part."""
        self.lap(self._part)
        yield
        self.lap(part)

    def values(self) -> dict[str, float]:
        """The goodput, 0 to 1, and the seconds of each part."""
        self.lap(self._part)
        share = self._seconds["steps"] / sum(self._seconds.values())
        return {"goodput": share} | {f"seconds/{part}": s for part, s in self._seconds.items()}

    def summary(self) -> str:
        """One line with the share of each part; they add up to 1."""
        self.lap(self._part)
        total = sum(self._seconds.values())
        shares = [f"{PARTS[part]} {s / total:.1%}" for part, s in self._seconds.items()]
        return f"goodput of {total / 60:.1f} min: {', '.join(shares)}"
