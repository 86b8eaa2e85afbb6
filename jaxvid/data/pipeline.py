"""From a source to batches on the devices, in an order that is a pure function of seed and step.

Clip i of step k is number n = k * global_batch + i of the endless sequence of shuffled passes over
the source. Which record that is, and all that is random about it, follows from n and the seed: not
from the number of hosts, the worker that reads it, or the step at which reading began. So a run
goes on from any step, on any number of hosts, with no clip repeated or left out.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence

import grain
import jax
import numpy as np
from ml_collections import ConfigDict

from jaxvid.config import NATURAL, POSITIVE, declare, key
from jaxvid.data import augment
from jaxvid.data.clips import Clip, sample_clip
from jaxvid.data.conditions import condition_arrays
from jaxvid.data.sources import Source
from jaxvid.errors import InputError

# Replacements that are tried for a bad record: nearly all of the data must be bad for none to do.
MAX_TRIES = 64

declare(
    "data",
    workers=key(0, NATURAL, "processes that load clips; 0 loads in threads", free=True),
    prefetch=key(2, POSITIVE, "batches made ahead, per worker", free=True),
    max_bad=key(100, NATURAL, "unreadable records after which the run stops", free=True),
)


def make_dataset(
    source: Source,
    config: ConfigDict,
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
      seed: of the order and of all that is drawn per clip.
      batch_size: clips per step over all hosts.
      process_index: this host, p.
      process_count: number of hosts, P.

    Returns:
      An endless dataset of dicts of arrays: `video` uint8 [B,T,H,W,3], `time` float32 [B,T] in
      seconds from each clip's first frame, `label` int32 [B], what `condition_arrays` adds, the
      source's truth, and `bad` int32 [B,64]: the records that could not be read and were replaced,
      -1 where there is none.

    Raises:
      InputError: the batch does not divide over the hosts.
    """
    if batch_size % process_count:
        raise InputError(
            f"batch_size={batch_size} does not divide over {process_count} processes: "
            f"make it a multiple of {process_count}"
        )
    clip_of = functools.partial(_load, source, config, augment.active(config))
    clips = grain.MapDataset.range(len(source)).seed(seed).shuffle().repeat().random_map(clip_of)
    # Slicing batches, not clips, leaves every clip its number, which is what seeds its generator.
    return clips.batch(batch_size // process_count, drop_remainder=True)[
        process_index::process_count
    ]


def _load(
    source: Source,
    config: ConfigDict,
    changes: Sequence[augment.Apply],
    index: int,
    rng: np.random.Generator,
) -> dict[str, np.ndarray]:
    """Record `index`, sampled and augmented, or if it is bad one that its own generator draws."""
    record, bad = index, np.full(MAX_TRIES, -1, np.int32)
    for attempt in range(MAX_TRIES):
        try:
            return _sample(source[record], config, changes, rng) | {"bad": bad}
        except InputError as error:
            bad[attempt], reason = record, error
            # A neighbour would be as bad where a shard was cut short.
            record = int(rng.integers(len(source)))
    raise InputError(
        f"record {index} and the {MAX_TRIES - 1} tried in its place are all bad, the last one "
        f"because: {reason}"
    ) from reason


def _sample(
    clip: Clip, config: ConfigDict, changes: Sequence[augment.Apply], rng: np.random.Generator
) -> dict[str, np.ndarray]:
    sample = sample_clip(clip, config.frames, config.strides, rng)
    for change in changes:
        sample = change(sample, rng, config)
    return condition_arrays(sample, clip.text, config)


def blank_batch(config: ConfigDict, num: int) -> dict[str, np.ndarray]:
    """A batch of `num` clips like those of `make_dataset`, in which nothing is known.

    Frames are black and evenly spaced, the label is -1, and what else the config asks for is null;
    but low-resolution video is black too.
    """
    shape = (config.frames, config.size, config.size, 3)
    time = np.arange(config.frames, dtype=np.float32) / np.float32(config.fps)
    sample = {
        "video": np.zeros(shape, np.uint8),
        "time": time,
        "label": np.array(-1, np.int32),
        "caption": np.array(""),
    }
    clip = condition_arrays(sample, None, config)
    return {name: np.repeat(array[None], num, axis=0) for name, array in clip.items()}


def batches(
    dataset: grain.MapDataset, start_step: int, config: ConfigDict
) -> Iterator[dict[str, np.ndarray]]:
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


def put(batch: Mapping[str, np.ndarray], sharding: jax.sharding.Sharding) -> dict[str, jax.Array]:
    """Lays this host's part of a batch on its devices; the arrays are global, clips in order."""
    with jax.transfer_guard_host_to_device("allow"):
        return {
            name: jax.make_array_from_process_local_data(sharding, array)
            for name, array in batch.items()
        }
