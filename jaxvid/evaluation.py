"""Scores of a trained model: real clips, drawn clips, their features, and how far they are apart.

Clips are read and drawn in chunks of a fixed number. The noise of a chunk depends on the seed and
the chunk's number, so a score depends neither on the devices nor on where an evaluation was
interrupted.
"""

import collections
import dataclasses
import functools
import hashlib
import io
import json
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, UInt8
from ml_collections import ConfigDict

from jaxvid import start
from jaxvid.build import Run
from jaxvid.data import pipeline
from jaxvid.data.clips import frame_shape
from jaxvid.data.sources import PerVideo, Source, make_source
from jaxvid.errors import InputError
from jaxvid.files import Path, local
from jaxvid.hierarchy.plan import Plan
from jaxvid.metrics.metric import FEATURES, METRICS, Extract, Features
from jaxvid.metrics.protocols import Protocol
from jaxvid.metrics.score import Score, compare
from jaxvid.parallel.hosts import union
from jaxvid.sampling.draw import padded
from jaxvid.sampling.long_videos import plan_for
from jaxvid.sampling.tasks import observed_frames
from jaxvid.trained import Drawing, TrainedModel
from jaxvid.workdir.disk import make_folder, write_whole

CHUNK = 64  # clips; another number changes the noise of drawn clips, and so all scores
OTHER = {"train": "validation", "validation": "train"}

Progress = Callable[[int, int], None]  # called with the clips of a chunk, and those of all chunks


def evaluate(
    model: TrainedModel,
    protocols: Sequence[Protocol],
    keep: Path | None = None,
    progress: Progress = lambda done, total: None,
) -> list[Score]:
    """Scores a model by protocols. Those of the same clips share what is drawn.

    Args:
      model: draws the clips.
      protocols: how many clips, which, and by which metrics.
      keep: folder for the features of the chunks that are drawn; those that it has are not drawn
        again.
      progress: reports the clips whose features are there, real and drawn.

    Raises:
      InputError: the data does not have the clips that a protocol needs, or what a metric needs is
        not installed.
    """
    alike = collections.defaultdict(list)
    for protocol in protocols:
        alike[protocol.clips_of].append(protocol)
    return [s for group in alike.values() for s in _evaluate(model, group, keep, progress)]


def _evaluate(
    model: TrainedModel,
    protocols: Sequence[Protocol],
    keep: Path | None,
    progress: Progress,
) -> list[Score]:
    """Scores a model by protocols of the same clips."""
    metrics = dict.fromkeys(name for protocol in protocols for name in protocol.metrics)
    whole, run = dataclasses.replace(protocols[0], metrics=tuple(metrics)), model.run
    extract = extractors(run, whole)
    plan_of(run, whole)
    has_floor = len(split_of(run, whole, OTHER[whole.split])) >= whole.clips
    total = whole.clips * (2 + has_floor)
    splits = [whole.split, OTHER[whole.split]][: 1 + has_floor]
    each = [real_features(run, whole, s, extract, lambda n: progress(n, total)) for s in splits]
    real, floor = each[0], each[1] if has_floor else None
    drawn = drawn_features(model, whole, extract, keep, lambda n: progress(n, total))
    return [score for protocol in protocols for score in compare(protocol, drawn, real, floor)]


def extractors(run: Run, protocol: Protocol) -> dict[str, Extract]:
    """For each feature of a protocol, the function that computes it on the mesh of a run.

    Raises InputError if the clips are too short for it, or what it needs is not installed.
    """
    protocol.check(data_of(run, protocol).frames, min(frame_shape(run.config.data)))
    fps = run.config.data.fps / protocol.stride
    return {name: FEATURES[name].make(run.mesh, fps) for name in protocol.features}


def open_split(run: Run, protocol: Protocol, split: str, frames: int = 0) -> Source:
    """A split of the data of a run, with clips of `frames` frames; 0 for those of a protocol.

    Raises InputError if it has fewer clips than the protocol needs, or if they are too short.
    """
    source = split_of(run, protocol, split, frames)
    if len(source) < protocol.clips:
        each = ", one of each video" * protocol.per_video
        raise InputError(
            f"{protocol.label} needs {protocol.clips} clips{each}, but the {split} split has "
            f"{len(source)}: ask for fewer (--num in jaxvid.evaluate, config.evals.num in "
            "training), or train on a folder of more videos, of which config.data.validation says "
            "how many are held out"
        )
    return source


def split_of(run: Run, protocol: Protocol, split: str, frames: int = 0) -> Source:
    """As `open_split`, however few its clips are."""
    source = make_source(data_of(run, protocol, frames), split)
    return PerVideo(source, protocol.seed) if protocol.per_video else source


def real_features(
    run: Run,
    protocol: Protocol,
    split: str,
    extract: Mapping[str, Extract],
    progress: Callable[[int], None] = lambda clips: None,
) -> dict[str, Features]:
    """The features of real clips of a split; they are kept in the user's cache folder."""
    source, data = open_split(run, protocol, split), data_of(run, protocol)
    clips = [source.fingerprint, data.frames, protocol.stride, data.size, data.fps]
    clips += [data.width] * bool(data.width)
    kept = {}
    if jax.process_count() == 1:  # the caches of several hosts may differ
        for name in extract:
            which = hash_of([*clips, protocol.seed, CHUNK, FEATURES[name].version])
            kept[name] = pathlib.Path(start.cache_folder()) / "features" / f"{name}-{which}"

    def of_chunk(k: int, batch: dict[str, Any], names: Sequence[str]) -> dict[str, Features]:
        return {name: extract[name](batch["video"]) for name in names}

    return _by_chunk(_chunks(run, protocol, source, 0), of_chunk, [*extract], kept, progress)


def of_videos(
    extract: Mapping[str, Extract], parts: Iterable[UInt8[np.ndarray, "B T H W 3"]]
) -> dict[str, Features]:
    """The features of clips that come in parts."""
    rows = [{name: function(part) for name, function in extract.items()} for part in parts]
    return {name: np.concatenate([row[name] for row in rows]) for name in extract}


def drawn_features(
    model: TrainedModel,
    protocol: Protocol,
    extract: Mapping[str, Extract],
    keep: Path | None = None,
    progress: Callable[[int], None] = lambda clips: None,
) -> dict[str, Features]:
    """The features of clips that a model draws, and their pairs with true clips; see `compare`.

    Clips are drawn under the conditions of real clips of the protocol's split. `extract` is what
    `extractors` made; see `evaluate` for the other arguments.
    """
    run, T = model.run, model.run.config.data.frames
    frames = protocol.frames or T
    # The model draws whole windows. Only true frames must be as many as predicted ones.
    seen = T if protocol.task == "generate" else max(frames, T)
    source = open_split(run, protocol, protocol.split, seen)
    pairs = {name: METRICS[name].make(run.mesh) for name in protocol.pairs}
    observed = _observed(run, protocol)
    predicted = np.flatnonzero(~np.pad(observed, (0, max(0, frames - T)))[:frames])

    def of_chunk(k: int, batch: dict[str, Any], names: Sequence[str]) -> dict[str, Features]:
        draws = [
            _draw(model, protocol, (k, sample)[: 1 + (sample > 0)], batch, observed)[:, :frames]
            for sample in range(protocol.samples if pairs else 1)
        ]
        length = protocol.window or frames
        parts = [draws[0][:, i : i + length] for i in range(0, frames - length + 1, length)]
        new = {}
        for name in [name for name in names if name in extract]:
            of_parts = [extract[name](part) for part in parts]
            new[name] = np.stack(of_parts, axis=1) if protocol.window else of_parts[0]
        true = batch["video"][:, predicted] if pairs else None
        for name in [name for name in names if name in pairs]:
            of_draws = [pairs[name](draw[:, predicted], true) for draw in draws]
            new[name] = np.stack(of_draws, axis=1)
        return new

    names = [*extract, *pairs]
    kept = {name: keep / name for name in names} if keep else {}
    return _by_chunk(_chunks(run, protocol, source, seen), of_chunk, names, kept, progress)


def _by_chunk(
    chunks: Iterable[tuple[int, Callable[[], dict[str, Any]]]],
    of_chunk: Callable[[int, dict[str, Any], Sequence[str]], dict[str, Features]],
    names: Sequence[str],
    kept: Mapping[str, Path],
    progress: Callable[[int], None],
) -> dict[str, Features]:
    """The features of all chunks, by name. Those in files are read, the others kept in files.

    Args:
      chunks: for each chunk the number of its clips, and a function that loads it.
      of_chunk: from the number of a chunk, its content and names to the features of these names.
      names: of all features.
      kept: for each name, how its files begin; if empty, none are read or written.
      progress: called with the number of clips of each chunk.
    """
    rows = []
    for k, (clips, load) in enumerate(chunks):
        files = {n: path.with_name(f"{path.name}-{k:05d}-{clips}.npy") for n, path in kept.items()}
        row = {name: _load(file) for name, file in files.items() if file.is_file()}
        # Files of another host may be there, or not yet.
        lost = union([np.flatnonzero([name not in row for name in names]).astype(np.int32)])
        if missing := [names[i] for i in lost]:
            row |= of_chunk(k, load(), missing)
            for name in missing:
                if name in files and jax.process_index() == 0:
                    _save(files[name], row[name])
        rows.append(row)
        progress(clips)
    return {name: np.concatenate([row[name] for row in rows]) for name in names}


def hash_of(content: Any) -> str:
    """A short hash of what JSON can hold."""
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def _chunks(
    run: Run, protocol: Protocol, source: Source, frames: int
) -> Iterator[tuple[int, Callable[[], dict[str, Any]]]]:
    """For each chunk the number of its clips, at most `CHUNK`, and a function that loads them.

    They are not augmented, and in the order of the protocol's seed.
    """
    dataset = pipeline.make_dataset(
        source, data_of(run, protocol, frames), run.encode,
        seed=protocol.seed, batch_size=CHUNK, augmented=False,
    )  # fmt: skip

    def load(k: int, clips: int) -> dict[str, Any]:
        batch = dataset[k]
        batch = {name: batch[name] for name in ("video", "time", "given")}
        return jax.tree.map(lambda x: x[:clips], batch)

    for k in range(-(-protocol.clips // CHUNK)):
        clips = min(CHUNK, protocol.clips - k * CHUNK)
        yield clips, functools.partial(load, k, clips)


def _draw(
    model: TrainedModel,
    protocol: Protocol,
    number: tuple[int, ...],
    batch: dict[str, Any],
    observed: Bool[np.ndarray, " T"],
) -> UInt8[np.ndarray, "B frames H W 3"]:
    """Draws clips under the conditions and from the observed frames of a chunk of real clips."""
    T, num = len(observed), len(batch["video"])
    size = padded(num, model.run.mesh)
    clips = jax.tree.map(lambda x: np.resize(x, (size, *x.shape[1:])), batch)
    clips |= {"video": clips["video"][:, :T], "time": clips["time"][:, :T]}
    seed = int(np.random.SeedSequence((protocol.seed, *number)).generate_state(1)[0])
    drawing = Drawing(model, clips, num, seed, observed, plan_of(model.run, protocol))
    return np.concatenate(list(drawing.parts()), axis=1)


def plan_of(run: Run, protocol: Protocol) -> Plan | None:
    """The plan of clips that are longer than those of training, or None for others.

    Raises InputError if the network cannot carry out the protocol's plan, or if no plan is needed.
    """
    if protocol.frames > run.config.data.frames:
        given = _observed(run, protocol)
        return plan_for(run.config, protocol.plan or None, protocol.frames, int(given.sum()))
    if protocol.plan:
        raise InputError(
            f"{protocol.label}: one call draws clips of {run.config.data.frames} frames; a plan is "
            "for longer ones, as in the protocol long"
        )
    return None


def _observed(run: Run, protocol: Protocol) -> Bool[np.ndarray, " T"]:
    """The frames of a training clip that the protocol's task observes."""
    T = run.config.data.frames
    return observed_frames(protocol.task, T, protocol.observed or max(1, T // 4))


def data_of(run: Run, protocol: Protocol, frames: int = 0) -> ConfigDict:
    """The `data` section of a config for real clips of `frames` frames; 0 for a protocol's."""
    data = run.config.data.copy_and_resolve_references()
    frames = frames or protocol.window or protocol.frames or data.frames
    data.update(frames=frames, strides=(protocol.stride,), plans=())
    return data


def _load(path: Path) -> Features:
    with local(path) as file:
        return np.load(file, allow_pickle=False)


def _save(path: Path, rows: Features) -> None:
    content = io.BytesIO()
    np.save(content, rows, allow_pickle=False)
    make_folder(path.parent)
    write_whole(path, content.getvalue())
