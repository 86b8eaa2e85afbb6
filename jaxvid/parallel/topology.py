"""TPU pods that are not there: their devices, for which libtpu compiles on any machine."""

import importlib.util

import jax
from jax.experimental import topologies

from jaxvid.errors import InputError
from jaxvid.parallel.chips import CHIPS, Chip

EXAMPLES = "v4:4x4x4, v5e:4x4, v5p:4x4x8, v6e:16x16 or tpu7x:4x4x4"


def pod_of(topology: str, slices: int = 1) -> tuple[list[jax.Device], Chip]:
    """The devices of a topology, which can compile and nothing else, and their kind of chip.

    Args:
      topology: generation and shape of a slice, such as "v5e:4x4".
      slices: number of such slices.

    Raises:
      InputError: there is no such topology, or no libtpu.
    """
    generation, chip = topology.partition(":")[0], CHIPS.get(topology.partition(":")[0])
    if not chip:
        raise InputError(
            f"--topology={topology}: give GENERATION:SHAPE, as in {EXAMPLES}; {generation!r} is "
            f"not one of {', '.join(CHIPS)}"
        )
    if not importlib.util.find_spec("libtpu"):
        raise InputError(
            f'--topology={topology}: the compiler for TPUs is missing: pip install "jax[tpu]"; it '
            "needs no TPU"
        )
    several = {"num_slices": slices} if slices > 1 else {}
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=topology, **several)
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split()).removeprefix("INVALID_ARGUMENT: ")
        raise InputError(
            f"--topology={topology}: {reason}; give a shape that exists, as in {EXAMPLES}"
        ) from error
    return list(found.devices), chip
