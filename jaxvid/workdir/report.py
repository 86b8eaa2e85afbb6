"""`report.html`: what a run, or several, did and made, as one page that needs no other file."""

import base64
import itertools
import json
import os
import pathlib
import re
import tempfile
from collections.abc import Sequence
from typing import Any, NamedTuple

import jinja2
import numpy as np
from jaxtyping import UInt8
from ml_collections import ConfigDict
from PIL import Image

from jaxvid import start
from jaxvid.config import flatten, sorted_keys
from jaxvid.data.video import read_frames, write_video
from jaxvid.errors import InputError
from jaxvid.files import Path
from jaxvid.workdir import folder, pictures, starts
from jaxvid.workdir.charts import COLOURS, Line, chart
from jaxvid.workdir.disk import write_whole

SHOWN = 8  # sample folders of a task, and clips of each
LARGEST = 128  # pixels of a clip in the page
LONGEST = 256  # frames
SAMPLES = re.compile(r"(\d+)-(\w+)")
PART = "seconds/"


class Run(NamedTuple):
    """What a run left in its work directory.

    Attributes:
      name: the name of the folder.
      config: its config.
      lines: the step and the values of each line of its metrics.
      starts: see `starts.describe`.
      samples: for each task the steps with samples, and their folders.
      scores: the content of each `scores.json` of `jaxvid.evaluate`.
      workdir: the folder.
    """

    name: str
    config: ConfigDict
    lines: list[tuple[int, dict[str, float]]]
    starts: list[dict[str, Any]]
    samples: dict[str, list[tuple[int, Path]]]
    scores: list[dict[str, Any]]
    workdir: Path

    def curve(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """The steps and values of a metric."""
        points = [(step, values[name]) for step, values in self.lines if name in values]
        return tuple(np.array(points, float).reshape(-1, 2).T)

    def last(self, name: str) -> float:
        """The newest value of a metric; NaN if it has none."""
        return next((v[name] for _, v in reversed(self.lines) if name in v), float("nan"))


def write_report(path: str | os.PathLike, workdirs: Sequence[Path]) -> None:
    """Writes a page about the runs in `workdirs`; several are compared.

    Raises InputError if one of them has no run, or the page cannot be written.
    """
    runs = list(map(_read, workdirs))
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("jaxvid", "workdir"), autoescape=True, trim_blocks=True,
        lstrip_blocks=True, undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    text = environment.get_template("report.html.jinja").render(
        title=" / ".join(run.name for run in runs),
        runs=[_about(run, colour) for run, colour in zip(runs, COLOURS * len(runs), strict=False)],
        tasks=_samples(runs),
        charts=_charts(runs),
        scores=_scores(runs),
        config=_config(runs),
    )
    write_whole(path, text.encode())


def _read(workdir: Path) -> Run:
    config = folder.load(workdir)
    curves = workdir / "metrics.jsonl"
    lines = list(pictures.read_metrics(curves)) if curves.exists() else []
    samples: dict[str, list[tuple[int, Path]]] = {}
    for path in sorted((workdir / "samples").glob("*")):
        if (match := SAMPLES.fullmatch(path.name)) and (path / "sheet.png").exists():
            samples.setdefault(match[2], []).append((int(match[1]), path))
    found = sorted((workdir / "evals").glob("*/scores.json"))
    scores = [json.loads(path.read_text()) for path in found]
    name = workdir.resolve().name if isinstance(workdir, pathlib.Path) else workdir.name
    return Run(name, config, lines, starts.read(workdir), samples, scores, workdir)


def _about(run: Run, colour: str) -> dict[str, Any]:
    seconds = {name.removeprefix(PART): run.last(name) for name in run.lines[-1:] and _parts(run)}
    total = sum(seconds.values())
    sheet = run.workdir / "data.png"
    return {
        "name": run.name,
        "colour": colour,
        "step": max((step for step, _ in run.lines), default=0),
        "steps": run.config.steps,
        "loss": run.last("loss"),
        "minutes": total / 60,
        "goodput": [(part, s / total, s / 60) for part, s in seconds.items() if total],
        "data": _uri("image/png", sheet.read_bytes()) if sheet.exists() else "",
        "starts": run.starts,
    }


def _parts(run: Run) -> list[str]:
    return list(dict.fromkeys(n for _, v in run.lines for n in v if n.startswith(PART)))


def _samples(runs: Sequence[Run]) -> dict[str, list[dict[str, Any]]]:
    """For each task the videos to show: of one run from the newest on, of several the newest."""
    tasks: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        for task, folders in run.samples.items():
            chosen = np.linspace(0, len(folders) - 1, min(SHOWN, len(folders))).round().astype(int)
            for i in chosen[::-1] if len(runs) == 1 else chosen[-1:]:
                step, path = folders[i]
                name = f"step {step:,}" if len(runs) == 1 else f"{run.name}, step {step:,}"
                if clips := _clips(path):
                    video, width = _video(clips, run.config.data.fps)
                    made = {"name": name, "video": video, "width": width}
                    tasks.setdefault(task, []).append(made)
    return tasks


def _clips(path: Path) -> list[UInt8[np.ndarray, "T H W 3"]]:
    """The first clips of a folder of samples, small, without those that cannot be read."""
    clips = []
    for file in sorted(path.glob("*.mp4"))[:SHOWN]:
        images = []
        try:
            for frame, _ in itertools.islice(read_frames(file, size=None), LONGEST):
                image = Image.fromarray(frame)
                image.thumbnail((LARGEST, LARGEST), Image.Resampling.BOX)
                images.append(np.asarray(image))
        except InputError as error:
            start.say(f"note: the report leaves out a clip: {error}")
            continue
        clips.append(np.stack(images))
    return clips


def _video(clips: Sequence[UInt8[np.ndarray, "T H W 3"]], fps: float) -> tuple[str, int]:
    """Clips side by side in one video, as a data URI, and its width."""
    video = pictures.tile(np.stack(clips), scale=1, gap=4)
    with tempfile.TemporaryDirectory() as temporary:
        file = pathlib.Path(temporary, "tiled.mp4")
        write_video(file, video, fps)
        return _uri("video/mp4", file.read_bytes()), video.shape[2]


def _uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _charts(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """The title and the SVG of each chart that has data."""
    several, made = len(runs) > 1, []

    def add(title: str, name: str, smooth: bool = False, **style: Any) -> None:
        lines = []
        for run, colour in zip(runs, COLOURS * len(runs), strict=False):
            x, y = run.curve(name)
            if len(x) == 0:
                continue
            label = run.name if several else ""
            if name.startswith(pictures.EVALS):
                _, errors = run.curve(f"{name}_error")
                errors = 1.96 * errors if len(errors) == len(x) else np.zeros_like(y)
                lines.append(Line(label, x, y, errors, colour=colour))
                floor_x, floor = run.curve(f"{name}_floor")
                if len(floor):
                    shown = Line("real clips", floor_x, floor, colour=COLOURS[2], style="dashed")
                    lines.append(shown if not several else _of(shown, colour, label))
                continue
            if smooth:
                lines.append(Line("", x, y, colour=colour, style="faint"))
                y = pictures.smooth(y)
            lines.append(Line(label, x, y, colour=colour))
        if lines:
            made.append((title, chart(title, lines, **style)))

    names = dict.fromkeys(name for run in runs for _, values in run.lines for name in values)
    levels = sorted(name for name in names if name.startswith(pictures.NOISE_BIN))
    add("Training loss", "loss", smooth=True, log=True)
    if several:
        for name in levels:
            add(f"Loss at noise {_level(name)}", name, smooth=True, log=True)
    elif levels:
        lines = []
        for name, colour in zip(levels, COLOURS, strict=False):
            x, y = runs[0].curve(name)
            lines.append(Line(_level(name), x, pictures.smooth(y), colour=colour))
        made.append(("Loss by noise level", chart("Loss by noise level", lines, log=True)))
    for name in names:
        kind = name.removeprefix(pictures.EVALS)
        if kind == name or kind.endswith(("_error", "_floor")):
            continue
        if not kind.startswith(pictures.NOISE_BIN):
            add("Loss of held-out clips" if kind == "loss" else kind.replace("/", ": "), name)
    add("Clips per second", "clips_per_s")
    add("Steps' share of the time", "goodput", percent=True)
    add("Waiting for data", "data_wait", percent=True)
    add("Norm of the gradient", "grad_norm", smooth=True, log=True)
    add("Learning rate", "lr")
    return made


def _of(line: Line, colour: str, label: str) -> Line:
    return Line(f"{label}: {line.label}", line.x, line.y, colour=colour, style=line.style)


def _level(name: str) -> str:
    return name.removeprefix(pictures.NOISE_BIN).replace("-", " to ")


def _scores(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """A row for each score of `jaxvid.evaluate`."""
    return [
        {"run": run.name, "checkpoint": found.get("checkpoint"), "weights": found.get("weights")}
        | {"changes": _changes(run.config, found)}
        | score
        for run in runs
        for found in run.scores
        for score in found["scores"]
    ]


def _changes(config: ConfigDict, found: dict[str, Any]) -> str:
    """What an evaluation drew with other settings than the run has: `sampler.steps=16`."""
    chosen = found.get("config", {}).get("sampler", {})
    return "".join(
        f", sampler.{name}={value}"
        for name, value in chosen.items()
        if _plain(value) != _plain(config.sampler.get(name))
    )


def _config(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """A row for each key: its values, and whether they differ, or one does from the default."""
    flat = [flatten(run.config) for run in runs]
    rows = []
    for name, key in sorted_keys():
        values = [f"{_plain(config[name])!r}" for config in flat]
        usual = [f"{_plain(key.default)!r}"] if len(runs) == 1 else []
        differs = len({*values, *usual}) > 1
        rows.append({"key": name, "doc": key.doc, "values": values, "differs": differs})
    return rows


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
