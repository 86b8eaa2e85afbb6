"""Line charts as SVG for a page, whose colour text and axes take: they suit a light or dark one."""

import dataclasses
import io
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

COLOURS = ("#3b7dd8", "#d9772b", "#2f9e5b", "#b05bc4", "#d1495b", "#1f97a8", "#8c7a3d", "#7a7f8a")
POINTS = 400  # of a line at most; a screen shows no more
INK = "#010203"  # stands for the colour of the page's text


@dataclasses.dataclass(frozen=True)
class Line:
    """A line of a chart.

    Attributes:
      label: for the legend; "" is not in it.
      x, y: its points. Those that are not finite are gaps.
      errors: half the height of each point's error bar; None for none.
      colour: as "#rrggbb".
      style: "line", "faint" for noisy data behind a line, or "dashed".
    """

    label: str
    x: Float[np.ndarray, " N"]
    y: Float[np.ndarray, " N"]
    errors: Float[np.ndarray, " N"] | None = None
    colour: str = COLOURS[0]
    style: str = "line"


def chart(title: str, lines: Sequence[Line], *, log: bool = False, percent: bool = False) -> str:
    """An SVG element with a chart of lines by step.

    Args:
      title: what it shows; it also names the element for those who do not see it.
      lines: its lines, the first behind the others.
      log: whether the axis of values is logarithmic.
      percent: whether values are shares, 0 to 1, shown as percentages of 0 to 100.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.ticker import (
        LogLocator,
        MaxNLocator,
        NullLocator,
        PercentFormatter,
        StrMethodFormatter,
    )

    look = {"svg.fonttype": "none", "svg.hashsalt": title, "font.family": "sans-serif"}
    look |= dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor"), INK)
    look |= dict.fromkeys(("xtick.color", "ytick.color"), INK) | {"font.size": 9}
    with matplotlib.rc_context(look):
        figure = Figure(figsize=(4.2, 2.7), layout="constrained")
        figure.patch.set_visible(False)
        axes = figure.subplots()
        axes.patch.set_visible(False)
        for line in lines:
            x, y = (_thin(values) for values in (line.x, line.y))
            if line.errors is None:
                alpha, width = (0.3, 0.8) if line.style == "faint" else (1, 1.6)
                marker = "o" if len(x) == 1 else None
                style = dict(ls="--" if line.style == "dashed" else "-", marker=marker, alpha=alpha)
                axes.plot(x, y, color=line.colour, lw=width, label=line.label, **style)
            else:
                style = dict(marker="o", ms=4, capsize=2, lw=1.4, label=line.label)
                axes.errorbar(line.x, line.y, yerr=line.errors, color=line.colour, **style)
        if log:
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_minor_locator(NullLocator())
            axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        if percent:
            axes.set_ylim(0, 1)
            axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color=INK, alpha=0.12, lw=0.6)
        axes.set_xlabel("step")
        if any(line.label for line in lines):
            axes.legend(frameon=False, fontsize=8)
        file = io.StringIO()
        FigureCanvasSVG(figure).print_svg(file, metadata={"Date": None})
    text = file.getvalue()
    head, body = text[text.index("<svg") :].split(">", 1)
    box = head[head.index("viewBox") :].split('"')[1]
    name = title.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    head = f'<svg viewBox="{box}" role="img" aria-label="{name}" xmlns:xlink='
    return f'{head}"http://www.w3.org/1999/xlink">{body}'.replace(INK, "currentColor")


def _thin(values: Float[np.ndarray, " N"]) -> Float[np.ndarray, " n"]:
    """At most `POINTS` means of neighbours."""
    size = -(-len(values) // POINTS)
    if size < 2:
        return values
    padded = np.pad(values, (0, -len(values) % size), constant_values=np.nan).reshape(-1, size)
    counts = np.isfinite(padded).sum(1)
    sums = np.where(np.isfinite(padded), padded, 0).sum(1)
    return np.divide(sums, counts, out=np.full(len(padded), np.nan), where=counts > 0)
