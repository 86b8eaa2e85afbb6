"""Every key of a config, and what it may be."""

import math
from collections.abc import Callable
from typing import Any

from jaxvid.diffusion.loss import WEIGHTINGS
from jaxvid.diffusion.noise import DISTRIBUTIONS
from jaxvid.diffusion.process import PREDICTIONS, PROCESSES
from jaxvid.diffusion.sampler import SAMPLERS
from jaxvid.diffusion.schedule import SPACINGS
from jaxvid.diffusion.tasks import TASKS
from jaxvid.models.transformer import ADALN, POSITIONS, REMAT_POLICIES
from jaxvid.parallel.mesh import AXES
from jaxvid.training.ema import WIDEST, is_width
from jaxvid.training.optimizer import DECAYS, OPTIMIZERS

Rule = tuple[str, Callable[[Any], bool]]


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return _is_int(value) or (isinstance(value, float) and math.isfinite(value))


def _is_ints(value: Any, least: int) -> bool:
    return (
        isinstance(value, tuple | list)
        and bool(value)
        and all(_is_int(v) and v >= least for v in value)
    )


def _is_stacks(value: Any) -> bool:
    return (
        isinstance(value, tuple | list)
        and bool(value)
        and all(isinstance(v, tuple | list) and len(v) == 2 for v in value)
        and all(isinstance(line, str) and _is_int(n) and n >= 1 for line, n in value)
    )


def _one_of(*names: str) -> Rule:
    return "one of " + ", ".join(names), lambda v: v in names


NATURAL: Rule = ("an integer of at least 0", lambda v: _is_int(v) and v >= 0)
POSITIVE: Rule = ("an integer of at least 1", lambda v: _is_int(v) and v >= 1)
AXIS: Rule = ("an integer of at least 1, or -1 for the rest", lambda v: _is_int(v) and v != 0)
NUMBER: Rule = ("a number", _is_number)
ABOVE_0: Rule = ("a number above 0", lambda v: _is_number(v) and v > 0)
UNIT: Rule = ("a number from 0 to 1", lambda v: _is_number(v) and 0 <= v <= 1)
NOT_BELOW_0: Rule = ("a number of at least 0", lambda v: _is_number(v) and v >= 0)
FRACTION: Rule = ("a number from 0 to 1, 1 left out", lambda v: _is_number(v) and 0 <= v < 1)
SCALE: Rule = ("a number above 0, at most 1", lambda v: _is_number(v) and 0 < v <= 1)
FLAG: Rule = ("True or False", lambda v: isinstance(v, bool))
TEXT: Rule = ("a text", lambda v: isinstance(v, str))

KEYS: dict[str, Rule] = {
    "seed": NATURAL,
    "steps": POSITIVE,
    "batch_size": POSITIVE,
    "data.source": _one_of("synthetic", "clips"),
    "data.path": TEXT,
    "data.frames": POSITIVE,
    "data.size": POSITIVE,
    "data.fps": ABOVE_0,
    "data.shapes": (
        "(fewest, most), from 1 up",
        lambda v: _is_ints(v, 1) and len(v) == 2 and v[0] <= v[1],
    ),
    "data.spin": NOT_BELOW_0,
    "data.text_length": NATURAL,
    "data.text_embeddings": TEXT,
    "data.text_dim": NATURAL,
    "data.action_dim": NATURAL,
    "data.low_res": NATURAL,
    "data.strides": ("integers of at least 1", lambda v: _is_ints(v, 1)),
    "data.flip": FLAG,
    "data.crop": SCALE,
    "data.reverse": FLAG,
    "data.brightness": UNIT,
    "data.contrast": UNIT,
    "data.workers": NATURAL,
    "data.prefetch": POSITIVE,
    "data.max_bad": NATURAL,
    **{f"tasks.{task}": NOT_BELOW_0 for task in TASKS},
    "model.blocks": (
        "a line of the grammar, or a tuple of (line, depth)",
        lambda v: isinstance(v, str) or _is_stacks(v),
    ),
    "model.depth": POSITIVE,
    "model.width": POSITIVE,
    "model.heads": POSITIVE,
    "model.patch": ("(frames, rows, columns)", lambda v: _is_ints(v, 1) and len(v) == 3),
    "model.mlp_ratio": POSITIVE,
    "model.causal": FLAG,
    "model.window": ("(frames, rows, columns)", lambda v: _is_ints(v, 1) and len(v) == 3),
    "model.positions": _one_of(*POSITIONS),
    "model.adaln": _one_of(*ADALN),
    "model.labels": NATURAL,
    "model.text_depth": POSITIVE,
    "model.label_dropout": FRACTION,
    "model.text_dropout": FRACTION,
    "model.action_dropout": FRACTION,
    "model.low_res_dropout": FRACTION,
    "model.remat": _one_of(*REMAT_POLICIES),
    "model.unroll": POSITIVE,
    "model.dtype": _one_of("float32", "bfloat16"),
    "diffusion.process": _one_of(*PROCESSES),
    "diffusion.prediction": _one_of(*PREDICTIONS),
    "diffusion.loss": _one_of(*PREDICTIONS),
    "diffusion.weighting": _one_of(*WEIGHTINGS),
    "diffusion.gamma": ABOVE_0,
    "diffusion.bias": ("a number from -20 to 20", lambda v: _is_number(v) and abs(v) <= 20),
    "diffusion.noise": _one_of(*DISTRIBUTIONS),
    "diffusion.noise_mean": NUMBER,
    "diffusion.noise_std": ABOVE_0,
    "diffusion.noise_low": FRACTION,
    "diffusion.stratified": FLAG,
    "diffusion.per_frame": FLAG,
    "diffusion.shift_reference": NOT_BELOW_0,
    "diffusion.observed_noise": UNIT,
    "diffusion.low_res_noise": UNIT,
    "optimizer.name": _one_of(*OPTIMIZERS),
    "optimizer.lr": ABOVE_0,
    "optimizer.warmup": NATURAL,
    "optimizer.decay": _one_of(*DECAYS),
    "optimizer.weight_decay": NOT_BELOW_0,
    "optimizer.b2": FRACTION,
    "optimizer.clip": NOT_BELOW_0,
    "optimizer.accumulate": POSITIVE,
    "ema.decay": FRACTION,
    "ema.widths": (
        f"() or different numbers above 0, at most {WIDEST}",
        lambda v: isinstance(v, tuple | list) and all(map(is_width, v)) and len(set(v)) == len(v),
    ),
    "ema.snapshot_every": POSITIVE,
    **{f"mesh.{axis}": AXIS for axis in AXES},
    "checkpoint.every": POSITIVE,
    "checkpoint.keep": POSITIVE,
    "log.every": POSITIVE,
    "log.sample_every": NATURAL,
    "sampler.name": _one_of(*SAMPLERS),
    "sampler.steps": POSITIVE,
    "sampler.spacing": _one_of(*SPACINGS),
    "sampler.lag": NATURAL,
    "sampler.eta": UNIT,
    "sampler.cfg_scale": NUMBER,
    "sampler.cfg_interval": (
        "(lowest, highest) noise level, from 0 to 1",
        lambda v: isinstance(v, tuple | list) and len(v) == 2 and all(map(UNIT[1], v)),
    ),
    "sampler.cfg_rescale": UNIT,
    "sampler.observed_noise": UNIT,
    "sampler.low_res_noise": UNIT,
    "sampler.num": POSITIVE,
}

# Where and how a run is carried out, not what it computes: these may change when it is resumed.
RESUMABLE = ("mesh.", "checkpoint.", "log.", "sampler.", "data.workers", "data.prefetch",
             "data.max_bad", "ema.snapshot_every", "model.unroll", "model.remat")  # fmt: skip
