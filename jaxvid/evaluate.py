"""Score a trained model, or a folder of videos, against real videos.

    python -m jaxvid.evaluate --workdir=DIR [--protocol=fvd2048_16f --checkpoint=STEP]
    python -m jaxvid.evaluate --workdir=DIR --num=64 --metrics=energy,motion
    python -m jaxvid.evaluate --workdir=DIR --protocol=long --plan=key_frames
    python -m jaxvid.evaluate --videos=DIR --reference=DIR [--protocol=fvd256_16f --size=64]
    python -m jaxvid.evaluate --features=FILE.npy --reference=FILE.npy

A protocol fixes the metrics, the number of clips, their length and their split; scores of different
protocols must not be compared. With `--workdir`, a run's model draws the clips, and its data gives
the real ones. An evaluation that is interrupted goes on where it was. With `--videos`, both are
folders of video files, of which each gives one clip. With `--features`, both are what another
network says of the clips: an array with a row per clip.

It prints a table and writes `scores.json` and `scores.png`. Each score comes with its standard
error and with the score of real clips, which a perfect model would reach.
"""

from jaxvid import start

if __name__ == "__main__":
    start.begin()

import dataclasses
import json
import sys
from collections.abc import Sequence
from typing import Any

import jax
from absl import flags
from tqdm import tqdm

from jaxvid import config as configs
from jaxvid import errors, files
from jaxvid.comparison import among, evaluate_features, evaluate_folders
from jaxvid.errors import InputError
from jaxvid.evaluation import evaluate, hash_of
from jaxvid.files import Path
from jaxvid.metrics.protocols import Protocol, choose
from jaxvid.metrics.score import Score
from jaxvid.parallel import peers
from jaxvid.trained import load
from jaxvid.workdir import exported, pictures
from jaxvid.workdir.checkpoint import Checkpoints
from jaxvid.workdir.disk import make_folder, write_whole

WORKDIR = flags.DEFINE_string(
    "workdir", None, "A run's work directory, or a file of jaxvid.export."
)
VIDEOS = flags.DEFINE_string("videos", None, "Folder of videos to score, without a run.")
FEATURES = flags.DEFINE_string("features", None, "File of features to score: .npy, a row per clip.")
REFERENCE = flags.DEFINE_string(
    "reference", None, "Folder or file of real ones, for --videos or --features."
)
TRAINED_ON = flags.DEFINE_string(
    "trained_on",
    None,
    "Folder of videos or prepared clips that the model of --videos was trained on; warns if some "
    "are in --reference.",
)
SIZE = flags.DEFINE_integer(
    "size", None, "Height and width in pixels to which --videos and --reference are resized."
)
PROTOCOL = flags.DEFINE_string("protocol", "quick", "Name of the protocol.")
NUM = flags.DEFINE_integer("num", 0, "Number of clips, if not the protocol's.", lower_bound=0)
METRICS = flags.DEFINE_list("metrics", [], "Metrics, if not the protocol's.")
PLAN = flags.DEFINE_string("plan", "", "Plan of a run's long videos; see docs/hierarchy.md.")
CHECKPOINT = flags.DEFINE_integer("checkpoint", None, "Its step; by default the newest.")
WEIGHTS = flags.DEFINE_enum(
    "weights", "ema", ["ema", "raw", "best"], "Averaged, raw, or averaged with the best score."
)
EMA_WIDTH = flags.DEFINE_float(
    "ema_width", None, "Relative width of a post-hoc EMA, up to 0.28; by default the plain EMA."
)
OUTPUT = flags.DEFINE_string(
    "output", None, "Folder for the scores; by default in the workdir, or ./scores for --videos."
)
DISTRIBUTED = flags.DEFINE_string(
    "distributed", None, "Score --workdir with other processes, as --distributed of jaxvid.train."
)


def main(_: Sequence[str]) -> None:
    ways = ((WORKDIR, _of_run), (VIDEOS, _of_videos), (FEATURES, _of_features))
    chosen = [of for flag, of in ways if flag.value is not None]
    if len(chosen) != 1 or (REFERENCE.value is None) != (chosen == [_of_run]):
        raise InputError(
            "give --workdir=DIR of a run; or --videos=DIR and --reference=DIR; or "
            "--features=FILE.npy and --reference=FILE.npy"
        )
    if TRAINED_ON.value is not None and chosen != [_of_videos]:
        raise InputError("--trained_on is for --videos; a run holds out clips of its own")
    if PLAN.value and chosen != [_of_run]:
        raise InputError("--plan is for --workdir: it says how a run draws long videos")
    if DISTRIBUTED.value and chosen != [_of_run]:
        raise InputError("--distributed is for --workdir: one process scores files")
    try:
        protocol = choose(PROTOCOL.value, NUM.value, tuple(METRICS.value), PLAN.value)
    except InputError as error:
        raise InputError(f"--protocol, --num or --metrics: {error}") from None
    with peers.joined(DISTRIBUTED.value):
        output, about, scores = chosen[0](protocol)
        if jax.process_index() == 0:
            write(output, about, scores)


def write(output: Path, about: dict[str, Any], scores: Sequence[Score]) -> None:
    """Prints the scores, and writes them."""
    print(table(scores))
    content = {**about, "scores": [dataclasses.asdict(score) for score in scores]}
    write_whole(output / "scores.json", (json.dumps(content, indent=1) + "\n").encode())
    pictures.write_scores(output / "scores.png", scores)
    print(f"scores.json and scores.png: {output}")


def _of_run(protocol: Protocol) -> tuple[Path, dict[str, Any], list[Score]]:
    """Scores the run of `--workdir`."""
    workdir, step = files.to_path(WORKDIR.value, "--workdir"), CHECKPOINT.value
    is_file = workdir.suffix == exported.SUFFIX
    if is_file and OUTPUT.value is None:
        raise InputError("give --output=DIR: --workdir is a file")
    if not is_file and step is None and EMA_WIDTH.value is None and WEIGHTS.value != "best":
        with Checkpoints(workdir) as checkpoints:
            step = max(checkpoints.steps, default=None)
    model = load(
        workdir,
        checkpoint=step,
        weights=WEIGHTS.value,
        ema_width=EMA_WIDTH.value,
        changes=configs.OVERRIDES,
    )
    about = {
        "workdir": str(workdir),
        "checkpoint": step,
        "weights": WEIGHTS.value if EMA_WIDTH.value is None else f"ema_width={EMA_WIDTH.value}",
        "config": json.loads(model.run.config.to_json()),
    }
    which = [about["weights"], step, about["config"], vars(protocol)]
    name = f"{protocol.name}-{step or WEIGHTS.value}-{hash_of(which)[:8]}"
    output = files.to_path(OUTPUT.value or f"{workdir}/evals/{name}", "--output")
    make_folder(output)
    model.params  # noqa: B018  read before the clips are
    with _bar() as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done)

        scores = evaluate(model, [protocol], output / hash_of(which), progress)
    return output, about, scores


def _of_videos(protocol: Protocol) -> tuple[Path, dict[str, Any], list[Score]]:
    """Scores the videos of `--videos`."""
    folders = [files.to_path(f.value, f"--{f.name}") for f in (VIDEOS, REFERENCE)]
    about = {"videos": str(folders[0]), "reference": str(folders[1])}
    for flag in (VIDEOS, TRAINED_ON):
        if flag.value is not None:
            folder = files.to_path(flag.value, f"--{flag.name}")
            about[f"in_{flag.name}"] = len(found := among(folders[1], folder))
            if found:
                print(
                    f"warning: {len(found)} videos of --reference are in --{flag.name} too, such "
                    f"as {found[0]}: the scores are too good"
                )
    output = files.to_path(OUTPUT.value or "scores", "--output")
    make_folder(output)
    with _bar(2 * protocol.clips) as bar:
        scores = evaluate_folders(*folders, protocol, SIZE.value, lambda: bar.update(1))
    return output, about, scores


def _of_features(protocol: Protocol) -> tuple[Path, dict[str, Any], list[Score]]:
    """Scores the features of `--features`."""
    paths = [files.to_path(f.value, f"--{f.name}") for f in (FEATURES, REFERENCE)]
    scores = evaluate_features(*paths, protocol.seed)
    output = files.to_path(OUTPUT.value or "scores", "--output")
    make_folder(output)
    return output, {"features": str(paths[0]), "reference": str(paths[1])}, scores


def table(scores: Sequence[Score]) -> str:
    """The scores as text, with what they are scores of."""
    rows = [("metric", "score", "real clips", "better")]
    for s in scores:
        floor = "" if s.floor is None else f"{s.floor:.4g} ± {s.floor_error:.2g}"
        better = "like real clips" if s.better == "real" else s.better
        rows.append((s.metric, f"{s.value:.4g} ± {s.error:.2g}", floor, better))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(f"{c:<{w}}" for c, w in zip(row, widths, strict=True)) for row in rows]
    first = scores[0]
    lines.append(f"{first.protocol}: {first.drawn} against {first.real} clips, seed {first.seed}")
    return "\n".join(line.rstrip() for line in lines)


def _bar(total: int | None = None) -> tqdm:
    slow = 0.1 if sys.stdout.isatty() else 10
    return tqdm(total=total, unit="clip", file=sys.stdout, mininterval=slow)


if __name__ == "__main__":
    errors.run(main, configs.parse_overrides)
