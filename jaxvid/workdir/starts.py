"""What a run ran on: a line of `starts.jsonl` for each start."""

import importlib.metadata
import json
import os
import platform
import time
from typing import Any

import jax

from jaxvid.files import Path
from jaxvid.workdir.disk import write_whole, writing

PACKAGES = "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy"


def describe(step: int) -> dict[str, Any]:
    """This start of a run, at a step: when, the machine, its devices, and the versions."""
    return {
        "step": step,
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "processes": jax.process_count(),
        "host": f"{_processor()}, {os.cpu_count()} cores, {platform.system()}",
        "versions": {"jaxvid": _version("jaxvid"), "python": platform.python_version()}
        | {name: _version(name) for name in PACKAGES},
    }


def add(workdir: Path, step: int) -> None:
    """Adds this start to those of a run; raises InputError if the file cannot be written."""
    lines = [*read(workdir), describe(step)]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    write_whole(workdir / "starts.jsonl", text.encode())


def read(workdir: Path) -> list[dict[str, Any]]:
    """All starts of a run; none if it is from before they were written down."""
    path = workdir / "starts.jsonl"
    with writing(path):
        return list(map(json.loads, path.read_text().splitlines())) if path.exists() else []


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model na")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "of a clone" if name == "jaxvid" else "not installed"
