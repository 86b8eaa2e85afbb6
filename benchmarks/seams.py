"""How visible it is in a video where the windows of its plan meet."""

import itertools

import numpy as np
from jaxtyping import UInt8

from jaxvid.hierarchy.plan import Plan


def seam(videos: UInt8[np.ndarray, "B T H W 3"], plan: Plan) -> float:
    """The mean jump between frames where a window of a plan begins or ends, over that elsewhere."""
    drawn_by = [
        [number for number, call in enumerate(plan.calls) if i in call.draws]
        for i in range(plan.frames)
    ]
    borders = np.array([before != after for before, after in itertools.pairwise(drawn_by)])
    jumps = np.abs(np.diff(videos.astype(float), axis=1)).mean(axis=(0, 2, 3, 4))
    return jumps[borders].mean() / jumps[~borders].mean()
