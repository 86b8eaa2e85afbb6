"""The log of a run: progress, metrics.jsonl and TensorBoard events."""

import contextlib
import json
import math
import os
import socket
import sys
import time
from collections.abc import Mapping
from typing import Any, SupportsFloat

import numpy as np
from jaxtyping import UInt8
from tqdm import tqdm

from jaxvid.config import NATURAL, POSITIVE, declare, key
from jaxvid.files import Path, to_path
from jaxvid.workdir.disk import Growing, make_folder, writing
from jaxvid.workdir.pictures import gif, read_metrics, tile
from jaxvid.workdir.wandb_writer import WandbWriter

declare(
    "log",
    every=key(50, POSITIVE, "steps between lines of metrics", free=True),
    sample_every=key(
        0, NATURAL, "steps between samples; 0 draws samples only at the end", free=True
    ),
)

SECONDS_PER_LINE = 10.0  # between progress lines without a terminal
SECONDS_PER_UPLOAD = 60.0  # to a bucket


class Log(contextlib.AbstractContextManager):
    """The log of a run, from step `start_step` on.

    `workdir/metrics.jsonl` gets one JSON object per line, and `workdir/tensorboard` an event file.
    Entries of an interrupted run after `start_step` are dropped from both, because the run repeats
    those steps. Text goes to standard output: a bar on a terminal, plain lines elsewhere.

    Args:
      workdir: made if it does not exist.
      total_steps: the step at which the run ends.
      start_step: number of steps already taken.
      known: values that replace those of the line of `start_step`, if there is one.
      write: whether this process logs; with several processes, only the first should.
      also: another writer that gets metrics and videos, or None.

    Raises:
      InputError: from any method, if a file cannot be written, for example to a full disk.
    """

    def __init__(
        self,
        workdir: str | os.PathLike,
        total_steps: int,
        start_step: int = 0,
        known: Mapping[str, SupportsFloat] = {},
        *,
        write: bool = True,
        also: WandbWriter | None = None,
    ) -> None:
        self._write, self._also = write, also
        if not write:
            return
        self._total_steps = total_steps
        self._first: tuple[int, float] | None = None
        self._next_line = -math.inf
        self._next_upload = -math.inf
        self._workdir = to_path(workdir, "--workdir")
        with writing(self._workdir):
            self._events = _open_events(self._workdir / "tensorboard", start_step)
            self._metrics = _open_metrics(self._workdir / "metrics.jsonl", start_step, known)
        self._bar = tqdm(
            total=total_steps,
            initial=start_step,
            file=sys.stdout,
            disable=not sys.stdout.isatty(),
            bar_format="{percentage:3.0f}%|{bar}| {desc}",
            dynamic_ncols=True,
        )

    def __exit__(self, kind: type | None, *_: object) -> None:
        if not self._write:
            return
        self._bar.close()
        # On a full disk, closing fails again; keep the error that ended the run.
        with (
            contextlib.suppress(Exception) if kind else writing(self._workdir),
            contextlib.closing(self._events),
            contextlib.closing(self._metrics),
        ):
            pass

    def progress(self, step: int, loss: float, clips_per_s: float, data_wait: float) -> None:
        """Shows progress. Plain lines are printed at most every ten seconds, and at the end.

        Args:
          step: number of steps taken.
          loss: newest loss.
          clips_per_s: clips per second over all devices.
          data_wait: share of the time spent waiting for data, 0 to 1.
        """
        if not self._write:
            return
        now = time.monotonic()
        text = f"step {step}/{self._total_steps}  loss {loss:#.4g}  {clips_per_s:.1f} clips/s"
        text += f"  data wait {data_wait:.0%}"
        # The first step compiles, so it would distort the estimate of the time left.
        first_step, first_time = self._first = self._first or (step, now)
        if step > first_step:
            left = (now - first_time) / (step - first_step) * (self._total_steps - step)
            text += f"  eta {tqdm.format_interval(left)}"
        if not self._bar.disable:
            self._bar.set_description_str(text, refresh=False)
            self._bar.update(step - self._bar.n)
        elif now >= self._next_line or step >= self._total_steps:
            self._next_line = now + SECONDS_PER_LINE
            self.say(text)

    def say(self, text: str) -> None:
        """Prints a line, above the progress bar if there is one."""
        if self._write:
            tqdm.write(text, file=sys.stdout)
            sys.stdout.flush()

    def metrics(self, step: int, values: Mapping[str, SupportsFloat]) -> None:
        """Records metrics. metrics.jsonl has "nan", "inf" or "-inf" for non-finite values."""
        if not self._write:
            return
        scalars = [{"tag": name, "simple_value": float(v)} for name, v in values.items()]
        with writing(self._workdir / "metrics.jsonl"):
            self._metrics.write(_line(step, values))
        with writing(self._workdir / "tensorboard"):
            _write_event(self._events, step, summary={"value": scalars})
        if self._also:
            self._also.metrics(step, values)
        if time.monotonic() >= self._next_upload:
            self.sync()

    def sync(self) -> None:
        """Returns when a bucket has all that was logged, which a crash cannot lose then."""
        if not self._write:
            return
        with writing(self._workdir):
            self._metrics.sync()
            self._events.sync()
        self._next_upload = time.monotonic() + SECONDS_PER_UPLOAD

    def videos(
        self, step: int, name: str, videos: UInt8[np.ndarray, "B T H W 3"], fps: int | float
    ) -> None:
        """Adds clips to TensorBoard's images, side by side in one animation."""
        if not self._write:
            return
        video = tile(videos)
        animation = gif(video, fps)
        image = {
            "height": video.shape[1],
            "width": video.shape[2],
            "colorspace": 3,  # RGB
            "encoded_image_string": animation,
        }
        with writing(self._workdir / "tensorboard"):
            _write_event(self._events, step, summary={"value": [{"tag": name, "image": image}]})
        if self._also:
            self._also.animation(step, name, animation)


def _open_metrics(path: Path, start_step: int, known: Mapping[str, SupportsFloat]) -> Growing:
    lines = list(read_metrics(path)) if path.exists() else []
    kept = [line for line in lines if line[0] < start_step]
    # The first line of a step precedes its checkpoint; the scores after it are repeated.
    kept += [(step, values | known) for step, values in lines if step == start_step][:1]
    return Growing(path, b"".join(_line(*line) for line in kept))


def _line(step: int, values: Mapping[str, SupportsFloat]) -> bytes:
    """One line of JSON. JSON has no infinities and no NaN: these become strings."""
    numbers = {name: float(v) for name, v in values.items()}
    exact = {name: v if math.isfinite(v) else str(v) for name, v in numbers.items()}
    return json.dumps({"step": step, **exact}).encode() + b"\n"


def _open_events(folder: Path, start_step: int) -> Growing:
    from tensorboard.compat.proto.event_pb2 import SessionLog

    make_folder(folder)
    # TensorBoard reads the files of a folder in order of name.
    name = f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}"
    events = Growing(folder / name)
    _write_event(events, 0, file_version="brain.Event:2")
    # SessionLog.START makes TensorBoard drop the events of earlier files from that step on.
    _write_event(events, start_step + 1, session_log={"status": SessionLog.START})
    return events


def _write_event(events: Growing, step: int, **content: Any) -> None:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.summary.writer.record_writer import RecordWriter

    event = Event(wall_time=time.time(), step=step, **content)
    # TensorBoard's EventFileWriter would import TensorFlow if it is installed.
    RecordWriter(events).write(event.SerializeToString())
