"""How videos become clips."""

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Settings:
    """What all clips of a folder have in common. The defaults are those of older folders.

    Attributes:
      size: S for frames of S x S pixels, or (H, W).
      fps: frames per second.
      frames: of a clip.
      quality: of JPEG, in [1, 100].
      cuts: threshold of scene cuts, see `Cuts`; 0 finds none.
      letterbox: whether dark borders are cut off.
      filters: which clips are kept, see `scores`.
      duplicates: bits of 128 in which the perceptual hashes of two clips may differ for one of them
        to be left out; -1 keeps all.
      shapes: all shapes, as "48x80", that have a folder each; a video goes to the one that crops
        least of it. () if there is only this one.
    """

    size: int | tuple[int, int]
    fps: float
    frames: int
    quality: int = 95
    cuts: float = 0.0
    letterbox: bool = False
    filters: tuple[str, ...] = ()
    duplicates: int = -1
    shapes: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W)."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size

    @property
    def folder(self) -> str:
        """The name of the subfolder of this shape, such as "48x80"; "" for one shape."""
        return "x".join(map(str, self.shape)) if self.shapes else ""

    def to_json(self) -> dict[str, Any]:
        """As numbers, texts and lists."""
        values = dataclasses.asdict(self)
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Settings":
        """From the values of a manifest, which has others too."""
        given = {f.name: values[f.name] for f in dataclasses.fields(cls) if f.name in values}
        given["fps"] = float(given["fps"])
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in given.items()})
