"""One clip of each video of a source."""

import dataclasses

import numpy as np

from jaxvid.data.clips import Clip
from jaxvid.data.sources.registry import Source


@dataclasses.dataclass(frozen=True)
class PerVideo:
    """A source that has one clip of each video of another source.

    A source says in its attribute `videos`, of the same length, of which video each clip is. One
    without it has one clip of each video already.

    Attributes:
      source: the other source.
      seed: of the choice of the clips.
    """

    source: Source
    seed: int = 0

    def __post_init__(self) -> None:
        order = np.random.default_rng(self.seed).permutation(len(self.source))
        videos = getattr(self.source, "videos", np.arange(len(self.source)))
        _, first = np.unique(np.asarray(videos)[order], return_index=True)
        object.__setattr__(self, "_index", np.sort(order[first]))

    @property
    def labels(self) -> tuple[str, ...]:
        """Those of the source."""
        return self.source.labels

    @property
    def fingerprint(self) -> str:
        """That of the source, with the seed if clips are left out."""
        whole = len(self) == len(self.source)
        return self.source.fingerprint if whole else f"{self.source.fingerprint}-{self.seed}"

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, index: int) -> Clip:
        return self.source[int(self._index[index])]
