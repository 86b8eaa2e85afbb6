"""A network, a diffusion process and what the network predicts: the one place where they meet.

The network sees x_t at the process's input scale and predicts, say, the velocity; whoever asks
gets that prediction or the clean frames, x0. Training, sampling, streaming and benchmarks all ask
here.
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
    """What a network makes of noisy frames.

    Attributes:
      net: maps frames, noise levels, times and conditions to a prediction.
      process: by which frames became noisy.
      prediction: what the network predicts, one of `diffusion.process.PREDICTIONS`.
    """

    net: SpaceTimeTransformer
    process: Process
    prediction: str

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """What the network can be asked for."""
        return self.net.conditions

    def predict(
        self,
        variables: Mapping[str, Any],
        x_t: Float[Array, "B T H W C"],
        noise: Float[Array, "B T"],
        time: Float[Array, "B T"],
        given: Mapping[str, PyTree],
        **options: Any,
    ) -> Any:
        """The network's prediction [B,T,H,W,C] in float32.

        Args:
          variables: `params`, and for a stream the `cache`.
          x_t: noisy frames, in the scale of the process.
          noise: their levels in [0,1].
          time: of each frame, in seconds.
          given: what the network sees of each condition, from `conditions.condition.prepare`.
          options: of Flax's `apply`; with `mutable` it returns the new variables as well.
        """
        with nn.logical_axis_rules(rules.RULES):
            scaled = x_t * input_scale(self.process, noise)
            return self.net.apply(variables, scaled, noise, time, given, **options)

    def x0(
        self,
        variables: Mapping[str, Any],
        x_t: Float[Array, "B T H W C"],
        noise: Float[Array, "B T"],
        time: Float[Array, "B T"],
        given: Mapping[str, PyTree],
    ) -> Float32[Array, "B T H W C"]:
        """The clean frames that the network sees in `x_t`; arguments as of `predict`."""
        output = self.predict(variables, x_t, noise, time, given)
        return convert(self.process, output, x_t, noise, self.prediction, "x0")


def make_denoiser(config: ConfigDict) -> Denoiser:
    """The denoiser of a config: its network, process and prediction."""
    fields = config.model.to_dict()
    fields |= {name: tuple(fields[name]) for name in ("patch", "window")}
    fields |= {"dtype": jnp.dtype(fields["dtype"]), "conditions": make_conditions(config)}
    d = config.diffusion
    return Denoiser(SpaceTimeTransformer(**fields), PROCESSES[d.process], d.prediction)
