"""Batches on the devices, in an order that is a pure function of seed and step.

Clip i of step k is number n = k * global_batch + i of an endless sequence of shuffled passes over
the source. n and the seed determine its record and all of its random draws. The number of hosts,
the worker that reads it and the step at which reading began do not matter. So a run resumes from
any step, on any number of hosts, and no clip is repeated or left out.
"""

import copy
import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grain
import jax
import numpy as np
from jaxtyping import UInt8
from ml_collections import ConfigDict

from jaxvid.config import FLAG, NATURAL, POSITIVE, declare, key, requirement
from jaxvid.data import augment
from jaxvid.data.clips import Clip, frame_shape, kind_at, sample_clip
from jaxvid.data.sources import Source
from jaxvid.data.sources.registry import RENDERS
from jaxvid.errors import InputError

# Attempts to read a record or a replacement. All fail only if nearly all of the data is bad.
MAX_TRIES = 64
ALL = ((0,), 1)  # the share of a host that reads all clips

Encode = Callable[[Mapping[str, np.ndarray], Clip | None], Any]
Load = Callable[[], dict[str, Any]]


declare(
    "data",
    workers=key(0, NATURAL, "processes that load clips; 0 loads in this one", free=True),
    threads=key(
        0,
        NATURAL,
        "threads in each of these processes, with a clip each; 0 is a core each, at most 16",
        free=True,
    ),
    prefetch=key(2, POSITIVE, "batches prepared ahead, per worker", free=True),
    max_bad=key(100, NATURAL, "unreadable records after which the run stops", free=True),
    render_on_device=key(
        False,
        FLAG,
        "whether the devices paint the training clips of the source synthetic, not the hosts",
        free=True,
    ),
)


def make_dataset(
    source: Source,
    config: ConfigDict,
    encode: Encode,
    *,
    seed: int,
    batch_size: int,
    share: tuple[Sequence[int], int] = ALL,
    augmented: bool = True,
    by_kind: bool = False,
    scenes: bool = False,
) -> grain.MapDataset:
    """The batches of one host; element k holds its clips of step k.

    With the share ((p,), P) they are the clips [p * batch_size / P, (p+1) * batch_size / P) of each
    step. Joined in the order of p, the batches are the same for every P.

    Args:
      source: random-access records; reading or decoding a bad one raises InputError.
      config: the `data` section of a config.
      encode: makes the condition arrays of a clip: `(sample, clip) -> tree of arrays`.
      seed: seed of the order and of each clip's random draws.
      batch_size: clips per step over all hosts.
      share: which of how many equal parts of a step's clips are this host's, see `parallel.hosts`.
      augmented: False leaves out the augmentations, for validation.
      by_kind: whether all clips of step k have windows of the kind that `clips.kind_at` says, with
        their frames by importance (`hierarchy.plan.by_importance`), not in order.
      scenes: whether the batches have the scenes of the clips, not their pixels.

    Returns:
      An endless dataset of dicts of arrays: `video` uint8 [B,T,H,W,3], or `scene`, the arrays of
      `Clip.scene` with leaves [B,...]; `time` float32 [B,T] in seconds from each clip's first
      frame, `given`, the arrays from `encode`, and `bad` int32 [B,64], the records that could not
      be read and were replaced, padded with -1. With `config.plans` also `observed` bool [B,T],
      what the call of a plan sees.

    Raises:
      InputError: the batch does not divide into the parts of hosts.
    """
    mine, count = share
    if batch_size % count:
        raise InputError(
            f"batch_size={batch_size} does not divide into {count} parts for the processes: "
            f"make it a multiple of {count}"
        )
    texts = config.augment if augmented else ()
    changes = augment.active(texts, temporal=True), augment.active(texts, temporal=False)
    take = functools.partial(_take, config, changes, encode, scenes)
    load = functools.partial(_later, source, take)
    records = grain.MapDataset.range(len(source)).seed(seed).shuffle().repeat()
    if by_kind:
        of_kind = records.map_with_index(
            lambda n, record: (record, kind_at(config, seed, n // batch_size))
        )
        clips = of_kind.random_map(lambda each, rng: load(*each, rng))
    else:
        clips = records.random_map(lambda record, rng: load(record, None, rng))
    # Slicing batches, not clips, keeps the number of every clip, which seeds its generator.
    cores = min(16, (os.cpu_count() or 1) // max(1, config.workers))
    threads = config.threads or max(1, cores)
    together = functools.partial(_load_together, threads)
    parts = clips.batch(batch_size // count, drop_remainder=True, batch_fn=together)
    chosen = [parts[i::count] for i in mine]
    if len(chosen) == 1:
        return chosen[0]
    join = functools.partial(jax.tree.map, lambda x: x.reshape(-1, *x.shape[2:]))
    return grain.MapDataset.mix(chosen).batch(len(chosen), drop_remainder=True).map(join)


def mix(
    datasets: Sequence[grain.MapDataset], steps: Sequence[int | float], starts: Sequence[int]
) -> grain.MapDataset:
    """The batches of several endless datasets: which one a step takes follows from its number.

    Args:
      datasets: of `make_dataset`.
      steps: how many steps of as many as their sum are of each, up to a hundredth; they are spread
        evenly.
      starts: what is added to the numbers of bad records of each.
    """

    def count_from(start: int, batch: dict[str, Any]) -> dict[str, Any]:
        return batch | {"bad": np.where(batch["bad"] < 0, -1, batch["bad"] + np.int32(start))}

    counted = [
        d.map(functools.partial(count_from, s)) for d, s in zip(datasets, starts, strict=True)
    ]
    return grain.MapDataset.mix(counted, steps)


def _later(
    source: Source, take: Any, index: int, kind: str | None, rng: np.random.Generator
) -> Load:
    # A copy, because Grain uses the generator again.
    return functools.partial(_load, source, take, index, kind, copy.deepcopy(rng))


def _load_together(threads: int, loads: Sequence[Load]) -> dict[str, Any]:
    """A batch of clips, of which each thread loads one at a time."""
    clips = list(_pool(threads).map(lambda load: load(), loads))
    return jax.tree.map(lambda *x: np.stack(x), *clips)


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="clips")


def _load(
    source: Source,
    take: Callable[[Clip, str | None, np.random.Generator], dict[str, Any]],
    index: int,
    kind: str | None,
    rng: np.random.Generator,
) -> dict[str, Any]:
    """Samples and augments record `index`, or, if it is bad, a replacement drawn from `rng`."""
    record, bad = index, np.full(MAX_TRIES, -1, np.int32)
    for attempt in range(MAX_TRIES):
        try:
            return take(source[record], kind, rng) | {"bad": bad}
        except InputError as error:
            bad[attempt], reason = record, error
            # Not a neighbour: in a truncated shard it would be bad too.
            record = int(rng.integers(len(source)))
    raise InputError(
        f"record {index} and {MAX_TRIES - 1} replacements are all bad; the error of the last: "
        f"{reason}"
    ) from reason


def _take(
    config: ConfigDict,
    changes: tuple[Sequence[augment.Apply], Sequence[augment.Apply]],
    encode: Encode,
    scenes: bool,
    clip: Clip,
    kind: str | None,
    rng: np.random.Generator,
) -> dict[str, Any]:
    retime, others = changes
    sample = sample_clip(clip, config, rng, kind, retime, scenes)
    for change in others:
        sample = change(sample, rng)
    rows = {name: x for name, x in sample.items() if name != "scene"}
    return _with_given(sample, config, encode(rows, clip))


def _with_given(sample: Mapping[str, Any], config: ConfigDict, given: Any) -> dict[str, Any]:
    # Contiguous: else Grain sends it through a pipe, not through shared memory. A worker whose pipe
    # is full does not end, and Grain waits 25 seconds for it.
    names = ("video", "scene", "time", *["observed"] * bool(config.plans))
    kept = {name: sample[name] for name in names if name in sample} | {"given": given}
    return jax.tree.map(lambda x: np.asarray(x, order="C"), kept)


def blank_batch(config: ConfigDict, encode: Encode, num: int) -> dict[str, Any]:
    """A batch of `num` black clips with null conditions, in the format of `make_dataset`.

    Frames are evenly spaced in time. The clips have no label, caption or action, and a
    low-resolution video is black.
    """
    sample = {
        "video": np.zeros((config.frames, *frame_shape(config), 3), np.uint8),
        "time": np.arange(config.frames, dtype=np.float32) / np.float32(config.fps),
        "observed": np.zeros(config.frames, bool),
        "label": np.array(-1, np.int32),
        "caption": np.array(""),
    }
    clip = _with_given(sample, config, encode(sample, None))
    return jax.tree.map(lambda array: np.repeat(array[None], num, axis=0), clip)


def first_clips(
    source: Source, config: ConfigDict, seed: int, num: int
) -> tuple[UInt8[np.ndarray, "B T H W 3"], list[str]]:
    """The first `num` clips of training, augmented, and the label and caption of each.

    `config` and `seed` are those of `make_dataset`. Raises InputError as reading a batch does.
    """

    def described(sample: Mapping[str, Any], clip: Clip | None) -> dict[str, Any]:
        return {name: sample[name] for name in ("label", "caption")}

    batch = make_dataset(source, config, described, seed=seed, batch_size=num)[0]
    words = [*source.labels, ""]  # the label of a clip without one is -1
    given = zip(batch["given"]["label"], batch["given"]["caption"], strict=True)
    return batch["video"], [" | ".join(filter(None, (words[k], str(c)))) for k, c in given]


def batches(
    dataset: grain.MapDataset, start_step: int, config: ConfigDict
) -> Iterator[dict[str, Any]]:
    """Iterates over the batches of `make_dataset` from `start_step` on, with prefetching.

    `config.prefetch` threads prepare as many batches ahead. With `config.workers` > 0, each of that
    many processes does so; this needs absl's flags to be parsed.

    Raises:
      InputError: from the iterator, if a bad record cannot be replaced.
    """
    ahead = grain.ReadOptions(num_threads=config.prefetch, prefetch_buffer_size=config.prefetch)
    ready = dataset[start_step:].to_iter_dataset(ahead)
    if config.workers:
        ready = ready.mp_prefetch(grain.MultiprocessingOptions(num_workers=config.workers))
        # Grain frees shared memory with its batch. A batch that is still held when the program ends
        # would be reported as a leak, so copy it.
        ready = ready.map(lambda batch: jax.tree.map(np.array, batch))
    return iter(ready)


@requirement
def _check_rendering(config: ConfigDict) -> None:
    data = config.data
    if not data.render_on_device:
        return
    if data.source not in RENDERS:
        raise InputError(
            f"config.data.render_on_device=True: devices can paint clips of {', '.join(RENDERS)}, "
            f"but not those of config.data.source={data.source}: set it to False"
        )
    if pixels := [text for text in data.augment if augment.active([text], temporal=False)]:
        raise InputError(
            f"config.data.render_on_device=True: {' and '.join(pixels)} of config.data.augment "
            "would change pixels on the hosts, which have none: leave that out, or set it to False"
        )
