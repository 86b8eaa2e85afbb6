"""The registries of features and metrics.

A feature describes each clip by an array of numbers. A metric compares the features of drawn clips
with those of real clips. Several metrics may use the same feature, which is computed once.

    @feature("brightness", version="1")
    def brightness(mesh, fps):
        return lambda clips: clips.mean((2, 3, 4))

    @metric("contrast", of="brightness", better="real")
    def contrast(drawn, real):
        return drawn.std()
"""

import dataclasses
from collections.abc import Callable
from typing import Literal

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Shaped, UInt8

Clips = UInt8[np.ndarray, "N T H W 3"]
Features = Shaped[np.ndarray, "..."]  # a row per clip
Extract = Callable[[Clips], Features]
Compare = Callable[..., float]
Better = Literal["lower", "higher", "real"]


@dataclasses.dataclass(frozen=True)
class Feature:
    """A registered feature.

    Attributes:
      make: maps a mesh and the frames per second to a function from any number of clips to a row
        per clip, which may use the devices of the mesh. The row of a clip must not depend on the
        other clips.
      version: changes when the same clip gives another row, such as a hash of a network's weights.
      frames: fewest frames of a clip.
    """

    make: Callable[[Mesh, float], Extract]
    version: str
    frames: int


@dataclasses.dataclass(frozen=True)
class Metric:
    """A registered metric.

    Attributes:
      of: name of its feature.
      compare: maps the features of drawn and of real clips to a number.
      better: whether a lower or a higher number is better, or one closer to that of real clips.
      table: maps the features of N clips to numbers of all pairs of them [N,N]. If it is given,
        `compare` gets the numbers of the pairs among drawn, among real, and between drawn and real
        clips in place of the features.
    """

    of: str
    compare: Compare
    better: Better
    table: Callable[[Features], Features] | None = None


@dataclasses.dataclass(frozen=True)
class Paired:
    """A registered metric of predicted clips, each against the true clip.

    Attributes:
      make: maps a mesh to a function of predicted and true clips, which gives a number for each
        frame [N,T].
      version: changes when the same clips give another number.
      better: whether a lower or a higher number is better.
      size: fewest pixels of height and width.
    """

    make: Callable[[Mesh], Callable[[Clips, Clips], Features]]
    version: str
    better: Better
    size: int


FEATURES: dict[str, Feature] = {}
METRICS: dict[str, Metric | Paired] = {}


def feature(name: str, *, version: str, frames: int = 1) -> Callable:
    """Registers a function as the feature `name`; see `Feature`."""

    def register(make: Callable[[Mesh, float], Extract]) -> Callable[[Mesh, float], Extract]:
        FEATURES[name] = Feature(make, version, frames)
        return make

    return register


def paired(name: str, *, version: str, better: Better, size: int = 1) -> Callable:
    """Registers a function as the metric `name`; see `Paired`."""

    def register(make: Callable) -> Callable:
        METRICS[name] = Paired(make, version, better, size)
        return make

    return register


def metric(
    name: str, *, of: str, better: Better, table: Callable[[Features], Features] | None = None
) -> Callable[[Compare], Compare]:
    """Registers a function as the metric `name`; see `Metric`."""

    def register(compare: Compare) -> Compare:
        METRICS[name] = Metric(of, compare, better, table)
        return compare

    return register
