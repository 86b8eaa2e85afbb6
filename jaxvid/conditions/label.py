"""The class of a clip, as a learned vector."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Int32
from ml_collections import ConfigDict

from jaxvid.conditions.condition import Condition, condition
from jaxvid.config import FRACTION, NATURAL, Rule, declare, is_sequence, key
from jaxvid.data.clips import Clip
from jaxvid.data.sources import Source
from jaxvid.errors import InputError, nearest
from jaxvid.models.conditioning import Entry, Setting, Table

declare(
    "conditions.label",
    classes=key(0, NATURAL, "number of classes; 0 is off", was="model.labels"),
    names=key(
        (),
        Rule("names", lambda v: is_sequence(v, lambda name: isinstance(name, str))),
        "names of the classes; training takes them from the data",
        free=True,
    ),
    dropout=key(
        0.0, FRACTION, "extra share of clips that train without a label", was="model.label_dropout"
    ),
)


@condition("label")
@dataclasses.dataclass(frozen=True)
class Label(Condition):
    """A class index, int32 [B]; -1 is null.

    Attributes:
      classes: number of classes.
      names: names of the classes, if they are known.
      dropout: share of clips that train without a label.
    """

    flag: ClassVar[str] = "label"
    flag_help: ClassVar[str] = (
        "Class of all clips, by name or number; by default all classes in turn."
    )

    classes: int
    names: tuple[str, ...] = ()
    dropout: float = 0.0

    @classmethod
    def from_config(cls, config: ConfigDict) -> "Label | None":
        """The condition, or None if `classes` is 0."""
        c = config.conditions.label
        return cls(c.classes, tuple(c.names), c.dropout) if c.classes else None

    def encode(self, sample: Mapping[str, np.ndarray], clip: Clip | None) -> Int32[np.ndarray, ""]:
        """The label of the clip."""
        return np.asarray(sample["label"], np.int32)

    def check(self, source: Source, clips: Sequence[Clip]) -> None:
        """Raises InputError if the data has another number of classes."""
        if self.classes != len(source.labels):
            raise InputError(
                f"config.conditions.label.classes={self.classes}, but the data has "
                f"{len(source.labels)} classes"
                f"{': ' + ', '.join(source.labels[:8]) if source.labels else ''}; set it to "
                f"{len(source.labels)}, or to 0 to train without them"
            )

    def truths(self) -> dict[str, str]:
        """Classes."""
        return {"label": "classes"}

    def by_default(self, arrays: Int32[np.ndarray, " B"]) -> Int32[np.ndarray, " B"]:
        """All classes in turn."""
        return np.arange(len(arrays), dtype=np.int32) % self.classes

    def parse(self, value: str, frames: int) -> Int32[np.ndarray, ""]:
        """The class with a name or number; raises InputError if there is none."""
        if value in self.names:
            return np.array(self.names.index(value), np.int32)
        if not value.isdecimal() or int(value) >= self.classes:
            known = f": {', '.join(self.names)}" if self.names else ""
            raise InputError(
                f"--label={value}: {nearest(value, self.names)}the model has {self.classes} "
                f"classes, from 0{known}"
            )
        return np.array(int(value), np.int32)

    def describe(self, arrays: Int32[np.ndarray, ""]) -> str:
        """The name of the class, or its number."""
        if arrays < 0:
            return ""
        return self.names[arrays] if self.names else f"class {arrays}"

    def null(self, arrays: Int32[Array, " B"]) -> Int32[Array, " B"]:
        """-1 for every clip."""
        return jnp.full_like(arrays, -1)

    def embed(self, arrays: Int32[Array, " B"], setting: Setting) -> Entry:
        """A vector for all frames."""
        return LabelEmbedding(self.classes, setting, name=self.name)(arrays)


class LabelEmbedding(nn.Module):
    """A learned vector for each class, and one for null."""

    classes: int
    setting: Setting

    @nn.compact
    def __call__(self, label: Int32[Array, " B"]) -> Entry:
        rows = Table(self.classes + 1, 0.02, self.setting, name="classes")
        return Entry(frame=rows(jnp.where(label < 0, self.classes, label))[:, None])
