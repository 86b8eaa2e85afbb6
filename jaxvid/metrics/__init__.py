"""Metrics of drawn clips against real clips. Importing the file of a metric registers it."""

from jaxvid.config import NATURAL, Rule, declare, is_int, is_sequence, key, one_of
from jaxvid.metrics import energy  # noqa: F401
from jaxvid.metrics.metric import METRICS

declare(
    "evals",
    every=key(0, NATURAL, "steps between evaluations; 0 is off", free=True),
    metrics=key(
        ("energy",),
        Rule(
            lambda: "names among " + ", ".join(METRICS),
            lambda v: bool(v) and is_sequence(v, one_of(METRICS).holds),
        ),
        "metrics to compute",
        free=True,
    ),
    num=key(
        64,
        Rule("an integer of at least 3", lambda v: is_int(v) and v >= 3),
        "clips that are drawn, and compared with as many from the data",
        free=True,
    ),
)
