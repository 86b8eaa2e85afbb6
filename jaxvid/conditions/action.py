"""The action at each frame: a vector, such as a velocity or the buttons of a game."""

import dataclasses
import os
import warnings
from collections.abc import Mapping, Sequence
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import linen as nn
from jaxtyping import Array, Bool, Float32, PyTree
from ml_collections import ConfigDict

from jaxvid.conditions.condition import Condition, condition
from jaxvid.config import FRACTION, NATURAL, declare, key
from jaxvid.data.clips import Clip
from jaxvid.data.sources import Source
from jaxvid.errors import InputError
from jaxvid.files import local, to_path
from jaxvid.models.conditioning import Entry, Setting, vector
from jaxvid.models.layers import dense

declare(
    "conditions.action",
    dim=key(0, NATURAL, "numbers per action; 0 is off", was="data.action_dim"),
    dropout=key(
        0.0, FRACTION, "extra share of clips that train without actions", was="model.action_dropout"
    ),
)


@condition("action")
@dataclasses.dataclass(frozen=True)
class Action(Condition):
    """`action` float32 [B,T,A], and `mask` bool [B,T], True where the action is known.

    Attributes:
      dim: A, the numbers per action.
      dropout: share of clips that train without actions.
    """

    flag: ClassVar[str] = "actions"
    flag_help: ClassVar[str] = (
        "A file with the actions: a row of comma-separated numbers per frame, from the first "
        "frame on. Frames after its end have unknown actions."
    )

    dim: int
    dropout: float = 0.0

    @classmethod
    def from_config(cls, config: ConfigDict) -> "Action | None":
        """The condition, or None if `dim` is 0."""
        c = config.conditions.action
        return cls(c.dim, c.dropout) if c.dim else None

    def encode(self, sample: Mapping[str, np.ndarray], clip: Clip | None) -> dict[str, np.ndarray]:
        """The actions of a clip; raises InputError if their width is not `dim`."""
        T, action = len(sample["time"]), sample.get("action")
        if action is None:
            return {"action": np.zeros((T, self.dim), np.float32), "mask": np.zeros(T, bool)}
        self._check_width(action)
        return {"action": action, "mask": np.ones(T, bool)}

    def _check_width(self, action: Float32[np.ndarray, "T A"]) -> None:
        if action.shape[1] != self.dim:
            raise InputError(
                f"config.conditions.action.dim={self.dim}, but an action of the data has "
                f"{action.shape[1]} numbers: set config.conditions.action.dim={action.shape[1]}"
            )

    def check(self, source: Source, clips: Sequence[Clip]) -> None:
        """Raises InputError if no clip has actions, or if their width is not `dim`."""
        found = [clip.action for clip in clips if clip.action is not None]
        if not found:
            raise InputError(
                f"config.conditions.action.dim={self.dim}, but the clips have no actions: set it "
                "to 0, or write records with actions (jaxvid.data.records.encode)"
            )
        for action in found:
            self._check_width(action)

    def truths(self) -> dict[str, str]:
        """Actions."""
        return {"action": "actions"}

    def parse(self, value: str, frames: int) -> dict[str, np.ndarray]:
        """The actions in a file; see `read_actions`."""
        action, mask = read_actions(value, frames, self.dim)
        return {"action": action, "mask": mask}

    def window(self, arrays: Mapping[str, np.ndarray], frames: np.ndarray) -> PyTree:
        """The actions of a window; they are unknown after the end of the arrays."""
        index, known = frames, arrays["mask"].shape[1]
        cut = {name: x.take(index, axis=1, mode="clip") for name, x in arrays.items()}
        return cut | {"mask": cut["mask"] & (index < known)}

    def null(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """The arrays with all actions unknown."""
        return {**arrays, "mask": jnp.zeros_like(arrays["mask"])}

    def embed(self, arrays: Mapping[str, Array], setting: Setting) -> Entry:
        """A vector per frame."""
        return ActionEmbedding(setting, name=self.name)(arrays)


class ActionEmbedding(nn.Module):
    """A two-layer perceptron on the actions of each patch of frames.

    Between its layers, a learned vector replaces unknown actions and the frames are concatenated.
    """

    setting: Setting

    @nn.compact
    def __call__(self, arrays: Mapping[str, Array]) -> Entry:
        width, dtype = self.setting.width, self.setting.dtype
        h = dense(width, dtype, (None, "embed"), "in")(arrays["action"])
        h = jnp.where(arrays["mask"][..., None], h, vector(self, "null", self.setting))
        h = rearrange(nn.silu(h), "b (t p) d -> b t (p d)", p=self.setting.per_patch)
        return Entry(frame=dense(width, dtype, ("embed", None), "out")(h))


def read_actions(
    path: str | os.PathLike, frames: int, width: int
) -> tuple[Float32[np.ndarray, "{frames} {width}"], Bool[np.ndarray, " {frames}"]]:
    """Reads actions from a text file with a row of comma-separated numbers per frame.

    Returns:
      The actions, and a mask that is False for frames after the last row.

    Raises:
      InputError: the file cannot be read, has no rows, more rows than `frames`, or not `width`
        columns.
    """
    try:
        with (
            local(to_path(path, "--actions")) as here,
            here.open(encoding="utf-8-sig") as file,
            warnings.catch_warnings(action="ignore"),
        ):
            # Given a path, numpy would also fetch a URL or unpack an archive.
            rows = np.loadtxt(file, np.float32, delimiter=",", ndmin=2)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{path}: not a table of numbers separated by commas: {error}") from error
    count, columns = rows.shape
    if not 1 <= count <= frames or columns != width or not np.isfinite(rows).all():
        raise InputError(
            f"{path}: {count} rows of {columns} numbers: give 1 to {frames} rows, one per frame, "
            f"of {width} finite numbers, the size of the model's actions"
        )
    action = np.zeros((frames, width), np.float32)
    action[:count] = rows
    return action, np.arange(frames) < count
