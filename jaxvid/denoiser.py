"""The denoiser: a network, its diffusion process and the kind of its prediction.

Training, sampling, streaming and benchmarks all call the network here. It sees x_t at the input
scale of the process; a call returns its prediction, such as the velocity, or the clean frames x0.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Float32, PyTree
from ml_collections import ConfigDict

from jaxvid import conditions  # noqa: F401
from jaxvid.conditions.condition import Condition, make_conditions
from jaxvid.diffusion.process import PROCESSES, Process, convert, input_scale
from jaxvid.models.transformer import SpaceTimeTransformer
from jaxvid.parallel import rules


@dataclasses.dataclass(frozen=True)
class Denoiser:
    """A network with its diffusion process and prediction.

    Attributes:
      net: maps frames, noise levels, times and conditions to a prediction.
      process: the diffusion process that made the frames noisy.
      prediction: what the network predicts, one of `diffusion.process.PREDICTIONS`.
    """

    net: SpaceTimeTransformer
    process: Process
    prediction: str

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """The conditions of the network."""
        return self.net.conditions

    def at(self, detail: tuple[int, ...]) -> "Denoiser":
        """The denoiser with other levels of detail of its frames; () for the same."""
        return dataclasses.replace(self, net=self.net.clone(detail=detail)) if detail else self

    def predict(
        self,
        variables: Mapping[str, Any],
        x_t: Float[Array, "B T H W C"],
        noise: Float[Array, "B T"],
        time: Float[Array, "B T"],
        given: Mapping[str, PyTree],
        lots: Float[Array, "B T"] | None = None,
        **options: Any,
    ) -> Any:
        """The network's prediction [B,T,H,W,C] in float32.

        Args:
          variables: `params`, and in a stream also the `cache`.
          x_t: noisy frames, in the scale of the process.
          noise: noise levels of the frames in [0,1].
          time: times of the frames in seconds.
          given: the arrays of each condition, from `conditions.condition.prepare`.
          lots: random numbers by which some frames skip layers; None for none.
          options: arguments of Flax's `apply`; `mutable` makes it return the new variables too.
        """
        with nn.logical_axis_rules(rules.RULES):
            scaled = x_t * input_scale(self.process, noise)
            return self.net.apply(variables, scaled, noise, time, given, lots, **options)

    def x0(
        self,
        variables: Mapping[str, Any],
        x_t: Float[Array, "B T H W C"],
        noise: Float[Array, "B T"],
        time: Float[Array, "B T"],
        given: Mapping[str, PyTree],
    ) -> Float32[Array, "B T H W C"]:
        """The network's estimate of the clean frames in `x_t`; takes the arguments of `predict`."""
        output = self.predict(variables, x_t, noise, time, given)
        return convert(self.process, output, x_t, noise, self.prediction, "x0")


def make_denoiser(config: ConfigDict, platform: str = "cpu") -> Denoiser:
    """Makes the denoiser of a config, for devices of a platform ("cpu", "gpu" or "tpu")."""
    fields = config.model.to_dict()
    del fields["detail_onwards"], fields["detail_between"]  # see `Denoiser.at`
    fields |= {name: tuple(fields[name]) for name in ("patch", "detail")}
    fields |= {"patches": tuple(map(tuple, fields["patches"])), "dtype": jnp.dtype(fields["dtype"])}
    fields |= {"conditions": make_conditions(config), "platform": platform}
    d = config.diffusion
    return Denoiser(SpaceTimeTransformer(**fields), PROCESSES[d.process], d.prediction)
