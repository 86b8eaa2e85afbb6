"""Scores of long videos for benchmarks, and real videos to compare with."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence

import numpy as np
from jax.sharding import Mesh
from jaxtyping import UInt8
from ml_collections import ConfigDict

from jaxvid.data.sources import make_source
from jaxvid.errors import InputError
from jaxvid.hierarchy.plan import Plan
from jaxvid.metrics.metric import FEATURES, METRICS, Clips
from jaxvid.metrics.score import measure

OF_WINDOWS = ("energy", "motion", "world_path", "world_speed")
OF_VIDEOS = ("world_count", "world_identity")

Found = dict[str, tuple[float, float]]


@dataclasses.dataclass(frozen=True)
class Scorer:
    """Scores long videos: some metrics in windows all along them, and some on whole videos.

    Those of the synthetic world, `world_…`, are for its videos only.

    Attributes:
      data: the `data` section of a config, with the size and rate of the videos.
      mesh: computes the features.
      window: frames of a window.
      clips: number of videos.
    """

    data: ConfigDict
    mesh: Mesh
    window: int
    clips: int

    @property
    def names(self) -> tuple[str, ...]:
        """The metrics."""
        named = (*OF_WINDOWS, *OF_VIDEOS)
        is_world = self.data.source == "synthetic"
        return tuple(name for name in named if is_world or not name.startswith("world"))

    @functools.cached_property
    def extract(self) -> dict[str, Callable]:
        """The functions that compute the features."""
        of = dict.fromkeys(METRICS[name].of for name in self.names)
        return {feature: FEATURES[feature].make(self.mesh, self.data.fps) for feature in of}

    @functools.cached_property
    def real(self) -> dict[str, np.ndarray]:
        """The features of validation clips of the length of a window."""
        windows = self.real_videos(self.window, "validation")
        return {feature: function(windows) for feature, function in self.extract.items()}

    def real_videos(self, frames: int, split: str) -> Clips:
        """The first videos of a split, at the rate of the data."""
        data = self.data.copy_and_resolve_references()
        data.update(frames=frames, strides=(1,), plans=())
        source = make_source(data, split)
        if len(source) < self.clips:
            raise InputError(f"--clips={self.clips}: the {split} split has {len(source)} clips")
        return np.stack([source[i].decode(np.arange(frames)) for i in range(self.clips)])

    def scores(self, videos: Clips) -> tuple[Found, dict[str, list[float]]]:
        """The mean score in each metric with its error, and the scores of the windows.

        Windows have those metrics, too, that judge whole videos.
        """
        T, found, curves = self.window, {}, {}
        parts = [videos[:, i : i + T] for i in range(0, videos.shape[1] - T + 1, T)]
        rows = [
            {feature: function(part) for feature, function in self.extract.items()}
            for part in parts
        ]
        of = {METRICS[name].of for name in self.names if name in OF_VIDEOS}
        whole = {feature: self.extract[feature](videos) for feature in of}
        for name in self.names:
            metric = METRICS[name]
            each = [measure(metric, row[metric.of], self.real[metric.of], 0) for row in rows]
            curves[name] = [one["value"] for one in each]
            # Windows of a video are alike: their mean is hardly more certain than one of them.
            if name in OF_VIDEOS:
                each = [measure(metric, whole[metric.of], self.real[metric.of], 0)]
            found[name] = tuple(np.mean([one[part] for one in each]) for part in ("value", "error"))
        return found, curves


def seam(videos: UInt8[np.ndarray, "B T H W 3"], plan: Plan) -> float:
    """The mean jump between frames where a window of a plan begins or ends, over that elsewhere."""
    drawn_by = [
        [number for number, call in enumerate(plan.calls) if i in call.draws]
        for i in range(plan.frames)
    ]
    borders = np.array([before != after for before, after in itertools.pairwise(drawn_by)])
    jumps = np.abs(np.diff(videos.astype(float), axis=1)).mean(axis=(0, 2, 3, 4))
    return jumps[borders].mean() / jumps[~borders].mean()


def head(metrics: Sequence[str], *columns: str) -> str:
    """The first lines of a Markdown table of `row`s."""
    names = [*columns, *metrics]
    return "| " + " | ".join(names) + " |\n" + "|---" * len(names) + "|"


def row(found: Found, *columns: str) -> str:
    """A row of a Markdown table: columns of its own, then the scores."""
    cells = [f"{value:.3g} ± {error:.1g}" for value, error in found.values()]
    return "| " + " | ".join([*columns, *cells]) + " |"
