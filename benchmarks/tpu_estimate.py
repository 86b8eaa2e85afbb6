"""Estimate the time of a training step on TPUs that are not there.

    python -m benchmarks.tpu_estimate --config=configs/latte.py:XL/2 --topology=v5p:2x2x1
        [--config.KEY=VALUE …] [--top=20]

Needs `pip install "jax[tpu]"`, which brings the compiler, and no TPU. The step is compiled for the
topology, and the cycles that the compiler estimates for each operation are added up, bodies of
loops as often as they run. `batch_size` is that of all chips.

The compiler makes no estimate inside Pallas kernels. Their cycles are counted in the instructions
that it emits for them: one bundle is one cycle. Where the bytes that a kernel moves take longer at
the chip's bandwidth, that time counts. Collectives count nothing.

It is good for comparing two versions of a program, and not a measured time. One plain product of
16384x1152x4608 comes to 0.97 of the peak on v5e and v5p, and to 0.57 on v6e. Progress goes to
stderr, one line of JSON to stdout: `cycles` by kind of operation, `mfu` with its denominator,
`kernel_cycles` of each kernel, and the memory of a chip.
"""

import os
import tempfile

from jaxvid import start

if __name__ == "__main__":
    start.begin(huge_pages=False)
    start.compile_only()
    DUMP = tempfile.mkdtemp(prefix="jaxvid-llo-")
    os.environ["LIBTPU_INIT_ARGS"] = (
        f"--xla_jf_dump_to={DUMP} --xla_jf_dump_llo_text=true "
        "--xla_jf_dump_llo_pass_label_regex=final"
    )

import json
import re
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from absl import flags
from ml_collections import ConfigDict, config_flags

from benchmarks.train_step import CONFIG, say
from jaxvid import config as configs
from jaxvid import errors
from jaxvid.build import Run, build, check_training
from jaxvid.errors import InputError
from jaxvid.models.flops import train_flops
from jaxvid.models.kernels import factorized
from jaxvid.parallel import rules
from jaxvid.parallel.chips import Chip
from jaxvid.parallel.program import Operation, Program, operations_of
from jaxvid.parallel.topology import pod_of

TOPOLOGY = flags.DEFINE_string("topology", "v5p:2x2x1", "Generation and shape, as in v5e:4x4.")
TOP = flags.DEFINE_integer("top", 0, "Number of the most expensive operations to print.")


class Cores(NamedTuple):
    """The tensor cores of a chip, which divide the grid of a kernel, and their clock.

    The clock, cycles per second, is no vendor's figure: it fits the peak.
    """

    number: int
    clock: float


CORES = {"v5e": Cores(1, 1.5e9), "v5p": Cores(2, 1.75e9), "v6e": Cores(1, 1.75e9)}


def main(_: Sequence[str]) -> None:
    config = configs.from_flag(CONFIG)
    try:
        result = estimate(config, TOPOLOGY.value, Path(DUMP), TOP.value)
    finally:
        shutil.rmtree(DUMP, ignore_errors=True)
    overrides = config_flags.get_override_values(flags.FLAGS["config"])
    name = config_flags.get_config_filename(flags.FLAGS["config"])
    print(json.dumps({"config": name, "overrides": overrides} | result), flush=True)


def estimate(config: ConfigDict, topology: str, dump: Path, top: int) -> dict[str, Any]:
    """Compiles the step of `jaxvid.train` for a topology and adds up its cycles.

    Raises InputError for an unknown topology, without the compiler, and for an invalid config.
    """
    generation = topology.partition(":")[0]
    if generation not in CORES:
        raise InputError(f"--topology={topology}: give one of {', '.join(CORES)}, as in v5e:4x4")
    cores = CORES[generation]
    devices, chip = pod_of(topology)
    run = build(config, devices)
    check_training(run)
    batch = run.batch(config.batch_size)
    began = time.perf_counter()
    with jax.set_mesh(run.mesh):
        compiled = run.train_step.lower(run.state, batch).compile()
    seconds = time.perf_counter() - began
    say(f"compiled in {seconds:.0f} s")
    memory = compiled.memory_analysis()
    operations = operations_of(Program(compiled.as_text()))
    kernels = kernel_cycles(run, operations, dump, chip, cores)
    cycles: Counter[str] = Counter()
    for op in operations:
        cycles[op.kind] += op.times * kernels.get(op.name, op.cycles)
    total = sum(cycles.values())
    flops = sum(train_flops(*run.network_call(config.batch_size)).values()) / len(devices)
    by_cost = sorted(operations, key=lambda op: -op.times * kernels.get(op.name, op.cycles))
    for op in by_cost[:top]:
        share = op.times * kernels.get(op.name, op.cycles) / total
        say(f"{share:6.1%} {op.times:4d} x {op.kind:11} {op.shape} {op.path[-90:]}")
    return {
        "topology": topology,
        "chips": len(devices),
        "batch_per_chip": config.batch_size / len(devices),
        "parameters": sum(x.size for x in jax.tree.leaves(run.params)),
        "flops_per_chip": flops,
        "cycles": dict(cycles.most_common()),
        "cycles_total": total,
        "kernel_cycles": kernels,
        "step_s": total / cores.clock,
        "mfu": flops / (total / cores.clock) / chip.peak,
        "mfu_denominator": chip.peak,
        "compile_s": seconds,
        "arguments_gib": memory.argument_size_in_bytes / 2**30,
        "temporaries_gib": memory.temp_size_in_bytes / 2**30,
    }


def kernel_cycles(
    run: Run, operations: list[Operation], dump: Path, chip: Chip, cores: Cores
) -> dict[str, float]:
    """Cycles of one run of each attention kernel, by the name of its instruction."""
    model, data = run.config.model, run.config.data
    per_patch, rows, columns = model.patch
    B = run.config.batch_size // run.config.optimizer.accumulate // rules.batch_parts(run.mesh)
    T, N = data.frames // per_patch, data.size // rows * (data.size // columns)
    splits = run.mesh.shape["tensor"]
    shape = (B, T, N, 3 * model.width // splits)
    one = B * T * N * model.width // splits * run.denoiser.net.dtype.itemsize
    calls: dict[tuple[str, str], list[str]] = {}
    for op in operations:
        if op.kind == "kernel":
            word = re.search(r"/(space|time)_\d+/", op.path)[1]
            calls.setdefault((word, op.name.partition(".")[0]), []).append(op.name)
    cycles = {}
    for (word, kernel), names in calls.items():
        steps, loops = factorized.iterations(shape, model.heads // splits, word)
        once, in_grid, in_loop = bundles(dump, names)
        issued = once + -(-steps // cores.number) * (in_grid + loops * in_loop)
        arrays = 7 if kernel == "attention_backward" else 4  # qkv and y; or their gradients too
        moved = arrays * one / chip.bandwidth * cores.clock
        cycles |= dict.fromkeys(names, max(issued, moved))
    return cycles


def bundles(dump: Path, names: list[str]) -> tuple[int, int, int]:
    """Bundles of a kernel outside of its grid's body, in it, and in the loops inside.

    The compiler emits equal kernels once, under one of their names.
    """
    found = [file for name in names for file in dump.glob(f"*-{name}-??-final_bundles.txt")]
    counts = [0, 0, 0]
    for line in found[0].read_text().split("\n"):
        if bundle := re.match(r"\s*(?:0x[0-9a-f]+|0)\s+(?:[A-Z]{2})?\s*:\s+(>*)\s*\{", line):
            counts[min(len(bundle[1]), 2)] += 1
    return tuple(counts)


if __name__ == "__main__":
    errors.run(main, configs.parse_flags)
