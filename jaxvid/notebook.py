"""For notebooks: commands with a live curve, and videos that play in the page.

from jaxvid import notebook

notebook.command("train", "--config=configs/base.py", "--workdir=runs/base")
notebook.play(model.draw(8), fps=8)
"""

import functools
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any

import numpy as np
from jaxtyping import UInt8

from jaxvid.data.video import write_video
from jaxvid.errors import InputError
from jaxvid.workdir.charts import Line, chart
from jaxvid.workdir.pictures import contact_sheet, read_metrics, smooth, tile, write_png

SECONDS = 2.0  # between looks at a run


@functools.cache
def platform() -> str:
    """The platform of this machine's devices, "cpu", "gpu" or "tpu".

    Another process looks, because a TPU belongs to the first process that does, and that should be
    a command. Run commands before what draws in the notebook itself.
    """
    look = "import jax; print(jax.default_backend())"
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    return done.stdout.split()[-1]


def play(videos: UInt8[np.ndarray, "B T H W 3"], fps: float, width: int = 640) -> None:
    """Shows clips side by side in one video that repeats; `width` is in pixels of the page."""
    from IPython.display import Video, display

    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "clips.mp4")
        write_video(path, tile(videos), fps)
        attributes = "controls autoplay loop muted playsinline"
        display(Video(path, embed=True, width=width, html_attributes=attributes))


def sheet(videos: UInt8[np.ndarray, "B T H W 3"], **style: Any) -> None:
    """Shows clips as a picture, a row each; `style` is that of `pictures.contact_sheet`."""
    from IPython.display import Image, display

    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "sheet.png")
        write_png(path, contact_sheet(videos, **style))
        display(Image(path.read_bytes()))


def command(module: str, *arguments: str) -> None:
    """Runs `python -m jaxvid.MODULE ARGUMENT…` and shows what it says, as it says it.

    Under `train` with a --workdir, its loss is drawn too. Interrupting the cell interrupts the
    command.

    Raises InputError if it fails.
    """
    from IPython.display import SVG, display

    words = [sys.executable, "-u", "-m", f"jaxvid.{module}", *arguments]
    places = [word.partition("=")[2] for word in arguments if word.startswith("--workdir=")]
    curves = pathlib.Path(places[-1], "metrics.jsonl") if module == "train" and places else None
    picture, text = None, display({"text/plain": ""}, raw=True, display_id=True)
    with tempfile.TemporaryFile() as said:

        def show() -> None:
            nonlocal picture
            size = os.fstat(said.fileno()).st_size
            output = os.pread(said.fileno(), size, 0).decode(errors="replace").rstrip()
            text.update({"text/plain": output}, raw=True)
            svg = _loss(curves) if curves and curves.exists() else ""
            if svg and picture:
                picture.update(SVG(svg))
            elif svg:
                picture = display(SVG(svg), display_id=True)

        process = subprocess.Popen(words, stdout=said, stderr=subprocess.STDOUT)
        try:
            while process.poll() is None:
                time.sleep(SECONDS)
                show()
        except KeyboardInterrupt:
            process.send_signal(signal.SIGINT)
            raise
        finally:
            process.wait()
            show()
    if process.returncode:
        raise InputError(f"jaxvid.{module} ended with exit code {process.returncode}")


def _loss(curves: pathlib.Path) -> str:
    """A chart of the loss so far; "" for none."""
    points = [(step, values["loss"]) for step, values in read_metrics(curves) if "loss" in values]
    if len(points) < 2:
        return ""
    x, y = np.array(points, float).T
    lines = [Line("", x, y, style="faint"), Line("", x, smooth(y))]
    svg = chart("Loss", lines, log=True)
    return svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" width="420" ', 1)
