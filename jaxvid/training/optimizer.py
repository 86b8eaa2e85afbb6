"""Optimizers and learning-rate schedules, from Optax."""

from collections.abc import Callable
from typing import Any

import jax
import optax
from ml_collections import ConfigDict

from jaxvid.config import (
    ABOVE_0,
    FLAG,
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
from jaxvid.training.muon import is_matrix, matrices, scale_by_muon, scale_by_size

Schedule = Callable[[Any], Any]
Rule = Callable[[ConfigDict, Schedule, Any, Callable[[Any], Any]], optax.GradientTransformation]

OPTIMIZERS: dict[str, Rule] = {}
DECAYS = ("constant", "linear", "cosine")


def optimizer(name: str) -> Callable[[Rule], Rule]:
    """Registers a function as an optimizer, for `optimizer.name`.

    It gets the `optimizer` section of the config, the learning rate's schedule, the matrices (of
    `training.muon.matrices`), and a function from parameters to the mask of those that weight decay
    is for.
    """

    def register(rule: Rule) -> Rule:
        OPTIMIZERS[name] = rule
        return rule

    return register


@optimizer("adamw")
def adamw(
    c: ConfigDict, schedule: Schedule, matrices: Any, decayed: Callable[[Any], Any]
) -> optax.GradientTransformation:
    """AdamW (Loshchilov & Hutter 2017, arXiv 1711.05101)."""
    return optax.adamw(schedule, b2=c.b2, weight_decay=c.weight_decay, mask=decayed)


@optimizer("muon")
def muon(
    c: ConfigDict, schedule: Schedule, matrices: Any, decayed: Callable[[Any], Any]
) -> optax.GradientTransformation:
    """Muon for matrices, AdamW for all else (Jordan 2024; Liu et al. 2025, arXiv 2502.16982).

    The updates of matrices are orthogonalised, and scaled to the size of AdamW's, so that one
    learning rate serves both.
    """
    of_each = [x for x in jax.tree.leaves(matrices, is_leaf=is_matrix) if x]
    rules = {
        "muon": optax.chain(
            scale_by_muon(of_each),
            scale_by_size(of_each),
            optax.add_decayed_weights(c.weight_decay, decayed),
            optax.scale_by_learning_rate(schedule),
        ),
        "adam": optax.adamw(
            schedule, b2=c.b2, weight_decay=c.weight_decay, mask=decayed, nesterov=True
        ),
    }
    choice = jax.tree.map(lambda x: "muon" if x else "adam", matrices, is_leaf=is_matrix)
    return optax.partition(rules, choice)


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
    offload=key(
        False,
        FLAG,
        "whether hosts hold the optimizer's state between steps",
        free=True,
    ),
)


def make_schedule(config: ConfigDict) -> Schedule:
    """Linear warm-up from 0 to `optimizer.lr`, then constant, or decay to 0 at the last step."""
    lr, warmup = config.optimizer.lr, config.optimizer.warmup
    rest = max(config.steps - warmup, 1)
    after = {
        "constant": optax.constant_schedule(lr),
        "linear": optax.linear_schedule(lr, 0.0, rest),
        "cosine": optax.cosine_decay_schedule(lr, rest),
    }[config.optimizer.decay]
    return optax.join_schedules([optax.linear_schedule(0.0, lr, warmup), after], [warmup])


def make_optimizer(config: ConfigDict, boxed: Any) -> optax.GradientTransformation:
    """Gradient clipping by global norm, then the rule that `optimizer.name` says.

    Args:
      config: of the run.
      boxed: the abstract parameters in the boxes that declare which of them are matrices.
    """
    c = config.optimizer
    rule = OPTIMIZERS[c.name](c, make_schedule(config), matrices(boxed), _kernels)
    return optax.chain(optax.clip_by_global_norm(c.clip), rule) if c.clip else rule


def _kernels(params: Any) -> Any:
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)


@requirement
def _check_accumulation(config: ConfigDict) -> None:
    if config.batch_size % config.optimizer.accumulate:
        raise InputError(
            f"config.batch_size={config.batch_size} does not divide into "
            f"config.optimizer.accumulate={config.optimizer.accumulate} parts"
        )
