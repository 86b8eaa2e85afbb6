"""Time the training step of a config on one batch of random clips, without data.

    python -m benchmarks.train_step --config=configs/base.py [--config.KEY=VALUE …] [--repeats=20]

Run it from the repository's root. Progress goes to stderr, one line of JSON to stdout:

- `compile_s`: seconds to trace and compile the step; `step_s_median`, `step_s_min`: seconds per
  step, over `repeats` steps, each of which ends before the next begins.
- `flops_per_step`: FLOPs of the network, forward and backward, as `jaxvid.models.flops` counts
  them; `flops_by_word` splits them by word, and `flops_per_s` divides them by the median step.
- `peak_memory_bytes`: peak memory of one device. `peak_memory_source` is the device's allocator or,
  on devices that do not count (CPU), the compiler's plan of the step.
- `mfu`: `flops_per_s` divided by `mfu_denominator`, the peak of all chips with dense bfloat16 for
  any dtype of the config; null if the peak of the device is not in `PEAK_FLOPS`.
"""

import os

from jaxvid import start

if __name__ == "__main__":
    start.begin()
    os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"  # `compile_s` is of a first start

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags
from ml_collections import ConfigDict, config_flags

from jaxvid import config as configs
from jaxvid import errors
from jaxvid.build import Run, build, check_training
from jaxvid.data import pipeline
from jaxvid.models.flops import train_flops
from jaxvid.parallel import rules
from jaxvid.parallel.chips import CHIPS
from jaxvid.parallel.hosts import put_whole
from jaxvid.sampling.draw import by_default

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "File with get_config(), such as configs/base.py."
)
REPEATS = flags.DEFINE_integer("repeats", 20, "Number of timed steps.", lower_bound=1)
WARMUP = 2

# Vendors' figures for dense bfloat16, FLOP/s per chip, by `device_kind`.
PEAK_FLOPS = {chip.kind: chip.peak for chip in CHIPS.values()} | {
    "TPU v5p": CHIPS["v5p"].peak,
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA H100 80GB HBM3": 989e12,  # SXM; PCIe and NVL have other names and other peaks
    "NVIDIA H200": 989e12,
}


def main(_: Sequence[str]) -> None:
    config = configs.from_flag(CONFIG)
    result = {
        "config": config_flags.get_config_filename(flags.FLAGS["config"]),
        "overrides": config_flags.get_override_values(flags.FLAGS["config"]),
        **measure(config, REPEATS.value),
    }
    print(json.dumps(result), flush=True)


def measure(config: ConfigDict, repeats: int) -> dict[str, Any]:
    """Builds and times the step of `jaxvid.train`; raises InputError for an invalid config."""
    run = build(config)
    check_training(run)
    net = run.denoiser.net
    batch = put_whole(random_batch(run), rules.batch_sharding(run.mesh))
    with jax.set_mesh(run.mesh):
        say("compiling")
        started = time.perf_counter()
        compiled = run.train_step.lower(run.state, batch).compile()
        compile_s = time.perf_counter() - started
        say(f"compiled in {compile_s:.1f} s")

        state = run.init()
        seconds = []
        for i in range(WARMUP + repeats):
            started = time.perf_counter()
            state, _ = jax.block_until_ready(compiled(state, batch))
            seconds.append(time.perf_counter() - started)
            say(f"step {i + 1} of {WARMUP + repeats}: {seconds[-1]:.4f} s")

    step_s = statistics.median(seconds[WARMUP:])
    B, T, *size, _ = batch["video"].shape
    tokens = B * net.tokens(T, tuple(size))
    by_word = train_flops(*run.network_call(config.batch_size))
    flops = sum(by_word.values())
    device = jax.devices()[0]
    # A chip of some TPUs is two devices, one per core.
    chips = sum(getattr(d, "core_on_chip", 0) == 0 for d in jax.devices())
    peak = PEAK_FLOPS.get(device.device_kind, 0) * chips or None
    memory, memory_source = peak_memory(compiled)
    return {
        "device_kind": device.device_kind,
        "device_count": jax.device_count(),
        "platform": device.platform,
        "jax": jax.__version__,
        "parameters": sum(x.size for x in jax.tree.leaves(run.params)),
        "compile_s": compile_s,
        "step_s_median": step_s,
        "step_s_min": min(seconds[WARMUP:]),
        "repeats": repeats,
        "clips_per_s": config.batch_size / step_s,
        "tokens_per_s": tokens / step_s,
        "flops_per_step": flops,
        "flops_by_word": by_word,
        "flops_per_s": flops / step_s,
        "peak_memory_bytes": memory,
        "peak_memory_source": memory_source,
        "mfu": peak and flops / step_s / peak,
        "mfu_denominator": peak,
    }


def random_batch(run: Run) -> dict[str, Any]:
    """A batch like one of the data pipeline: random pixels, all classes in turn, else null."""
    B, T, S = run.config.batch_size, run.config.data.frames, run.config.data.size
    rng = np.random.default_rng(run.config.seed)
    blank = pipeline.blank_batch(run.config.data, run.encode, B)
    return blank | {
        "video": rng.integers(0, 256, (B, T, S, S, 3), np.uint8),
        "given": by_default(run.conditions, blank["given"]),
    }


def peak_memory(compiled: jax.stages.Compiled) -> tuple[int, str]:
    """Peak bytes of a device of this host since the process began, and the source of the number."""
    used = [(d.memory_stats() or {}).get("peak_bytes_in_use", 0) for d in jax.local_devices()]
    if any(used):
        return max(used), "device.memory_stats"
    plan = compiled.memory_analysis()
    kept = plan.argument_size_in_bytes + plan.output_size_in_bytes - plan.alias_size_in_bytes
    return kept + plan.temp_size_in_bytes, "compiled.memory_analysis"


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def in_own_process(checkout: Path, *without: str) -> dict[str, Any]:
    """The line that this benchmark prints in a checkout, run in a process of its own.

    It has the flags of the present command but those named in `without`. Raises InputError if it
    fails.
    """
    own = flags.FlagValues()
    for name in without:
        own[name] = flags.FLAGS[name]
    command = [sys.executable, "-m", "benchmarks.train_step", *own(sys.argv, known_only=True)[1:]]
    done = subprocess.run(command, cwd=checkout, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise errors.InputError(f"benchmarks.train_step ended with {done.returncode}, see above")
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    errors.run(main, configs.parse_flags)
