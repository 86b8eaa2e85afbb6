"""Near-duplicates: clips that look alike to a perceptual hash.

The hash of a frame is that of Zauner (2010, pHash): the signs of the 64 lowest frequencies of its
cosine transform against their median. That of a clip joins two frames.
"""

import itertools
from collections.abc import Iterator, Sequence

import cv2
import numpy as np
from jaxtyping import Bool, Int64, UInt8, UInt64

_AT_ONCE = 1 << 20  # pairs that are compared or listed at once
_LOW = (1 << 32) - 1


def perceptual_hash(frames: UInt8[np.ndarray, "T H W 3"]) -> str:
    """128 bits, as 32 hexadecimal digits, of the frames a quarter from both ends."""
    T = len(frames)
    return "".join(_hash_of(frames[i]) for i in (T // 4, T - 1 - T // 4))


def _hash_of(frame: UInt8[np.ndarray, "H W 3"]) -> str:
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (32, 32), interpolation=cv2.INTER_AREA).astype(np.float32)
    lowest = cv2.dct(small)[:8, :8].ravel()
    return np.packbits(lowest > np.median(lowest)).tobytes().hex()


def parse_hashes(hashes: Sequence[str]) -> UInt64[np.ndarray, "N 2"]:
    """Hashes of clips as pairs of 64 bits."""
    return np.frombuffer(bytes.fromhex("".join(hashes)), ">u8").astype(np.uint64).reshape(-1, 2)


def find_duplicates(hashes: UInt64[np.ndarray, "N 2"], most: int) -> Bool[np.ndarray, " N"]:
    """For each clip, whether it differs in at most `most` bits from an earlier one that is none.

    Takes tens of bytes per clip. The time grows with the number of pairs that `_near_pairs`
    compares.
    """
    order = np.lexsort(hashes.T)  # the first of several copies comes first
    copies = np.all(hashes[order[1:]] == hashes[order[:-1]], axis=1)
    first = np.sort(np.delete(order, 1 + np.flatnonzero(copies)))
    duplicate = np.ones(len(hashes), bool)
    duplicate[first] = ~_kept(np.ascontiguousarray(hashes[first].T), most)
    return duplicate


def _kept(hashes: UInt64[np.ndarray, "2 n"], most: int) -> Bool[np.ndarray, " n"]:
    """Which of different hashes are no duplicates."""
    pairs = _list_pairs(hashes, most)
    if pairs is None:
        return _kept_by_halves(hashes, most)
    kept = bytearray(b"\1") * hashes.shape[1]
    for start in range(0, len(pairs), _AT_ONCE):
        some = pairs[start : start + _AT_ONCE]
        for i, j in zip((some & _LOW).tolist(), (some >> 32).tolist(), strict=True):
            if kept[i]:
                kept[j] = False
    return np.frombuffer(kept, bool)


def _list_pairs(hashes: UInt64[np.ndarray, "2 n"], most: int) -> Int64[np.ndarray, " p"] | None:
    """All pairs i < j that are near, as sorted numbers (j, i) of 64 bits; None for too many."""
    pairs = np.empty(max(4 * hashes.shape[1], _AT_ONCE), np.int64)  # in memory as it is written
    count = 0
    for earlier, later in _near_pairs(hashes, most):
        if count + len(later) > len(pairs):
            return None
        pairs[count : count + len(later)] = later << 32 | earlier
        count += len(later)
    pairs[:count].sort()
    return pairs[:count]


def _kept_by_halves(hashes: UInt64[np.ndarray, "2 n"], most: int) -> Bool[np.ndarray, " n"]:
    """As `_kept`, where many are alike, so that few of the first half remain to compare with."""
    half = hashes.shape[1] // 2
    kept = np.append(_kept(hashes[:, :half], most), np.ones(hashes.shape[1] - half, bool))
    first = int(kept[:half].sum())
    rows = np.flatnonzero(kept)
    for _, later in _near_pairs(hashes[:, rows], most, first):
        kept[rows[later]] = False
    rest = half + np.flatnonzero(kept[half:])
    kept[rest] = _kept(hashes[:, rest], most)
    return kept


def _near_pairs(
    hashes: UInt64[np.ndarray, "2 n"], most: int, first: int | None = None
) -> Iterator[tuple[Int64[np.ndarray, " p"], Int64[np.ndarray, " p"]]]:
    """Pairs i < j of hashes that differ in at most `most` bits, in batches; each pair once.

    Of d + 2 parts of two hashes that differ in at most d bits, at least two agree. So for every two
    parts, those hashes are compared that agree in both.

    Args:
      hashes: of clips.
      most: bits.
      first: only pairs of one of so many first hashes with one of the others.
    """
    before, since = (hashes.shape[1], 0) if first is None else (first, first)
    for a, b in itertools.combinations(range(most + 2), 2):
        rows, starts = _buckets(_part(hashes, a, most) << 16 | _part(hashes, b, most))
        words, left = _take(hashes, rows), np.flatnonzero(rows >= since)
        for start in range(0, len(left), _AT_ONCE):
            later = left[start : start + _AT_ONCE]
            earlier = starts[later]
            while len(later):
                ahead = (earlier < later) & (rows[earlier] < before)
                earlier, later = earlier[ahead], later[ahead]
                differ = _take(words, earlier) ^ _take(words, later)
                near = np.flatnonzero(np.bitwise_count(differ).sum(axis=0, dtype=np.uint8) <= most)
                differ, once = _take(differ, near), np.ones(len(near), bool)
                for other in set(range(b)) - {a}:  # those that agree there too were found before
                    once &= _part(differ, other, most) != 0
                yield rows[earlier[near[once]]], rows[later[near[once]]]
                earlier = earlier + 1


def _take(
    words: UInt64[np.ndarray, "2 n"], at: Int64[np.ndarray, " m"]
) -> UInt64[np.ndarray, "2 m"]:
    return np.stack([word[at] for word in words])  # several times as fast as words[:, at]


def _part(hashes: UInt64[np.ndarray, "2 m"], k: int, most: int) -> UInt64[np.ndarray, " m"]:
    """One of `most` + 2 parts that do not overlap, of at most 16 bits."""
    per_word = (most + 3) // 2
    width = 64 // per_word
    word, at = divmod(k, per_word)
    return hashes[word] >> width * at & ((1 << min(16, width)) - 1)


def _buckets(
    keys: UInt64[np.ndarray, " n"],
) -> tuple[Int64[np.ndarray, " m"], Int64[np.ndarray, " m"]]:
    """The rows that share their key of 32 bits, sorted by it, and where those of the key start."""
    order = np.sort(keys << 32 | np.arange(len(keys), dtype=np.uint64))
    new = np.diff(order >> 32, prepend=np.uint64(1 << 32)) != 0
    shared = ~(new & np.append(new[1:], True))
    rows, new = (order[shared] & _LOW).astype(np.int64), new[shared]
    return rows, np.flatnonzero(new)[np.cumsum(new) - 1]
