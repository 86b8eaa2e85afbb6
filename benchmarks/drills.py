"""Rehearse what can happen to the hosts of a run, with processes on this machine.

    python -m benchmarks.drills [--only=kill,preempt]

Run it from the repository's root. Each drill starts several real processes of `jaxvid.train`, lets
something happen to one of them (`benchmarks.faults`), and resumes. Progress goes to stderr, a
Markdown table to stdout.
"""

import importlib.metadata
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from absl import app, flags

CONFIG = (
    "--config=tests/tiny.py",
    "--plugins=benchmarks.faults",
    "--config.data.source=numbered",
    "--config.conditions.label.classes=1000",
    "--config.model.blocks=time",
    "--config.tasks.generate=0",
    "--config.tasks.predict=0",
    "--config.log.every=1",
)
STOPPED = 143  # exit code after a signal and a save
XLA = "--xla_force_host_platform_device_count={} --xla_backend_optimization_level=0"
if importlib.metadata.version("jaxlib").startswith("0.10."):
    XLA += " --xla_cpu_use_fusion_emitters=false"
LIMIT = 300  # seconds that a run may take


class Ended(NamedTuple):
    """How the processes of a run ended.

    Attributes:
      codes: their exit codes; -9 is SIGKILL.
      said: what each printed.
      seconds: from the end of the first to that of the last.
    """

    codes: list[int | None]
    said: list[str]
    seconds: float

    @property
    def why(self) -> list[str]:
        """Why each ended, as its last line tells; "" if it does not."""
        found = (re.findall(r"^(?:error: |stopped|\w*Error: ).*", t, re.M) for t in self.said)
        return [(lines or [""])[-1] for lines in found]

    @property
    def began(self) -> int:
        """The step at which they began."""
        return int(re.search(r"(?:starting|resuming) at step (\d+)", self.said[0])[1])


class Processes:
    """The processes of a run, each with a log in a temporary file.

    What process 0 writes anyone may read, and what the others write only they: so the mode of a
    file tells who wrote it.
    """

    def __init__(
        self,
        count: int,
        *arguments: str,
        module: str = "jaxvid.train",
        devices: int = 1,
        **environment: str,
    ):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        settings = {
            "JAX_PLATFORMS": "cpu",
            "JAXVID_HUGE_PAGES": "0",
            "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
            "XLA_FLAGS": XLA.format(devices),
        }
        self._logs = [tempfile.TemporaryFile() for _ in range(count)]  # noqa: SIM115
        self.each = [
            subprocess.Popen(
                [sys.executable, "-m", module, *arguments]
                + [f"--distributed={address},{count},{i}"] * (count > 1),
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | settings | environment,
                umask=0o077 if i else 0o022,
                cwd=Path(__file__).parents[1],
            )
            for i, log in enumerate(self._logs)
        ]

    def wait(self, limit: float = LIMIT) -> Ended:
        """Waits for all to end. Those that have not after `limit` seconds have the code None."""
        ends, times = time.monotonic() + limit, {}
        while len(times) < len(self.each) and time.monotonic() < ends:
            time.sleep(0.01)
            for i, process in enumerate(self.each):
                if process.poll() is not None:
                    times.setdefault(i, time.monotonic())
        codes, said = [process.poll() for process in self.each], []
        for process, log in zip(self.each, self._logs, strict=True):
            process.kill()
            process.wait()
            log.seek(0)
            said.append(log.read().decode(errors="replace"))
            log.close()
        return Ended(codes, said, max(times.values(), default=0) - min(times.values(), default=0))


def train(count: int, workdir: Path, *arguments: str, **environment: str) -> Processes:
    """Starts to train in `count` processes."""
    return Processes(count, *CONFIG, f"--workdir={workdir}", *arguments, **environment)


def checkpoints(workdir: Path) -> list[int]:
    """The steps of the complete checkpoints."""
    names = [path.name for path in (workdir / "checkpoints").glob("*")]
    return sorted(int(name) for name in names if name.isdigit())


def losses(workdir: Path) -> dict[int, float]:
    """The loss of each step."""
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return {line["step"]: line["loss"] for line in lines}


def clips(seen: Path, begin: int, processes: Sequence[int]) -> dict[int, list[int]]:
    """The numbers of the clips of each step of a run, of which the processes have a part each."""
    parts = [(seen / str(i)).read_text().splitlines() for i in processes]
    rows = (" ".join(row).split() for row in zip(*parts, strict=False))
    return {begin + i: [*map(int, row)] for i, row in enumerate(rows)}


def written(workdir: Path) -> dict[Path, bool]:
    """The files of a work directory, and whether process 0 wrote each; see `Processes`."""
    found = (path for path in workdir.rglob("*") if path.is_file())
    return {path.relative_to(workdir): bool(path.stat().st_mode & 0o044) for path in found}


def largest_difference(a: Mapping[int, float], b: Mapping[int, float]) -> float:
    """The largest relative difference of losses of the same steps; infinite for other steps."""
    if list(a) != list(b):
        return float("inf")
    first, second = (np.array(list(losses.values())) for losses in (a, b))
    return float(np.max(np.abs(first - second) / np.abs(first)))


def row(name: str, ended: Ended, resumed: str, difference: float) -> str:
    """A line of the table."""
    said = "<br>".join(f"`{line.replace('`', '')}`" for line in dict.fromkeys(ended.why) if line)
    codes = ", ".join(map(str, ended.codes))
    return f"| {name} | {said} | {ended.seconds:.1f} | {codes} | {resumed} | {difference:.0e} |"


def drill(name: str, count: int, fault: str, folder: Path, whole: Path) -> str:
    """Lets `fault` happen in one process, resumes, and compares with a run to which nothing did."""
    workdir = folder / fault.replace(",", "-")
    setting = "--config.steps=12", "--config.checkpoint.every=2"
    ended = train(count, workdir, *setting, FAULT=fault).wait()
    newest = max(checkpoints(workdir), default=0)
    again = train(count, workdir, *setting).wait()
    if (again.began, again.codes) != (newest, [0] * count):
        sys.exit(f"{name}: of {newest}, it resumed at {again.began}: {again.said}")
    difference = largest_difference(losses(whole), losses(workdir))
    return row(name, ended, f"{again.began} of 12", difference)


def kills(folder: Path, number: int = 10, count: int = 2) -> str:
    """Kills a process at random moments of saves, and resumes each time."""
    rng, workdir, whole = random.Random(0), folder / "kills", folder / "kills-whole"
    setting = ("--config.steps=300",)
    begun, in_flight, slowest = [], 0, 0.0
    for _ in range(number):
        before = max(checkpoints(workdir), default=0)
        run = train(count, workdir, *setting, "--config.checkpoint.every=1")
        while max(checkpoints(workdir), default=0) <= before and run.each[0].poll() is None:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.5))
        run.each[rng.randrange(count)].send_signal(signal.SIGKILL)
        in_flight += any((workdir / "checkpoints").glob("*tmp*"))
        ended = run.wait()
        if ended.began != before or 0 in ended.codes:
            sys.exit(f"of {before}, it resumed at {ended.began}: {ended.codes} {ended.said}")
        begun.append(before)
        slowest = max(slowest, ended.seconds)
    for target in (workdir, whole):
        again = train(count, target, *setting, "--config.checkpoint.every=100").wait()
        if again.codes != [0] * count:
            sys.exit(f"{again.said}")
        begun.append(again.began)
    ended = ended._replace(seconds=slowest)
    difference = largest_difference(losses(whole), losses(workdir))
    name = f"{number} kills of one of {count}, {in_flight} with a save in flight"
    return row(name, ended, f"{', '.join(map(str, begun[1:-1]))} of 300", difference)


def resume(folder: Path, whole: Path) -> str:
    """Goes on with other numbers of processes and devices, and another mesh."""
    workdir, clips_seen = folder / "resume", {}
    stages = (
        (4, 1, "3,4,preempt", "--config.mesh.data=-1"),
        (1, 2, "0,3,preempt", "--config.mesh.tensor=2"),
        (2, 2, ",,", "--config.mesh.fsdp=-1 --config.mesh.data=2"),
    )
    began, whys = [], []
    for i, (count, devices, fault, mesh) in enumerate(stages):
        seen = folder / f"seen-{i}"
        seen.mkdir()
        ended = Processes(
            count, *CONFIG, f"--workdir={workdir}", "--config.steps=12", *mesh.split(),
            devices=devices, SEEN=str(seen), FAULT=fault,
        ).wait()  # fmt: skip
        if ended.codes != [STOPPED if "preempt" in fault else 0] * count:
            sys.exit(f"{ended.said}")
        began.append(ended.began)
        clips_seen |= clips(seen, ended.began, range(count))
        whys += ended.why[:1]
    if clips_seen != clips(folder / "seen", 0, [0]):
        sys.exit("other clips, or in another order")
    difference = largest_difference(losses(whole), losses(workdir))
    name = "preempt, resume: 4 processes, then 1 with 2 devices (tensor), then 2 with 4 (fsdp)"
    ended = ended._replace(said=whys)
    return row(name, ended, f"{began[1]}, {began[2]} of 12; same clips in order", difference)


FAULTS = {
    "kill": ("kill process 2 of 4", "2,6,kill"),
    "kill_first": ("kill process 0 of 4", "0,6,kill"),
    "bug": ("an exception in process 2 of 4", "2,6,bug"),
    "unreadable": ("a batch that process 3 of 4 cannot read", "3,6,unreadable"),
    "disk": ("a full disk on process 1 of 4", "1,6,disk"),
    "preempt": ("SIGTERM to process 3 of 4", "3,6,preempt"),
    "interrupt": ("Ctrl-C in process 1 of 4", "1,6,interrupt"),
}
ONLY = flags.DEFINE_list("only", [*FAULTS, "resume", "kills"], "The drills.")


def main(_: Sequence[str]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        whole, seen = folder / "whole", folder / "seen"
        seen.mkdir()
        train(1, whole, "--config.steps=12", SEEN=str(seen)).wait()
        drills: dict[str, Callable[[], str]] = {
            key: lambda name=name, fault=fault: drill(name, 4, fault, folder, whole)
            for key, (name, fault) in FAULTS.items()
        }
        drills |= {"resume": lambda: resume(folder, whole), "kills": lambda: kills(folder)}
        rows = []
        for key in ONLY.value:
            rows.append(drills[key]())
            print(rows[-1], file=sys.stderr)
    print("| drill | why they ended | s | exit codes | resumed at | largest difference of a loss |")
    print("|---|---|---|---|---|---|")
    print("\n".join(rows))


if __name__ == "__main__":
    app.run(main)
