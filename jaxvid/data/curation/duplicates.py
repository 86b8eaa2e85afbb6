"""Near-duplicates: clips that look alike to a perceptual hash.

The hash of a frame is that of Zauner (2010, pHash): the signs of the 64 lowest frequencies of its
cosine transform against their median. That of a clip joins two frames.
"""

import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator

import cv2
import numpy as np
from jaxtyping import UInt8

BITS = 128


def perceptual_hash(frames: UInt8[np.ndarray, "T H W 3"]) -> str:
    """128 bits, as 32 hexadecimal digits, of the frames a quarter from both ends."""
    T = len(frames)
    return "".join(_hash_of(frames[i]) for i in (T // 4, T - 1 - T // 4))


def _hash_of(frame: UInt8[np.ndarray, "H W 3"]) -> str:
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (32, 32), interpolation=cv2.INTER_AREA).astype(np.float32)
    lowest = cv2.dct(small)[:8, :8].ravel()
    return np.packbits(lowest > np.median(lowest)).tobytes().hex()


def find_duplicates(hashes: Iterable[str], most: int) -> Iterator[bool]:
    """For each clip, whether it differs in at most `most` bits from an earlier one that is none.

    Two hashes that differ in at most d bits agree in one of d + 1 parts, so only those that share a
    part are compared.
    """
    cuts = [BITS * k // (most + 1) for k in range(most + 2)]
    parts = [(start, (1 << (end - start)) - 1) for start, end in itertools.pairwise(cuts)]
    kept = defaultdict(list)
    for text in hashes:
        number = int(text, 16)
        keys = [(k, number >> start & mask) for k, (start, mask) in enumerate(parts)]
        alike = (other for key in keys for other in kept.get(key, ()))
        found = any((number ^ other).bit_count() <= most for other in alike)
        if not found:
            for key in keys:
                kept[key].append(number)
        yield found
