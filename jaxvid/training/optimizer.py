"""Optimizers and learning-rate schedules, from Optax."""

from collections.abc import Callable
from typing import Any

import jax
import optax
from ml_collections import ConfigDict
from optax.contrib import MuonDimensionNumbers, muon

from jaxvid.config import (
    ABOVE_0,
    FRACTION,
    NATURAL,
    NOT_BELOW_0,
    POSITIVE,
    declare,
    key,
    one_of,
    requirement,
)
from jaxvid.errors import InputError

OPTIMIZERS = ("adamw", "muon")
DECAYS = ("constant", "linear", "cosine")


declare(
    "optimizer",
    name=key("adamw", one_of(OPTIMIZERS), "the rule of the updates"),
    lr=key(1e-4, ABOVE_0, "learning rate after the warm-up"),
    warmup=key(1000, NATURAL, "steps in which the learning rate rises from 0"),
    decay=key("constant", one_of(DECAYS), "of the learning rate, to 0 at the last step"),
    weight_decay=key(0.0, NOT_BELOW_0, "decoupled, of kernels only"),
    b2=key(0.999, FRACTION, "decay of the second moment"),
    clip=key(1.0, NOT_BELOW_0, "largest norm of the gradient; 0 is off"),
    accumulate=key(1, POSITIVE, "parts in which a batch goes through the network"),
)


def make_schedule(config: ConfigDict) -> Callable[[Any], Any]:
    """Linear warm-up from 0 to `optimizer.lr`, then constant, or decay to 0 at the last step."""
    lr, warmup = config.optimizer.lr, config.optimizer.warmup
    rest = max(config.steps - warmup, 1)
    after = {
        "constant": optax.constant_schedule(lr),
        "linear": optax.linear_schedule(lr, 0.0, rest),
        "cosine": optax.cosine_decay_schedule(lr, rest),
    }[config.optimizer.decay]
    return optax.join_schedules([optax.linear_schedule(0.0, lr, warmup), after], [warmup])


def make_optimizer(config: ConfigDict) -> optax.GradientTransformation:
    """Gradient clipping by global norm, then AdamW, or Muon with AdamW where it does not apply.

    Muon (Jordan 2024; Liu et al. 2025, arXiv 2502.16982) orthogonalises the update of each matrix
    of the blocks but the modulation's; its updates are scaled to the size of AdamW's, so one
    learning rate serves both. Weight decay touches kernels only.
    """
    c, schedule = config.optimizer, make_schedule(config)
    if c.name == "muon":
        rule = muon(
            schedule,
            weight_decay=c.weight_decay,
            adam_b2=c.b2,
            adam_weight_decay=c.weight_decay,
            weight_decay_mask=_kernels,
            muon_weight_dimension_numbers=_matrices,
            consistent_rms=0.2,
        )
    else:
        rule = optax.adamw(schedule, b2=c.b2, weight_decay=c.weight_decay, mask=_kernels)
    return optax.chain(optax.clip_by_global_norm(c.clip), rule) if c.clip else rule


def _kernels(params: Any) -> Any:
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)


def _matrices(params: Any) -> Any:
    """Which axes of a kernel are its matrix's; the others (layers, and q, k, v) are batches."""

    def dimensions(path: tuple, x: jax.Array) -> MuonDimensionNumbers | None:
        names = [key.key for key in path]
        if not names[0].startswith("blocks") or names[-1] != "kernel":
            return None
        if names[-2] in ("qkv", "query", "key_value"):  # layers, in, parts, heads, head_dim
            return MuonDimensionNumbers(1, (3, 4))
        if names[-2] == "out" and x.ndim == 4:  # layers, heads, head_dim, out
            return MuonDimensionNumbers((1, 2), 3)
        if names[-2].endswith("modulation"):
            # The rank of its gradient is at most the number of noise levels and conditions in the
            # batch; the rest is rounding, and orthogonalised it would weigh as much.
            return None
        if names[-2] == "in":  # layers, in, parts, out
            return MuonDimensionNumbers(1, 3)
        return MuonDimensionNumbers(1, 2)  # layers, in, out

    return jax.tree_util.tree_map_with_path(dimensions, params)


@requirement
def _check_accumulation(config: ConfigDict) -> None:
    if config.batch_size % config.optimizer.accumulate:
        raise InputError(
            f"config.batch_size={config.batch_size} does not divide into "
            f"config.optimizer.accumulate={config.optimizer.accumulate} parts"
        )
