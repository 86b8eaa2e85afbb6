"""From a source to batches on the devices, in an order that is a pure function of seed and step.

Clip i of step k is number n = k * global_batch + i of the endless sequence of shuffled passes over
the source. Which record that is, and all that is random about it, follows from n and the seed: not
from the number of hosts, the worker that reads it, or the step at which reading began. So a run
goes on from any step, on any number of hosts, with no clip repeated or left out.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import grain
import jax
import numpy as np
from ml_collections import ConfigDict

from jaxvid.config import NATURAL, POSITIVE, declare, key
from jaxvid.data import augment
from jaxvid.data.clips import Clip, sample_clip
from jaxvid.data.sources import Source
from jaxvid.errors import InputError

# Replacements that are tried for a bad record: nearly all of the data must be bad for none to do.
MAX_TRIES = 64

Encode = Callable[[Mapping[str, np.ndarray], Clip | None], Any]


declare(
    "data",
    workers=key(0, NATURAL, "processes that load clips; 0 loads in threads", free=True),
    prefetch=key(2, POSITIVE, "batches made ahead, per worker", free=True),
    max_bad=key(100, NATURAL, "unreadable records after which the run stops", free=True),
)


def make_dataset(
    source: Source,
    config: ConfigDict,
    encode: Encode,
    *,
    seed: int,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
) -> grain.MapDataset:
    """One host's batches: element k holds its clips of step k.

    Host p of P takes the clips [p * batch_size / P, (p+1) * batch_size / P) of each step. Joined
    in the hosts' order, the batches are the same for every P.

    Args:
      source: random-access records; `source[i]` and decoding one raise InputError if it is bad.
      config: the `data` part of a config.
      encode: what is given with a clip: `(sample, clip) -> arrays`, in any tree of dicts.
      seed: of the order and of all that is drawn per clip.
      batch_size: clips per step over all hosts.
      process_index: this host, p.
      process_count: number of hosts, P.

    Returns:
      An endless dataset of dicts of arrays: `video` uint8 [B,T,H,W,3], `time` float32 [B,T] in
      seconds from each clip's first frame, `given`, what `encode` made of the clips, and `bad`
      int32 [B,64], the records that could not be read and were replaced, -1 where there is none.

    Raises:
      InputError: the batch does not divide over the hosts.
    """
    if batch_size % process_count:
        raise InputError(
            f"batch_size={batch_size} does not divide over {process_count} processes: "
            f"make it a multiple of {process_count}"
        )
    changes = augment.active(config)
    clip_of = functools.partial(_load, source, config, changes, encode)
    clips = grain.MapDataset.range(len(source)).seed(seed).shuffle().repeat().random_map(clip_of)
    # Slicing batches, not clips, leaves every clip its number, which is what seeds its generator.
    return clips.batch(batch_size // process_count, drop_remainder=True)[
        process_index::process_count
    ]


def _load(
    source: Source,
    config: ConfigDict,
    changes: Sequence[augment.Apply],
    encode: Encode,
    index: int,
    rng: np.random.Generator,
) -> dict[str, Any]:
    """Record `index`, sampled and augmented, or if it is bad one that its own generator draws."""
    record, bad = index, np.full(MAX_TRIES, -1, np.int32)
    for attempt in range(MAX_TRIES):
        try:
            return _sample(source[record], config, changes, encode, rng) | {"bad": bad}
        except InputError as error:
            bad[attempt], reason = record, error
            # A neighbour would be as bad where a shard was cut short.
            record = int(rng.integers(len(source)))
    raise InputError(
        f"record {index} and the {MAX_TRIES - 1} tried in its place are all bad, the last one "
        f"because: {reason}"
    ) from reason


def _sample(
    clip: Clip,
    config: ConfigDict,
    changes: Sequence[augment.Apply],
    encode: Encode,
    rng: np.random.Generator,
) -> dict[str, Any]:
    sample = sample_clip(clip, config.frames, config.strides, rng)
    for change in changes:
        sample = change(sample, rng, config)
    return _with_given(sample, encode(sample, clip))


def _with_given(sample: Mapping[str, np.ndarray], given: Any) -> dict[str, Any]:
    return {"video": sample["video"], "time": sample["time"], "given": given}


def blank_batch(config: ConfigDict, encode: Encode, num: int) -> dict[str, Any]:
    """A batch of `num` clips like those of `make_dataset`, in which nothing is known.

    Frames are black and evenly spaced, and what `encode` makes of a clip without label, caption or
    action is null; a low-resolution video is black too.
    """
    sample = {
        "video": np.zeros((config.frames, config.size, config.size, 3), np.uint8),
        "time": np.arange(config.frames, dtype=np.float32) / np.float32(config.fps),
        "label": np.array(-1, np.int32),
        "caption": np.array(""),
    }
    clip = _with_given(sample, encode(sample, None))
    return jax.tree.map(lambda array: np.repeat(array[None], num, axis=0), clip)


def batches(
    dataset: grain.MapDataset, start_step: int, config: ConfigDict
) -> Iterator[dict[str, Any]]:
    """The batches of `make_dataset` from a step on, read ahead in the same order always.

    `config.prefetch` batches are made ahead, by as many threads, or with `config.workers` > 0 by
    that many processes, each with that much read ahead; for these absl's flags must be parsed.

    Raises:
      InputError: from the iterator, where a bad record cannot be replaced.
    """
    ahead = grain.ReadOptions(num_threads=config.prefetch, prefetch_buffer_size=config.prefetch)
    ready = dataset[start_step:].to_iter_dataset(ahead)
    if config.workers:
        ready = ready.mp_prefetch(grain.MultiprocessingOptions(num_workers=config.workers))
        # Grain frees the shared memory of a batch along with it; one that is still held when the
        # program ends would count as leaked.
        ready = ready.map(lambda batch: jax.tree.map(np.array, batch))
    return iter(ready)


def put(batch: Mapping[str, Any], sharding: jax.sharding.Sharding) -> dict[str, Any]:
    """Lays this host's part of a batch on its devices; the arrays are global, clips in order."""
    lay = functools.partial(jax.make_array_from_process_local_data, sharding)
    with jax.transfer_guard_host_to_device("allow"):
        return jax.tree.map(lay, dict(batch))
