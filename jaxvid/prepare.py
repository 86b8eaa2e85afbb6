"""Turn a folder of video files into ArrayRecord shards of short clips.

    python -m jaxvid.prepare --input=DIR --output=DIR --size=64 --fps=8 --frames=32

Every file below the input is cut into consecutive clips of `frames` frames at `fps` frames per
second, none of which goes over a scene cut; a shorter rest of a scene is left out, and so are dark
borders. Clips without motion or contrast are dropped, and near-duplicates. docs/data.md has the
scores by which clips are kept.

The first-level subfolder is the class. A text file with the name of a video (`dive.txt` for
`dive.mp4`) is the caption of its clips. A table of captions and labels, in CSV or JSON Lines, comes
before both:

    python -m jaxvid.prepare --input=DIR --output=DIR --table=captions.csv

Links to folders are followed; hidden files and folders are left out. In the output, `manifest.json`
sums up what was kept and why the rest was not, `clips-*.json` say it of each file and clip with all
scores, and `kept.png` and `dropped.png` show some of both.

Videos of several shapes are divided, without cropping most of the picture away: each goes to the
shape that crops least of it, in a subfolder of its own.

    python -m jaxvid.prepare --input=DIR --output=DIR --size=36x64,48x48,64x36

Games record themselves, with the action at each frame, which docs/data.md describes:

    python -m jaxvid.prepare --games=craftax --clips=5000 --output=DIR --size=64 --frames=32

Input, output and table may be in Google Cloud Storage (`pip install gcsfs`). Many machines prepare
a large input there, or in a folder in common, as a pipeline of Apache Beam (`pip install
apache-beam`), to the same bytes:

    python -m jaxvid.prepare --input=gs://… --output=gs://… --beam="--runner=DataflowRunner …"

Run it again to resume after an interruption, or when the input has changed. New files are added. If
a video or its caption has changed, its clips are made again, with those of all files in the same
shard. A file that was removed from the input keeps its clips: to leave them out, prepare into
another folder. Classes keep their numbers.
"""

from jaxvid import start

if __name__ == "__main__":
    start.begin(huge_pages=False)

import collections
import os
import pathlib
import re
import shlex
import signal
import sys
import time
from collections.abc import Mapping, Sequence, Set
from typing import Any

import numpy as np
from absl import flags
from tqdm import tqdm

from jaxvid import config as configs
from jaxvid import errors
from jaxvid.data import manifest as manifests
from jaxvid.data import scan, text
from jaxvid.data.curation import pool
from jaxvid.data.curation.examples import examples
from jaxvid.data.curation.plays import Plays
from jaxvid.data.curation.scores import parse_filters
from jaxvid.data.curation.settings import Settings
from jaxvid.data.curation.shard import Job, write_shard
from jaxvid.data.curation.table import read_table
from jaxvid.errors import InputError
from jaxvid.files import Path, make_folder, to_path
from jaxvid.workdir.pictures import contact_sheet, write_png

_MOST_LINES = 20
_EXAMPLES = 24  # clips in a contact sheet


def prepare(
    source: Path | Plays,
    output: Path,
    settings: Settings,
    workers: int,
    table: Path | None = None,
    beam: Sequence[str] = (),
) -> tuple[manifests.Manifest, manifests.Shards, Set[str]]:
    """Cuts the files below `source` that are new or have changed into clips, or records games.

    Args:
      source: the folder of videos, or the games.
      output: the folder for shards and manifest, or for that of each shape; made if it does not
        exist.
      settings: of the clips.
      workers: number of processes that decode.
      table: captions and labels, see `curation.table`.
      beam: options of a Beam pipeline that decodes, in place of processes.

    Returns:
      The manifest, as it is on disk; what is known of each shard, in brief; and the files that are
      below `source`.

    Raises:
      InputError: there are no files, or the output has other settings or cannot be written.
    """
    pipeline = _make_pipeline(beam) if beam else None
    if isinstance(source, Plays):
        stamps, folder = source.stamps(), pathlib.Path()
    else:
        found = scan.find_files(source, output)
        _print_some([f"not read: {problem}" for problem in found.problems])
        for name in [name for name in found.files if source / name == table]:
            del found.files[name]
        rows = read_table(table, list(found.files)) if table else {}
        stamps, folder = scan.stamps(found, rows), source
    others = (output / manifests.NAME).exists() if settings.folder else manifests.shapes(output)
    if others:
        kind = "one shape" if settings.folder else "several shapes"
        raise InputError(f"{output} has clips of {kind}: choose another --output, or its --size")
    output /= settings.folder
    manifest, shards = manifests.resume(output, settings)
    changed = scan.plan(manifest, shards, stamps)
    there = frozenset(stamps)
    del stamps  # of a million files
    if isinstance(source, Plays):
        manifest["actions"] = list(source.open()[0].actions)
    try:
        make_folder(output, "--output")
        for leftover in [*output.glob("clips-*.tmp"), *output.glob(".clips-*.tmp")]:
            leftover.unlink()
        for shard in changed | manifests.unsaved(output, shards):
            manifests.save_brief(output, shard, shards.get(shard, {"files": {}}))
        # Remove changed files from the data set first, so that an interruption leaves no old clips
        # of them.
        manifests.save(output, manifest, shards)
        classes = tuple(manifest["classes"])
        jobs = [
            Job(folder, output, name, classes, settings)
            for name in sorted(changed & shards.keys())
            if any(map(_is_pending, shards[name]["files"].values()))
        ]
        _write_shards(jobs, manifest, shards, workers, pipeline)
    except (OSError, RuntimeError) as error:  # a full disk, or a worker killed for lack of memory
        raise InputError(
            f"{output}: stopped ({error}); finished shards are kept, run the same command to resume"
        ) from error
    return manifest, shards, there


def _write_shards(
    jobs: Sequence[Job],
    manifest: manifests.Manifest,
    shards: manifests.Shards,
    workers: int,
    pipeline: Any,
) -> None:
    """Runs the jobs; a shard enters the manifest when it is complete."""
    if not jobs:
        return
    for job in jobs:  # their clips are made again
        text.remove_embeddings(job.output, job.name)
    output = jobs[0].output
    if pipeline:
        from jaxvid.data.curation import beam

        beam.run(pipeline, write_shard, jobs)
        for job in jobs:
            shards[job.name] = manifests.brief(manifests.read_shard(output, job.name))
        manifests.save(output, manifest, shards)
        return
    total = sum(len(shards[job.name]["files"]) for job in jobs)
    done, saved, cost = 0, time.monotonic(), 0.0
    with tqdm(total=total, unit="file", disable=None) as bar:
        for name, shard in pool.run(write_shard, jobs, workers):
            shards[name] = shard
            # A large manifest is not saved each time: `clips-*.json` say the same.
            if (began := time.monotonic()) - saved > 20 * cost:
                manifests.save(output, manifest, shards)
                saved = time.monotonic()
                cost = saved - began
            bar.update(len(shard["files"]))
            done += len(shard["files"])
            if bar.disable:
                clips = sum(entry.get("clips", 0) for entry in shard["files"].values())
                print(f"{done}/{total} files, {name}: {clips} clips", flush=True)
    manifests.save(output, manifest, shards)


def _make_pipeline(options: Sequence[str]) -> Any:
    try:
        from jaxvid.data.curation import beam
    except ImportError as error:
        raise InputError("--beam: apache-beam is missing: pip install apache-beam") from error
    return beam.make_pipeline(options)


def _is_pending(entry: Mapping[str, Any]) -> bool:
    return entry["status"] == "pending"


def _report(
    manifest: manifests.Manifest,
    shards: manifests.Shards,
    found: Set[str],
    source: Path,
    output: Path,
) -> int:
    """Says what became of the files; returns the number of clips."""
    files = {name: e for shard in shards.values() for name, e in sorted(shard["files"].items())}
    skipped = {name: entry for name, entry in files.items() if entry["status"] == "skipped"}
    kinds = collections.defaultdict(list)
    for name, entry in skipped.items():
        kinds[manifests.kind_of(entry["reason"])].append(name)
    lines = []
    for kind, names in kinds.items():
        if len(names) == 1:
            lines.append(f"skipped {names[0]}: {skipped[names[0]]['reason']}")
        else:
            some = ", ".join(names[:3] + ["…"] * (len(names) > 3))
            lines.append(f"skipped: {len(names)} files {manifests.KINDS.get(kind, kind)}: {some}")
    _print_some(lines)
    clips, dropped = (manifest["summary"][key] for key in ("clips", "dropped"))
    if dropped:
        reasons = ", ".join(f"{count} by {name}" for name, count in dropped.items())
        print(f"dropped {sum(dropped.values())} clips: {reasons}")
    if share := manifest["summary"].get("cropped"):
        print(f"cropped away {share:.1%} of the pictures")
    done = len(files) - len(skipped)
    gone = sum(
        e["status"] == "done" and "game" not in e and n not in found for n, e in files.items()
    )
    notes = f"{len(skipped)} skipped" + (f", {gone} gone but kept" if gone else "")
    print(f"{clips} clips from {done} files ({notes}) in {output}")
    return clips


def _show(
    source: Path, output: Path, manifest: manifests.Manifest, shards: manifests.Shards
) -> None:
    """Writes contact sheets of clips that were kept and dropped."""
    shown = examples(source, output, manifest, shards, _EXAMPLES)
    for name, clips in zip(("kept.png", "dropped.png"), shown, strict=True):
        (output / name).unlink(missing_ok=True)
        if clips:
            frames, titles = zip(*clips, strict=True)
            write_png(output / name, contact_sheet(np.stack(frames), titles=titles))


def _print_some(lines: Sequence[str]) -> None:
    for line in lines[:_MOST_LINES]:
        print(line)
    if len(lines) > _MOST_LINES:
        print(f"and {len(lines) - _MOST_LINES} more lines like these")


def _define_flags() -> None:
    flags.DEFINE_string("input", None, "Folder of video files, here or in a bucket (gs://…).")
    flags.DEFINE_list("games", [], "Games to record, such as craftax or atari/pong,atari/breakout.")
    flags.DEFINE_integer("clips", 500, "Clips of each game.", lower_bound=1)
    flags.DEFINE_string("output", None, "Folder for the shards.", required=True)
    flags.DEFINE_list(
        "size",
        "64",
        "Height and width of a frame in pixels, such as 64 or 48x80; of several, a video has the "
        "one that crops least of it.",
    )
    flags.DEFINE_float("fps", 8, "Frames per second of a clip.", lower_bound=0.01)
    flags.DEFINE_integer("frames", 32, "Frames of a clip.", lower_bound=1)
    flags.DEFINE_integer("quality", 95, "JPEG quality.", lower_bound=1, upper_bound=100)
    flags.DEFINE_string("table", None, "CSV or JSON Lines with path, and caption or label.")
    flags.DEFINE_float("cuts", 3, "Threshold of scene cuts; 0 finds none.", lower_bound=0)
    flags.DEFINE_bool("letterbox", True, "Cut off dark borders.")
    flags.DEFINE_string(
        "filters",
        "motion(least=0.005), contrast(least=0.02)",
        "Scores with bounds; clips out of them are dropped. Others: sharpness, brightness.",
    )
    flags.DEFINE_integer(
        "duplicates",
        6,
        "Bits of 128 in which the perceptual hashes of two clips may differ for one of them to be "
        "left out; -1 keeps all.",
        lower_bound=-1,
        upper_bound=32,
    )
    flags.DEFINE_integer("workers", os.cpu_count(), "Processes that decode.", lower_bound=1)
    flags.DEFINE_string(
        "beam",
        "",
        "Decode as a pipeline of Apache Beam with these options, in place of --workers, such as "
        '"--runner=FlinkRunner --flink_master=HOST:8081".',
    )


def _source() -> Path | Plays:
    values = flags.FLAGS
    if bool(values.input) == bool(values.games):
        raise InputError("give --input, a folder of video files, or --games, but not both")
    if values.input:
        return to_path(values.input, "--input")
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # for games in JAX, in all workers
    return Plays(values.games, values.clips, values.fps if values["fps"].present else None)


def _settings(source: Path | Plays) -> list[Settings]:
    """Of each shape."""
    values = flags.FLAGS
    shapes = [_parse_size(text) for text in values.size]
    if len({height / width for height, width in shapes}) < max(1, len(shapes)):
        raise InputError(f"--size={','.join(values.size)}: two have the same shape; leave one out")
    if values.games and len(shapes) > 1:
        raise InputError(f"--size={','.join(values.size)}: games have one shape; give one size")
    given = {name: values[name].value for name in ("cuts", "letterbox", "duplicates")}
    if values.games:  # they need no filters, unless one is asked for
        given = {"duplicates": values.duplicates if values["duplicates"].present else -1}
        values.filters = values.filters if values["filters"].present else ""
        values.fps = source.open()[0].fps
    # At commas outside of parentheses.
    filters = tuple(filter(None, map(str.strip, re.split(r",(?![^(]*\))", values.filters))))
    parse_filters(filters)  # refuses those that are not valid
    if len(shapes) > 1:
        given["shapes"] = tuple(f"{height}x{width}" for height, width in shapes)
    return [
        Settings(
            size=height if height == width else (height, width),
            fps=values.fps,
            frames=values.frames,
            quality=values.quality,
            filters=filters,
            **given,
        )
        for height, width in shapes
    ]


def _parse_size(text: str) -> tuple[int, int]:
    sides = re.fullmatch(r"([1-9]\d*)(?:x([1-9]\d*))?", text)
    if not sides:
        raise InputError(f"--size={text}: write it as 64, or height x width, 48x80")
    return int(sides[1]), int(sides[2] or sides[1])


def main(_: Sequence[str]) -> None:
    # File names may not be valid text.
    sys.stdout.reconfigure(errors="backslashreplace")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, pool.interrupt)
    values = flags.FLAGS
    try:
        source = _source()
        output = to_path(values.output, "--output")
        table = to_path(values.table, "--table") if values.table else None
        beam, made = shlex.split(values.beam), manifests.shapes(output)
        folder, clips = source if isinstance(source, Path) else pathlib.Path(), 0
        # A subfolder that has other settings is refused before another is made.
        for settings in sorted(_settings(source), key=lambda s: s.folder not in made):
            manifest, shards, found = prepare(source, output, settings, values.workers, table, beam)
            clips += _report(manifest, shards, found, folder, output / settings.folder)
            _show(folder, output / settings.folder, manifest, shards)
        if not clips:
            files = sum(manifest["summary"]["files"].values())
            raise InputError(f"{folder}: no clips, all {files} files were skipped, see above")
    except BaseException:
        if not pool.interrupted.is_set():
            raise
        print(
            "interrupted: finished shards are kept, run the same command to resume",
            file=sys.stderr,
        )
        sys.exit(130)


if __name__ == "__main__":
    _define_flags()
    errors.run(main, configs.parse_flags)
