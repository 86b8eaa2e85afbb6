"""Compile for a TPU pod before you have one: memory, transfers and the least time of a program.

    python -m jaxvid.aot --config=configs/latte.py:XL/2 --topology=v5e:4x4 [--json=FILE]
    python -m jaxvid.aot --config=configs/latte.py:XL/2 --topology=v5p:4x4x8 --slices=2 \\
        --config.mesh.replica=2
    python -m jaxvid.aot --config=configs/latte.py:XL/2 --topology=v5e:4x4 --program=sample
    python -m jaxvid.aot --config=configs/latte.py:XL/2 --topology=v5e:4x4 --sweep [--tries=24]

Needs no TPU, only its compiler: `pip install "jax[tpu]"`. `batch_size` is that of all chips. A step
that does not fit is compiled again with lighter settings, the nearest first, until one fits.
`--sweep` compiles other meshes and batches, and ranks those that fit by their least time per clip.
Progress goes to stderr. docs/scaling.md says how to read the tables.
"""

from jaxvid import start

if __name__ == "__main__":
    start.begin(huge_pages=False)
    start.compile_only()

import json
from collections.abc import Iterable, Sequence
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from jaxvid import config as configs
from jaxvid import errors, files
from jaxvid.errors import InputError
from jaxvid.parallel.chips import SOURCE
from jaxvid.parallel.topology import pod_of
from jaxvid.pods import tables
from jaxvid.pods.budget import PROGRAMS, checked, measure
from jaxvid.pods.layouts import written
from jaxvid.pods.search import Found, Pod, nearest_that_fits, sweep

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "File with get_config(), such as configs/latte.py:XL/2."
)
TOPOLOGY = flags.DEFINE_string("topology", None, "Generation and shape of a slice, as in v5e:4x4.")
SLICES = flags.DEFINE_integer("slices", 1, "Number of slices.", lower_bound=1)
PROGRAM = flags.DEFINE_enum("program", "train", PROGRAMS, "The training step, or the sampler.")
SWEEP = flags.DEFINE_bool("sweep", False, "Compile other meshes and batch sizes too.")
BATCH_SIZES = flags.DEFINE_list(
    "batch_sizes", None, "Of --sweep; by default that of the config, its double and its half."
)
TRIES = flags.DEFINE_integer(
    "tries", 12, "The most programs to compile, one after another.", lower_bound=1
)
JSON = flags.DEFINE_string("json", None, "File to write the results to, as JSON.")


def main(_: Sequence[str]) -> None:
    config = configs.from_flag(CONFIG)
    if TOPOLOGY.value is None:
        raise InputError("give --topology=GENERATION:SHAPE of a slice, as in v5e:4x4")
    output = JSON.value and files.to_path(JSON.value, "--json")
    if output:
        files.make_folder(output.parent, "--json")
    if PROGRAM.value == "sample":
        config.model.remat = "none"  # as jaxvid.sample does
    if not all(size.isdigit() and int(size) for size in BATCH_SIZES.value or ()):
        raise InputError(f"--batch_sizes={','.join(BATCH_SIZES.value)}: give numbers, as in 64,128")
    pod = Pod(*pod_of(TOPOLOGY.value, SLICES.value), PROGRAM.value)
    name = config_flags.get_config_filename(flags.FLAGS["config"])
    slices = f"{SLICES.value} x " * (SLICES.value > 1)
    print(f"{name}: {pod.program} on {slices}{TOPOLOGY.value}, {len(pod.devices)} devices")
    result = {
        "config": name,
        "overrides": config_flags.get_override_values(flags.FLAGS["config"]),
        "topology": TOPOLOGY.value,
        "slices": SLICES.value,
        "program": pod.program,
        "chip": pod.chip._asdict() | {"source": SOURCE},
    }
    result |= many(config, pod) if SWEEP.value else one(config, pod)
    if output:
        with files.whole(output) as file:
            file.write_text(json.dumps(result, indent=1) + "\n")


def one(config: ConfigDict, pod: Pod) -> dict[str, Any]:
    """Compiles the program of a config, and lighter ones until one fits; prints what they take."""
    budget = measure(checked(config, pod.devices, pod.program), pod.chip, pod.program)
    print(tables.describe(budget, pod.chip), flush=True)
    tried: list[Found] = []
    if not budget.fits and pod.program == "train" and TRIES.value > 1:
        for found in nearest_that_fits(config, budget, pod, TRIES.value - 1):
            tried.append(found)
            print(f"tried {written(found.changes)}: {found.budget.fit}", flush=True)
        if tried and tried[-1].budget.fits:
            print(f"\nThe nearest of these that fits, {written(tried[-1].changes)}:\n")
            print(tables.describe(tried[-1].budget, pod.chip))
        else:
            print("none of these fits: take more chips, or a smaller model or clip")
    return budget.as_json() | {"lighter": _as_json(tried)}


def many(config: ConfigDict, pod: Pod) -> dict[str, Any]:
    """Compiles other settings, and prints their ranking."""
    now = config.batch_size
    sizes = [int(size) for size in BATCH_SIZES.value or (now, 2 * now, now // 2)]
    found = sweep(config, pod, SLICES.value, sizes, TRIES.value)
    print(tables.ranking(found))
    return {
        "ranked": _as_json(found.ranked),
        "too_large": _as_json(one for one in found.found if not one.budget.fits),
        "refused": found.refused,
        "not_tried": found.not_tried,
    }


def _as_json(found: Iterable[Found]) -> list[dict[str, Any]]:
    return [{"changes": one.changes} | one.budget.as_json() for one in found]


if __name__ == "__main__":
    errors.run(main, configs.parse_flags)
