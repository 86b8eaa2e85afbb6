"""A folder of drawn clips: `000.mp4`, `001.mp4`, …, and `sheet.png`, a row per clip.

The folder is replaced as a whole, so that it never mixes the clips of two draws. In a bucket, which
cannot do that, the old files go first and the sheet comes last.
"""

import contextlib
import errno
import os
import pathlib
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Bool, UInt8

from jaxvid.data.video import VideoWriter
from jaxvid.errors import InputError
from jaxvid.files import Path, is_local, store_of
from jaxvid.hierarchy.plan import Plan
from jaxvid.workdir.disk import make_folder, writing
from jaxvid.workdir.pictures import contact_sheet, write_plan, write_png

SHOWN = 256  # most frames of a clip in the sheet
VISIBLE = 256  # pixels: smaller clips are magnified by a whole number, to at most this size
OURS = re.compile(r"\d{3,}\.mp4|(sheet|plan)\.png|\.DS_Store")


class Samples:
    """Writes clips part by part; made by `write_samples`."""

    def __init__(self, folder: Path, fps: int | float, files: contextlib.ExitStack):
        self._folder, self._fps, self._files = folder, fps, files
        self._newest: UInt8[np.ndarray, "B T H W 3"] | None = None
        self._clips: list[VideoWriter] = []
        self._shown: list[UInt8[np.ndarray, "B H W 3"]] = []
        self._count, self._every = 0, 1

    def add(self, frames: UInt8[np.ndarray, "B T H W 3"]) -> None:
        """Appends the next frames of every clip. Raises InputError if they cannot be written."""
        if self._newest is not None:
            self._write(self._newest)
        self._newest = frames
        for frame in frames.swapaxes(0, 1):
            if self._count % self._every == 0:
                self._shown.append(frame.copy())
            self._count += 1
            if len(self._shown) > SHOWN:
                self._shown, self._every = self._shown[::2], 2 * self._every

    def _write(self, frames: UInt8[np.ndarray, "B T H W 3"]) -> None:
        with writing(self._folder):
            for i in range(len(self._clips), len(frames)):
                self._clips.append(self._files.enter_context(self._writer(i, frames)))
            for clip, new in zip(self._clips, frames, strict=True):
                clip.write(new)

    def _writer(self, i: int, frames: UInt8[np.ndarray, "B T H W 3"]) -> VideoWriter:
        path = self._folder / f"{i:03d}.mp4"
        return VideoWriter(path, self._fps, max(1, VISIBLE // frames.shape[2]))

    def finish(self, observed: Bool[np.ndarray, " T"], titles: Sequence[str]) -> None:
        """Completes the clips and writes the sheet, which marks `observed` frames."""
        with writing(self._folder):
            if self._clips:
                self._write(self._newest)
                self._files.close()
            else:  # there was one part; an encoder takes 25 MB, so use one at a time
                for i, video in enumerate(self._newest):
                    with self._writer(i, self._newest) as clip:
                        clip.write(video)
        border = np.zeros(self._count, bool)
        border[: len(observed)] = observed[: self._count]
        shown = np.stack(self._shown, axis=1)
        sheet = contact_sheet(shown, observed=border[:: self._every], titles=titles[: len(shown)])
        write_png(self._folder / "sheet.png", sheet)


@contextlib.contextmanager
def write_samples(
    folder: Path,
    fps: int | float,
    observed: Bool[np.ndarray, " T"] | None = None,
    titles: Sequence[str] = (),
    plan: Plan | None = None,
) -> Iterator[Samples]:
    """Replaces the content of `folder` when the `with` block ends without an error.

    Args:
      folder: made if needed.
      fps: frames per second.
      observed: frames that were observed, which get a border in the sheet; later frames were drawn.
      titles: a line of text for each clip in the sheet.
      plan: of long videos, which is drawn as "plan.png".

    Yields:
      A `Samples`, whose `add` takes the frames.

    Raises:
      InputError: at once, if `folder` has other files than samples; later, if it cannot be written.
    """
    with _replacing(folder) as partial, contextlib.ExitStack() as files:
        samples = Samples(partial, fps, files)
        if plan:
            write_plan(partial / "plan.png", plan)
        yield samples
        samples.finish(np.zeros(0, bool) if observed is None else observed, titles)


@contextlib.contextmanager
def _replacing(folder: Path) -> Iterator[Path]:
    """Yields a new folder, which replaces `folder` when the block ends without an error."""
    if not is_local(folder):
        make_folder(folder)
        _check_ours(folder)
        with tempfile.TemporaryDirectory() as partial:
            yield pathlib.Path(partial)
            with writing(folder):
                _upload(pathlib.Path(partial), folder)
        return
    folder = folder.resolve()
    partial = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.partial")
    with writing(folder):
        _check_ours(folder)
        partial.mkdir(parents=True)
    try:
        yield partial
        with writing(folder):
            _swap(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _upload(new: pathlib.Path, folder: Path) -> None:
    """Replaces the files of `folder` in a bucket by those of `new`."""
    _check_ours(folder)
    for path in folder.iterdir() if folder.exists() else ():
        path.unlink()
    for path in sorted(new.iterdir()):
        store_of(folder).put_file(str(path), str(folder / path.name))


def _swap(new: Path, folder: Path) -> None:
    """Replaces `folder` by `new`; of several processes that do so at once, the last one wins."""
    asides = []
    while True:
        try:
            os.rename(new, folder)
            break
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        _check_ours(folder)
        aside = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.old")
        with contextlib.suppress(FileNotFoundError):  # another process was faster
            os.rename(folder, aside)
            asides.append(aside)
    for aside in asides:
        shutil.rmtree(aside, ignore_errors=True)


def _check_ours(folder: Path) -> None:
    if not folder.exists():
        return
    names = sorted(path.name for path in folder.iterdir())
    others = [name for name in names if not OURS.fullmatch(name)]
    if others:
        raise InputError(
            f"{folder} has other files than samples ({', '.join(others[:4])}), which would be "
            "deleted: give a new folder"
        )
