"""A plugin for drills: numbered clips, of which some are bad, and a fault in one process of a run.

    FAULT=2,5,kill SEEN=/tmp/seen python -m jaxvid.train --plugins=benchmarks.faults \
        --config=tests/tiny.py --config.data.source=numbered --config.conditions.label.classes=1000

The clip of a number has it as its label. With SEEN, each process appends the numbers of the clips
of each of its batches to SEEN/INDEX, and the files that it opens to write to SEEN/INDEX.files. With
FAULT, process 2 is killed before its fifth batch; the other faults are below. With BAD=10 every
tenth record is bad.
"""

import os
import resource
import signal
import sys
import time
from pathlib import Path

import jax
import numpy as np

from jaxvid.build import Run
from jaxvid.data.clips import Clip, longest
from jaxvid.data.sources import source
from jaxvid.errors import InputError

COUNT = 1000

_put, _batches = Run.put, 0
opened: list[str] = []


class Numbered:
    """Grey clips, each as bright as its number says."""

    labels = tuple(map(str, range(COUNT)))
    fingerprint = "numbered"

    def __init__(self, config, split):
        self.config, self.length = config, COUNT if split == "train" else 0
        self.every = int(os.environ.get("BAD", COUNT + 1))

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        if index % self.every == self.every - 1:
            raise InputError(f"record {index} is bad")
        c = self.config
        time = np.arange(longest(c), dtype=np.float32) / c.fps

        def decode(frames):
            return np.full((len(frames), c.size, c.size, 3), index * 255 // COUNT, np.uint8)

        return Clip(time, decode, label=index)


@source("numbered")
def make_numbered(config, split):
    """The "train" split; there is no other."""
    return Numbered(config, split)


def put(run, batch):
    """`Run.put`, after what SEEN and FAULT ask for."""
    global _batches
    _batches += 1
    process = jax.process_index()
    if "SEEN" in os.environ:
        seen = Path(os.environ["SEEN"]) / str(process)
        with seen.open("a") as file:
            print(*batch["given"]["label"].tolist(), file=file)
        seen.with_suffix(".files").write_text("\n".join(opened))
    who, when, what = os.environ.get("FAULT", ",,").split(",")
    if (str(process), str(_batches)) == (who, when):
        FAULTS[what]()
    return _put(run, batch)


def note(event, arguments):
    """Notes the files that Python opens to write."""
    if (
        event == "open"
        and isinstance(arguments[0], str)
        and arguments[2] & (os.O_WRONLY | os.O_RDWR)
    ):
        opened.append(arguments[0])


def _raise(error):
    raise error


def _signal(*numbers):
    for number in numbers:
        os.kill(os.getpid(), number)
    time.sleep(0.1)  # until a thread has taken it


FAULTS = {
    "kill": lambda: _signal(signal.SIGKILL),
    "preempt": lambda: _signal(signal.SIGTERM),
    "preempt twice": lambda: _signal(signal.SIGTERM, signal.SIGTERM),
    "hang": lambda: _signal(signal.SIGSTOP),
    "interrupt": lambda: _signal(signal.SIGINT),
    "bug": lambda: _raise(KeyError("clip")),
    "unreadable": lambda: _raise(InputError("clips-0003.array_record is damaged")),
    "disk": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)),  # is full from now on
}

Run.put = put
sys.addaudithook(note)
