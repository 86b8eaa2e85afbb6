"""The state that a causal mixer carries from one window of frames to the next.

The state is in Linen's "cache" collection. The arguments of `apply` say how it is used:

  apply({"params": p}, …)                                  no state
  apply({"params": p}, …, mutable=["cache"])               a stream begins: the state is written
  apply({"params": p, "cache": c}, …, mutable=["cache"])   the stream continues: read and written
  apply({"params": p, "cache": c}, …)                      read only, as in the steps of a sampler
                                                           that denoises a window

Under `nn.scan` the collection needs an axis, `variable_axes={"params": 0, "cache": 0}`. A network's
`init` creates no state.
"""

from collections.abc import Callable
from typing import Any

from flax import linen as nn


def carried(module: nn.Module, name: str, start: Callable[[], Any]) -> nn.Variable | None:
    """The state that `module` carries under `name`, or None if there is no state.

    Args:
      start: makes the arrays with which a stream begins.
    """
    writes = module.is_mutable_collection("cache")
    if module.is_initializing() or not (writes or module.has_variable("cache", name)):
        return None
    return module.variable("cache", name, start)


def streaming(module: nn.Module) -> bool:
    """Whether `module` reads or writes state in this call."""
    writes = module.is_mutable_collection("cache") or module.has_variable("cache", "past")
    return writes and not module.is_initializing()


def carry(state: nn.Variable | None, value: Any) -> None:
    """Stores `value` for the next window, if the state can be written."""
    if state is not None and state.is_mutable():
        state.value = value
