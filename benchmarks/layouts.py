"""Train on several meshes, and compare each with a single device.

    XLA_FLAGS=--xla_force_host_platform_device_count=8 python -m benchmarks.layouts \\
        --config=tests/tiny.py --config.steps=20 [--config.KEY=VALUE …]

Run it from the repository's root. Differences are relative: the largest difference of the loss over
all steps, and after the last step the difference of all parameters together and of the array that
differs most. A Markdown table goes to stdout.
"""

from jaxvid import start

if __name__ == "__main__":
    start.begin()

import sys
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import config_flags

from benchmarks.training import Trained, train
from jaxvid import config as configs
from jaxvid import errors
from jaxvid.parallel import rules
from jaxvid.parallel.mesh import AXES

CONFIG = config_flags.DEFINE_config_file("config", None, "File with get_config().")


def main(_: Sequence[str]) -> None:
    config = configs.from_flag(CONFIG)
    count = jax.device_count()
    if count < 4 or count % 2:
        raise errors.InputError(
            f"{count} device(s): the benchmark needs an even number of at least 4; set XLA_FLAGS="
            "--xla_force_host_platform_device_count=8"
        )

    def on(devices: int, **sizes: int) -> Trained:
        config.mesh.update(dict.fromkeys(AXES, 1) | sizes)
        print(f"training on {devices} device(s) {sizes or ''}", file=sys.stderr)
        return train(config, jax.devices()[:devices])

    alone = on(1)
    print("| mesh | loss | all parameters | worst single array | bytes of state per device |")
    print("|---|---|---|---|---|")
    print(f"| one device | | | | {rules.bytes_of_part(alone.state):,} |")
    for sizes in ({"data": count}, {"fsdp": count}, {"data": 2, "fsdp": count // 2}):
        spread = on(count, **sizes)
        mesh = ", ".join(f"{axis} {size}" for axis, size in sizes.items())
        loss = np.max(np.abs(spread.losses / alone.losses - 1))
        together, worst = differences(spread.state.params, alone.state.params)
        held = rules.bytes_of_part(spread.state)
        print(f"| {mesh} | {loss:.1e} | {together:.1e} | {worst:.1e} | {held:,} |", flush=True)


def differences(a: Any, b: Any) -> tuple[float, float]:
    """|a - b| / |b| of all arrays together, and its largest value over single arrays."""
    norms = np.array(
        [
            (np.linalg.norm(np.asarray(x) - np.asarray(y)), np.linalg.norm(y))
            for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
        ]
    )
    apart, size = np.linalg.norm(norms, axis=0)
    return float(apart / size), float(np.max(norms[:, 0] / norms[:, 1]))


if __name__ == "__main__":
    errors.run(main, configs.parse_flags)
