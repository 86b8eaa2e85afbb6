"""The FLOPs of a network, counted in its jaxpr.

Only matrix products and convolutions count, 2 FLOPs per multiply-add, as is usual for model FLOPs
utilisation (Chowdhery et al. 2022, arXiv 2204.02311, appendix B): layers with a kernel, attention
scores and weighted sums of values. Elementwise work, such as norms, softmax, activations and rotary
positions, is left out. Masked entries count, because they are computed.
"""

import math
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import Jaxpr, JaxprEqn, jaxprs_in_params

# In the path of an equation or parameter: its block and word, or the modulation outside of blocks.
_WORD = re.compile(r"\bblocks_\d+\)*/([A-Za-z]\w*?)_\d+(_modulation)?\b")
_MODULATION = re.compile(r"\b(blocks_\d+_)?modulation\b")


def forward_flops(apply: Callable[..., Any], *arguments: Any) -> dict[str, int]:
    """FLOPs of one forward pass.

    Args:
      apply: the method of a `SpaceTimeTransformer`.
      arguments: its arguments, variables first; shapes and dtypes suffice.

    Returns:
      FLOPs by name: each word, the sum of its mixers over the whole depth; `modulation`, the adaLN
      layers; `embedding`, the layers for patches, noise levels, conditions and pixels.

    Raises:
      ValueError: a kernel does not declare its cost, or a loop has an unknown length.
    """
    counts: Counter[str] = Counter()
    for path, flops in count(jax.make_jaxpr(apply)(*arguments).jaxpr).items():
        counts[part_of(path)] += flops
    return dict(sorted(counts.items()))


def part_of(path: str) -> str:
    """The part of a network, as in `forward_flops`, that a path of its modules belongs to."""
    if word := _WORD.search(path):
        return "modulation" if word[2] else word[1]
    return "modulation" if _MODULATION.search(path) else "embedding"


def train_flops(apply: Callable[..., Any], *arguments: Any) -> dict[str, int]:
    """FLOPs of one training step: three times `forward_flops`.

    The backward pass has two products for each product of the forward pass, so a weight costs 6
    FLOPs per token. Recomputation (`model.remat`) and the optimizer are not counted.
    """
    return {name: 3 * flops for name, flops in forward_flops(apply, *arguments).items()}


def count(jaxpr: Jaxpr, above: str = "") -> Counter[str]:
    """FLOPs by their path of named scopes, below `above`.

    Flax names the scopes after its modules. The body of a scan counts once per iteration, a cond as
    its most expensive branch, and a `shard_map` as its body on all devices. A while loop runs an
    unknown number of times, so its body must have nothing to count.
    """
    total: Counter[str] = Counter()
    for eqn in jaxpr.eqns:
        path, name = f"{above}/{eqn.source_info.name_stack}", eqn.primitive.name
        if name in COSTS:
            total[path] += COSTS[name](eqn, path)
            continue
        parts = [count(inner, path) for inner in _run_by(eqn)]
        if name == "cond":
            parts = [max(parts, key=Counter.total)]
        if name == "while" and any(parts):
            raise ValueError(f"{path}: a while loop has no known number of steps; use a scan")
        times = 1
        if name == "scan":
            times = eqn.params["length"]
        elif name == "shard_map":
            shape, axes = eqn.params["mesh"].shape, eqn.params["newly_manual_axes"]
            times = math.prod(shape[axis] for axis in axes)
        for part in parts:
            total.update({inner: times * flops for inner, flops in part.items()})
    return total


def _run_by(eqn: JaxprEqn) -> list[Jaxpr]:
    if eqn.primitive.name == "custom_linear_solve":  # its other jaxprs are for derivatives
        return [eqn.params["jaxprs"].solve.jaxpr]
    return list(jaxprs_in_params(eqn.params))


def _product(eqn: JaxprEqn, path: str) -> int:
    if "dimension_numbers" in eqn.params:
        (contracted, _), _ = eqn.params["dimension_numbers"]
    else:  # a ragged product: each group of rows has its own matrix
        (contracted, _), _ = eqn.params["ragged_dot_dimension_numbers"].dot_dimension_numbers
    left = eqn.invars[0].aval.shape
    return 2 * eqn.outvars[0].aval.size * math.prod(left[axis] for axis in contracted)


def _convolution(eqn: JaxprEqn, path: str) -> int:
    """Zeros of padding and dilation are counted."""
    kernel = eqn.invars[1].aval
    outputs = kernel.shape[eqn.params["dimension_numbers"].rhs_spec[0]]
    return 2 * eqn.outvars[0].aval.size * kernel.size // outputs


def _cudnn(eqn: JaxprEqn, path: str) -> int:
    """Scores and weighted sums of cuDNN's attention; query and key are [G,L,K,d], [G,S,K,d]."""
    query, key = (x.aval for x in eqn.invars[:2])
    return 4 * query.size * key.shape[1]


def _declared(eqn: JaxprEqn, path: str) -> int:
    cost = eqn.params["cost_estimate"]
    if cost is None:
        raise ValueError(
            f"{path}: a Pallas kernel declares no cost; give pallas_call a cost_estimate"
        )
    return cost.flops


def _undeclared(eqn: JaxprEqn, path: str) -> int:
    name = eqn.primitive.name
    raise ValueError(f"{path}: {name} declares no cost; add one to flops.COSTS")


# The cost of an equation, by its primitive.
COSTS: dict[str, Callable[[JaxprEqn, str], int]] = {
    "dot_general": _product,
    "ragged_dot_general": _product,
    "conv_general_dilated": _convolution,
    "pallas_call": _declared,
    "ffi_call": _undeclared,
    "dot_product_attention_fwd_wrapper": _cudnn,
}
