"""Pictures of a run: contact sheets, animations, curves, and plans of long videos.

A file gets its name only when it is complete.
"""

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from typing import Any

import einops
import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from jaxvid.errors import InputError
from jaxvid.files import to_path
from jaxvid.hierarchy.plan import Plan
from jaxvid.workdir.disk import write_whole

LEGIBLE = 64  # pixels: smaller frames are magnified to at least this
BORDER = 3  # pixels
OBSERVED = (46, 160, 67)  # green
TITLE = 12  # pixels: the height of a letter
PAPER = 240  # light grey, 0 to 255
FRAME = 128  # grey between videos, for light and dark pages
EVALS = "evals/"  # prefix of a score
NOISE_BIN = "loss/noise_"  # prefix of a metric; the rest is the range of levels, "0.00-0.25"


def contact_sheet(
    videos: UInt8[np.ndarray, "B T H W 3"],
    *,
    scale: int | None = None,
    gap: int = 2,
    columns: int = 32,
    observed: Bool[np.ndarray, " T"] | None = None,
    titles: Sequence[str] = (),
) -> UInt8[np.ndarray, "h w 3"]:
    """Clips in one picture: rows are clips, columns are frames. Long clips take several rows.

    Args:
      videos: clips, 0 to 255.
      scale: magnification; by default the smallest whole number that makes frames of at least 64
        pixels.
      gap: pixels between frames and around all of them. Clips of several rows are further apart.
      columns: largest number of frames in a row.
      observed: frames that were observed, not generated; they get a green border.
      titles: a line of text above each clip; none by default, or if all are empty.
    """
    frames = _magnify(videos, scale)
    if observed is not None:
        height, width = frames.shape[2:4]
        frames = _pad(frames, (BORDER, BORDER))
        edge = np.pad(np.zeros((height, width), bool), BORDER, constant_values=True)
        frames[:, observed[:, None, None] & edge] = OBSERVED
    T, columns = frames.shape[1], min(columns, frames.shape[1])
    blank = np.full_like(frames[:, :1], PAPER).repeat(-T % columns, axis=1)
    cells = _pad(np.concatenate([frames, blank], axis=1), (0, gap))
    clips = einops.rearrange(cells, "b (r c) h w x -> b (r h) (c w) x", c=columns)
    if columns < T:
        clips = np.pad(clips, [(0, 0), (0, 3 * gap), (0, 0), (0, 0)], constant_values=PAPER)
    if any(titles):
        lines = np.stack([_line(title, clips.shape[2]) for title in titles])
        clips = np.concatenate([lines, clips], axis=1)
    return _pad(einops.rearrange(clips, "b h w x -> (b h) w x"), (gap, 0))


def cascade_sheet(
    levels: Sequence[UInt8[np.ndarray, "B t h w 3"]],
    every: Sequence[int],
    titles: Sequence[str],
    columns: int = 64,
) -> UInt8[np.ndarray, "H W 3"]:
    """Videos of a cascade in one picture: a row for each level of each, columns aligned in time.

    Args:
      levels: the videos of each level; sides of the last are multiples of those of others.
      every: for each level, how many frames of the last lie from one of its frames to the next.
      titles: a line of text above each row: of all levels of the first video, then of the second.
      columns: largest number of columns; longer videos show every second frame, or fourth, ….
    """
    B, T, H, W = levels[-1].shape[:4]
    step = 1
    while -(-T // step) > columns:
        step *= 2
    shown, scale = range(0, T, step), -(-LEGIBLE // min(H, W))
    cells = np.full((B, len(levels), len(shown), scale * H, scale * W, 3), PAPER, np.uint8)
    for k, (videos, n) in enumerate(zip(levels, every, strict=True)):
        for column, i in enumerate(shown):
            if i % n == 0:
                magnified = _magnify(videos[:, [i // n]], scale * H // videos.shape[2])
                cells[:, k, column] = magnified[:, 0]
    rows = einops.rearrange(cells, "b k t h w x -> (b k) t h w x")
    return contact_sheet(rows, scale=1, columns=len(shown), titles=titles)


def tile(
    videos: UInt8[np.ndarray, "B T H W 3"], *, scale: int | None = None, gap: int = 2
) -> UInt8[np.ndarray, "T h w 3"]:
    """Clips side by side in one video, in a grid that is nearly square.

    `scale` and `gap` are those of `contact_sheet`. Cells without a clip stay blank; there are none
    if the clips fill a grid that is at most four times as wide as high.
    """
    videos = _magnify(videos, scale)
    count = len(videos)
    square = int(np.ceil(np.sqrt(count)))
    full = (c for c in range(square, int(2 * np.sqrt(count)) + 1) if count % c == 0)
    columns = next(full, square)
    blank = np.full((-count % columns, *videos.shape[1:]), FRAME, np.uint8)
    cells = np.concatenate([videos, blank])
    cells = _pad(cells, (0, gap), FRAME)
    grid = einops.rearrange(cells, "(r c) t h w x -> t (r h) (c w) x", c=columns)
    return _pad(grid, (gap, 0), FRAME)


def gif(video: UInt8[np.ndarray, "T H W 3"], fps: int | float) -> bytes:
    """An animated GIF that loops, with at most 256 colours a frame.

    GIF counts time in hundredths of a second, and browsers slow down frames shorter than two. The
    frame rate becomes the nearest possible one, at most 50.
    """
    first, *rest = map(Image.fromarray, video)
    duration = 10 * max(2, round(100 / fps))  # milliseconds
    file = io.BytesIO()
    first.save(file, "GIF", save_all=True, append_images=rest, duration=duration, loop=0)
    return file.getvalue()


def write_png(path: str | PathLike, image: UInt8[np.ndarray, "H W 3"]) -> None:
    """Writes an image, 0 to 255, as PNG."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    write_whole(path, file.getvalue())


def write_loss_curve(path: str | PathLike, metrics_jsonl: str | PathLike) -> None:
    """Plots a run's loss by step, and by noise level if it was measured, as PNG.

    Args:
      path: path of the PNG.
      metrics_jsonl: lines with `step`, `loss` and, optionally, `loss/noise_LOW-HIGH`.

    Raises:
      InputError: the file does not exist, or has no loss.
    """
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lines = [(step, v) for step, v in read_metrics(metrics_jsonl) if "loss" in v]
    if not lines:
        raise InputError(f"{metrics_jsonl} has no loss yet: train for some steps first")
    steps, values = zip(*lines, strict=True)
    bins = sorted({name for v in values for name in v if name.startswith(NOISE_BIN)})

    figure = Figure(figsize=(10 if bins else 6, 4), dpi=150, layout="constrained")
    panels = figure.subplots(1, 2 if bins else 1, sharey=True, squeeze=False)[0]
    loss = _column(values, "loss")
    panels[0].plot(steps, loss, color="tab:blue", alpha=0.25, linewidth=0.8, label="as measured")
    panels[0].plot(steps, smooth(loss), color="tab:blue", linewidth=1.8, label="smoothed")
    _label(panels[0], "Training loss")
    if bins:
        # Dark to light as noise rises, without the yellow that is hard to see on white.
        colors = colormaps["viridis"](np.linspace(0, 0.85, len(bins)))
        for name, color in zip(bins, colors, strict=True):
            level = name.removeprefix(NOISE_BIN).replace("-", " to ")
            panels[1].plot(steps, smooth(_column(values, name)), color=color, label=level)
        _label(panels[1], "By noise level, smoothed")

    file = io.BytesIO()
    FigureCanvasAgg(figure).print_png(file)
    write_whole(path, file.getvalue())


def write_score_curves(path: str | PathLike, metrics_jsonl: str | PathLike) -> None:
    """Plots a run's scores by step as PNG, a panel for each, with 95 % intervals; none, no file.

    Args:
      path: path of the PNG.
      metrics_jsonl: lines with `step`, `evals/NAME` and, optionally, `evals/NAME_error` and
        `evals/NAME_floor`, the score of real clips.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lines = [(s, v) for s, v in read_metrics(metrics_jsonl) if any(n.startswith(EVALS) for n in v)]
    names = dict.fromkeys(name for _, values in lines for name in values)
    shown = [n for n in names if n.startswith(EVALS) and not n.endswith(("_error", "_floor"))]
    shown = [name for name in shown if not name.startswith(f"{EVALS}{NOISE_BIN}")]
    if not shown:
        return
    steps, values = zip(*lines, strict=True)
    rows, columns = -(-len(shown) // 3), min(3, len(shown))
    figure = Figure(figsize=(4 * columns, 2.8 * rows), dpi=150, layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True).ravel()
    for axes, name in zip(panels, shown, strict=False):
        score, error, floor = (_column(values, name + end) for end in ("", "_error", "_floor"))
        axes.errorbar(steps, score, yerr=1.96 * error, color="tab:blue", marker="o", capsize=2)
        axes.plot(steps, floor, color="tab:green", label="real clips")
        if np.isfinite(floor).any():
            axes.legend(frameon=False)
        axes.set(title=name.removeprefix(EVALS))
        axes.spines[["top", "right"]].set_visible(False)
    for axes in panels[len(shown) :]:
        axes.remove()
    figure.supxlabel("step", fontsize="medium")
    file = io.BytesIO()
    FigureCanvasAgg(figure).print_png(file)
    write_whole(path, file.getvalue())


def write_scores(path: str | PathLike, scores: Sequence[Any]) -> None:
    """Plots scores as PNG: a panel for each, with its 95 % interval and the score of real clips.

    A score of windows or frames is a curve.

    Args:
      path: path of the PNG.
      scores: `metrics.score.Score`s.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    heights = [2.5 if s.curve else 0.75 for s in scores]
    figure = Figure(figsize=(7, 0.9 + sum(heights)), dpi=150, layout="constrained")
    panels = figure.subplots(len(scores), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, s in zip(panels, scores, strict=True):
        if s.floor is not None:
            reach = 1.96 * s.floor_error
            span, line = (axes.axhspan, axes.axhline) if s.curve else (axes.axvspan, axes.axvline)
            span(s.floor - reach, s.floor + reach, color="tab:green", alpha=0.25, lw=0)
            line(s.floor, color="tab:green", label="real clips")
        style = dict(fmt="o", color="tab:blue", capsize=3, label="drawn clips")
        if s.curve:
            errors = 1.96 * np.array(s.curve_errors)
            axes.errorbar(range(1, 1 + len(s.curve)), s.curve, yerr=errors, **style)
            axes.set(ylabel=s.metric, xlabel="window or predicted frame")
            axes.xaxis.get_major_locator().set_params(integer=True)
        else:
            axes.errorbar(s.value, 0, xerr=1.96 * s.error, **style)
            axes.set(yticks=[0], yticklabels=[s.metric], ylim=(-1, 1))
            axes.tick_params("y", length=0)
            axes.spines["left"].set_visible(False)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].legend(frameon=False, ncols=2, loc="lower left", bbox_to_anchor=(0, 1))
    figure.supxlabel(f"{scores[0].protocol}; 95 % intervals", fontsize="medium")
    file = io.BytesIO()
    FigureCanvasAgg(figure).print_png(file)
    write_whole(path, file.getvalue())


def write_plan(path: str | PathLike, plan: Plan) -> None:
    """Draws a plan as PNG: calls from top to bottom, frames from left to right.

    A line separates calls that wait for those above it from calls that run side by side.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    colours = {"drawn": (31, 119, 180), "seen": OBSERVED, "there, but not seen": (205, 215, 225)}
    rounds = plan.rounds()
    calls = [call for together in rounds for call in together]
    width = max(plan.frames, *(max(call.draws, default=0) + 1 for call in calls))
    image, there = np.full((len(calls), width, 3), 255, np.uint8), [*plan.given]
    for row, call in zip(image, calls, strict=True):
        for frames, colour in zip((call.draws, call.sees, there), colours.values(), strict=True):
            row[[i for i in frames if (row[i] == 255).all()]] = colour
        there += call.draws
    height = min(12.0, max(2.0, 0.14 * len(calls)))
    figure = Figure(figsize=(10, 1 + height), dpi=120, layout="constrained")
    axes = figure.subplots()
    axes.imshow(image, aspect="auto", interpolation="nearest")
    if len(rounds) < len(calls):
        ends = np.cumsum([len(together) for together in rounds])[:-1]
        axes.hlines(ends - 0.5, -0.5, width - 0.5, color="black", lw=0.8)
    if width > plan.frames:
        axes.axvline(plan.frames - 0.5, color="black", ls=":")
    axes.set(xlabel="frame", ylabel="call")
    axes.legend(
        handles=[Patch(color=np.array(c) / 255, label=name) for name, c in colours.items()],
        loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False,
    )  # fmt: skip
    axes.set_title(str(plan), fontsize="medium", loc="left", pad=28)
    file = io.BytesIO()
    FigureCanvasAgg(figure).print_png(file)
    write_whole(path, file.getvalue())


def read_metrics(path: str | PathLike) -> Iterator[tuple[int, dict[str, float]]]:
    """The step and the values, finite or not, of each line of a metrics.jsonl.

    An incomplete line, which a killed run may leave, is skipped.

    Raises:
      InputError: the file does not exist.
    """
    try:
        lines = to_path(path, "file").read_bytes().decode(errors="replace").splitlines()
    except FileNotFoundError:
        raise InputError(f"{path} does not exist: is its folder a run's work directory?") from None
    for line in lines:
        try:
            values = json.loads(line)
        except json.JSONDecodeError:
            continue
        yield values.pop("step"), {name: float(v) for name, v in values.items()}


def _magnify(
    videos: UInt8[np.ndarray, "B T H W 3"], scale: int | None
) -> UInt8[np.ndarray, "B T h w 3"]:
    scale = scale or -(-LEGIBLE // min(videos.shape[2:4]))
    return videos.repeat(scale, axis=2).repeat(scale, axis=3)


def _line(text: str, width: int) -> UInt8[np.ndarray, "h w 3"]:
    """A line of text, cut off at the width."""
    image = Image.new("RGB", (width, TITLE + 4), (PAPER,) * 3)
    ImageDraw.Draw(image).text((2, 2), text, (0, 0, 0), ImageFont.load_default(TITLE))
    return np.asarray(image)


def _pad(
    images: UInt8[np.ndarray, "*n H W 3"], width: tuple[int, int], paper: int = PAPER
) -> UInt8[np.ndarray, "*n h w 3"]:
    around = [(0, 0)] * (images.ndim - 3) + [width, width, (0, 0)]
    return np.pad(images, around, constant_values=paper)


def _column(lines: Sequence[Mapping[str, float]], name: str) -> Float[np.ndarray, " S"]:
    return np.array([values.get(name, np.nan) for values in lines])


def smooth(values: Float[np.ndarray, " S"]) -> Float[np.ndarray, " S"]:
    """Gaussian smoothing of the finite values; the width is a hundredth of the curve."""
    width = len(values) / 100
    reach = min(int(3 * width), (len(values) - 1) // 2)
    window = np.exp(-0.5 * (np.arange(-reach, reach + 1) / width) ** 2)
    finite = np.isfinite(values)
    total = np.convolve(np.where(finite, values, 0.0), window, "same")
    weight = np.convolve(finite.astype(float), window, "same")
    return np.divide(total, weight, out=np.full_like(total, np.nan), where=weight > 0)


def _label(axes: Any, title: str) -> None:
    from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

    axes.set(title=title, xlabel="step", ylabel="loss", yscale="log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.grid(color="0.9", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.label_outer()
    axes.legend(frameon=False)
