"""Compile for pods: the models of `configs/pods.py`, and one model for ever more chips.

    python -m benchmarks.pods [--only=latte,wide,two_slices,joint] [--growth]

Run it from the repository's root; it needs TPU's compiler, `pip install "jax[tpu]"`. Every
compilation is a process of its own, `jaxvid.aot`, which takes minutes. Markdown tables go to
stdout. With `--growth` a model of one repeat of width 1024 gets four clips for each of 16, 64 and
256 chips.
"""

import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import app, flags

from jaxvid.parallel.chips import GiB

PODS = {
    "latte": ["--topology=v5e:4x4"],
    "wide": ["--topology=v5p:4x4x8"],
    "two_slices": ["--topology=v6e:16x16", "--slices=2"],
    "joint": ["--topology=v5p:4x4x8"],
}
SHAPES = {16: "2x2x4", 64: "4x4x4", 256: "4x8x8"}
MESHES = (
    {"data": 16}, {"data": 64}, {"data": 256}, {"fsdp": 16}, {"fsdp": 64}, {"fsdp": 256},
    {"data": 4, "fsdp": 64},
)  # fmt: skip
ONLY = flags.DEFINE_list("only", list(PODS), "Configs of configs/pods.py.")
GROWTH = flags.DEFINE_bool("growth", False, "Also one model on ever more chips.")


def compiled(*arguments: str) -> dict[str, Any]:
    """What `jaxvid.aot` finds."""
    print(" ".join(arguments), file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "found.json")
        words = [sys.executable, "-m", "jaxvid.aot", *arguments, "--tries=1", f"--json={output}"]
        subprocess.run(words, check=True, stdout=sys.stderr)
        return json.loads(output.read_text())


def sent(found: dict[str, Any]) -> str:
    """What a chip sends, by kind of collective, network and axes of the mesh."""
    return "<br>".join(
        f"{c['kind']} over `{c['axes']}` ({c['network']}): {c['bytes'] / 1e9:.3g} GB, "
        f"{c['times']} times"
        for c in found["collectives"]
        if c["bytes"] > 1e6
    )


def main(_: Sequence[str]) -> None:
    memory = "parameters", "averages", "optimizer", "activations"
    titles = "pod", "mesh", "clips", *memory, "all, GiB of a chip", "least time of a step"
    titles += "MFU at most", "a chip sends", "compile s"
    print(f"| config | {' | '.join(titles)} |\n|---{'|---' * len(titles)}|")
    for name in ONLY.value:
        found = compiled(f"--config=configs/pods.py:{name}", *PODS[name])
        mesh = " ".join(f"{axis}={size}" for axis, size in found["mesh"].items())
        cells = [" ".join(PODS[name]).replace("--", ""), mesh, str(found["clips"])]
        cells += [f"{found['memory'].get(kind, 0) / GiB:.2f}" for kind in memory]
        cells += [f"{found['needs'] / GiB:.2f} of {found['limit'] / GiB:.2f}"]
        cells += [f"{1e3 * found['least_s']:.0f} ms, {found['bound']}"] if found["fits"] else ["-"]
        cells += [f"{found['mfu']:.3f}", sent(found), f"{found['compile_s']:.0f}"]
        print(f"| `{name}` | {' | '.join(cells)} |", flush=True)
    if not GROWTH.value:
        return
    print("\n| mesh | clips | least time of a step | a chip sends | compile s |")
    print("|---|---|---|---|---|")
    for mesh in MESHES:
        chips = math.prod(mesh.values())
        found = compiled(
            "--config=configs/latte.py:S/2", f"--topology=v5p:{SHAPES[chips]}",
            "--config.model.width=1024", "--config.model.heads=8", "--config.model.depth=1",
            "--config.model.adaln=shared", f"--config.batch_size={4 * chips}",
            *(f"--config.mesh.{axis}={size}" for axis, size in ({"data": 1} | mesh).items()),
        )  # fmt: skip
        cells = [" ".join(f"{axis}={size}" for axis, size in mesh.items()), str(found["clips"])]
        cells += [f"{1e3 * found['least_s']:.1f} ms, {found['bound']}"] if found["fits"] else ["-"]
        cells += [sent(found), f"{found['compile_s']:.0f}"]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    app.run(main)
