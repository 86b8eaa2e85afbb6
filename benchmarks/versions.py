"""Time the training step of this version against that of another.

    git worktree add /tmp/before COMMIT
    python -m benchmarks.versions --before=/tmp/before --config=configs/base.py
        [--config.KEY=VALUE …] [--rounds=5] [--repeats=20]

Run it from the repository's root. In each round it runs `benchmarks.train_step` with the same flags
in both, one after another, each in its own process.

Progress goes to stderr, one line of JSON to stdout. For each version it has the median over rounds
of the median step (`step_s`), the steps of each round, the fastest step and the memory. `ratio` is
the median over rounds of the step before divided by the step now: above 1, this version is faster.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from absl import flags

from benchmarks.train_step import CONFIG, in_own_process, say
from jaxvid import config as configs
from jaxvid import errors
from jaxvid.errors import InputError

BEFORE = flags.DEFINE_string("before", None, "Checkout of the other version.")
ROUNDS = flags.DEFINE_integer("rounds", 5, "Timings of each version.", lower_bound=1)


def main(_: Sequence[str]) -> None:
    configs.from_flag(CONFIG)  # a mistake is told once
    before = Path(BEFORE.value or "")
    if not (before / "benchmarks/train_step.py").is_file() or before.samefile("."):
        raise InputError(f"--before={before}: give another checkout of jaxvid")
    found: dict[str, list[dict[str, Any]]] = {"before": [], "now": []}
    for i in range(ROUNDS.value):
        for name, folder in (("before", before), ("now", Path())):
            found[name].append(in_own_process(folder, "before", "rounds"))
            step = found[name][-1]["step_s_median"]
            say(f"round {i + 1} of {ROUNDS.value}, {name}: {step:.4f} s")
    steps = {name: [line["step_s_median"] for line in lines] for name, lines in found.items()}
    result: dict[str, Any] = {
        name: {
            "step_s": median(steps[name]),
            "step_s_rounds": steps[name],
            "step_s_min": min(line["step_s_min"] for line in lines),
            "peak_memory_bytes": lines[0]["peak_memory_bytes"],
        }
        for name, lines in found.items()
    }
    pairs = zip(steps["before"], steps["now"], strict=True)
    print(json.dumps(result | {"ratio": median(a / b for a, b in pairs)}), flush=True)


if __name__ == "__main__":
    errors.run(main, configs.parse_flags)
