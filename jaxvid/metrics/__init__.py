"""Scores of drawn clips against real clips. Importing the file of a metric registers it."""

from ml_collections import ConfigDict

from jaxvid.config import NATURAL, Rule, declare, is_int, is_sequence, key, one_of, requirement
from jaxvid.errors import InputError
from jaxvid.metrics import energy, i3d, motion, perceptual, physics, similarity  # noqa: F401
from jaxvid.metrics.metric import METRICS
from jaxvid.metrics.protocols import FEWEST, PROTOCOLS

declare(
    "evals",
    loss=key(64, NATURAL, "validation clips for the loss at fixed noise; 0 is off", free=True),
    best=key(
        "",
        Rule('"", "loss" or "PROTOCOL/METRIC"', lambda v: isinstance(v, str)),
        'score whose best weights are kept, such as "quick/energy"; "" is off',
        free=True,
    ),
    every=key(0, NATURAL, "steps between evaluations; 0 is off", free=True),
    protocols=key(
        ("quick",),
        Rule(
            lambda: "names among " + ", ".join(PROTOCOLS),
            lambda v: is_sequence(v, one_of(PROTOCOLS).holds),
        ),
        "protocols by which drawn clips are scored",
        free=True,
    ),
    metrics=key(
        (),
        Rule(
            lambda: "names among " + ", ".join(METRICS),
            lambda v: is_sequence(v, one_of(METRICS).holds),
        ),
        "metrics to compute; () for those of each protocol",
        free=True,
    ),
    num=key(
        0,
        Rule(f"0 or an integer of at least {FEWEST}", lambda v: is_int(v) and not 0 < v < FEWEST),
        "clips that are drawn, and compared with as many; 0 for the number of each protocol",
        free=True,
    ),
)


@requirement
def _check_best(config: ConfigDict) -> None:
    c = config.evals
    scores = {
        f"{name}/{metric}": METRICS[metric].better
        for name in c.protocols
        for metric in c.metrics or PROTOCOLS[name].metrics
    }
    ordered = [name for name, better in scores.items() if better != "real"]
    ordered += ["loss"] * bool(c.loss)
    if c.best and (not c.every or c.best not in ordered):
        raise InputError(
            f"config.evals.best={c.best}: with config.evals.every above 0, it must be one of "
            f"{', '.join(ordered)}"
        )
