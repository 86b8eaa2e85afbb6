"""Which records are held out for validation."""

import hashlib
from collections.abc import Iterable

import numpy as np
from jaxtyping import Bool


def held_out(names: Iterable[str], share: float) -> Bool[np.ndarray, " names"]:
    """For each name, whether its hash, as a number in [0,1), is below `share`.

    It depends on the name alone: adding others moves none between the splits.
    """
    digests = (hashlib.sha256(n.encode(errors="surrogateescape")).hexdigest() for n in names)
    return np.array([int(digest[:12], 16) / 2**48 < share for digest in digests], bool)
