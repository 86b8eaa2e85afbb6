"""The best of several predictions of the same clip, as video prediction is scored."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64


class BestOf(NamedTuple):
    """The scores of the best predictions, averaged over clips, with standard errors.

    Attributes:
      curve: the score of each predicted frame.
      curve_error: its standard error.
      mean: the score over all frames.
      error: its standard error.
    """

    curve: Float64[np.ndarray, " T"]
    curve_error: Float64[np.ndarray, " T"]
    mean: float
    error: float


def best_of(scores: Float[np.ndarray, "k N T"], higher_is_better: bool) -> BestOf:
    """Averages over N clips the scores of the best of k predictions of each clip.

    The best prediction of a clip is that with the best mean over its frames, and it gives all
    points of the clip's curve (Denton & Fergus 2018, arXiv 1802.07687, who draw k = 100). Another
    kind of score chooses its own best. Results with different k must not be compared: the best of
    more predictions is better. Standard errors are those of a mean over independent clips, of which
    there must be at least two.
    """
    by_clip = scores.mean(axis=2)
    best = by_clip.argmax(axis=0) if higher_is_better else by_clip.argmin(axis=0)
    chosen = scores[best, np.arange(scores.shape[1])].astype(np.float64)
    mean, error = _over_clips(chosen.mean(axis=1))
    return BestOf(*_over_clips(chosen), float(mean), float(error))


def _over_clips(values: Float64[np.ndarray, " N *shape"]):
    return values.mean(axis=0), values.std(axis=0, ddof=1) / np.sqrt(len(values))
