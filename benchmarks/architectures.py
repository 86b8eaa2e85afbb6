"""Compare architectures with equal parameters, data, steps and seeds.

    python -m benchmarks.architectures --config=configs/base.py --config.steps=300 [--seeds=2]
        [--lines="space mlp time mlp,joint mlp"] [--plot=docs/images/architectures.png]

Run it from the repository's root. The repeats of each line of the block grammar are chosen so that
the total number of words is close to the config's, and its width so that the number of parameters
is closest to the config's. Every network is trained with the step of `jaxvid.train`. Its averaged
weights (EMA) are evaluated on held-out clips: the loss by noise level, with all frames unknown and
the same eps for all networks. Progress goes to stderr, a Markdown table to stdout; +- is the
standard error over the clips of all seeds.
"""

from jaxvid import start

if __name__ == "__main__":
    start.begin()

import functools
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jaxtyping import Array, Float32
from matplotlib.figure import Figure
from ml_collections import ConfigDict, config_flags

from benchmarks import training
from benchmarks.training import like, parameters
from jaxvid import config as configs
from jaxvid import errors
from jaxvid.conditions.condition import prepare
from jaxvid.data.pixels import to_float
from jaxvid.denoiser import Denoiser
from jaxvid.diffusion import loss, process
from jaxvid.models.flops import train_flops

LINES = (
    "space mlp time mlp",
    "space time mlp",
    "space+time mlp",
    "joint mlp",
    "window mlp",
    "space mlp recur mlp",
    "space mlp conv mlp",
)
LEVELS = (0.2, 0.4, 0.6, 0.8, 0.95)

CONFIG = config_flags.DEFINE_config_file("config", None, "File with get_config().")
NAMES = flags.DEFINE_string("lines", ",".join(LINES), "Lines of the grammar, split at commas.")
SEEDS = flags.DEFINE_integer("seeds", 1, "Training runs of each line.", lower_bound=1)
CLIPS = flags.DEFINE_integer("clips", 64, "Held-out clips per seed.", lower_bound=2)
PLOT = flags.DEFINE_string("plot", None, "PNG file for a plot of the losses.")


def main(_: Sequence[str]) -> None:
    config = configs.from_flag(CONFIG)
    target = parameters(config)
    rows = []
    lines = re.split(r",(?![^(]*\))", NAMES.value)  # not at those between arguments
    for line, equal in [(line, like(config, line, target)) for line in lines]:
        runs = []
        for seed in range(SEEDS.value):
            equal.seed = config.seed + seed
            runs.append(measure(equal, CLIPS.value))
            print(f"{line}, seed {equal.seed}: {runs[-1]['step_s']:.3f} s/step", file=sys.stderr)
        rows.append((line, equal, runs))
    print(table(rows))
    if PLOT.value:
        draw(rows, Path(PLOT.value))


def measure(config: ConfigDict, clips: int) -> dict[str, Any]:
    """Trains a config's network, and evaluates its average on `clips` held-out clips."""
    trained = training.train(config)
    with jax.set_mesh(trained.run.mesh):
        evaluate = jax.jit(functools.partial(held_out, config, trained.run.denoiser))
        losses = evaluate(trained.state.ema, training.unseen(config, clips))
    flops = train_flops(*trained.run.network_call(config.batch_size))
    return {
        "losses": np.asarray(losses),
        "step_s": trained.step_s,
        "gflop": sum(flops.values()) / 1e9,
        "memory": trained.temp_bytes,
    }


def held_out(
    config: ConfigDict, denoiser: Denoiser, params: Any, batch: dict[str, Any]
) -> Float32[Array, "levels B"]:
    """The loss of each clip at each of `LEVELS`, in the loss space of the config."""
    d = config.diffusion
    x0 = to_float(batch["video"])
    eps = jax.random.normal(jax.random.key(0), x0.shape)
    given = prepare(denoiser.conditions, batch["given"], jax.random.key(1), training=False)

    def at(level: Array) -> Array:
        noise = jnp.full(x0.shape[:2], level)
        x_t = process.corrupt(denoiser.process, x0, eps, noise)
        output = denoiser.predict({"params": params}, x_t, noise, batch["time"], given)
        errors = loss.frame_errors(
            denoiser.process, output, x_t, x0, eps, noise, d.prediction, d.loss_space
        )
        return errors.mean(axis=1)

    return jax.lax.map(at, jnp.array(LEVELS))


def table(rows: list[tuple[str, ConfigDict, list[dict[str, Any]]]]) -> str:
    """A Markdown table with a row per line."""
    levels = " | ".join(f"loss at {level}" for level in LEVELS)
    head = f"| line | depth | width | parameters | {levels} | s/step | GFLOP/step | memory |"
    out = [head, "|" + "---|" * (len(LEVELS) + 7)]
    for line, config, runs in rows:
        losses = np.concatenate([run["losses"] for run in runs], axis=1)
        error = losses.std(axis=1, ddof=1) / np.sqrt(losses.shape[1])
        scores = " | ".join(
            f"{m:.3f} ± {e:.3f}" for m, e in zip(losses.mean(axis=1), error, strict=True)
        )
        seconds = min(run["step_s"] for run in runs)
        out.append(
            f"| `{line}` | {config.model.depth} | {config.model.width} "
            f"| {parameters(config) / 1e6:.2f} M | {scores} | {seconds:.3f} "
            f"| {runs[0]['gflop']:.1f} | {runs[0]['memory'] / 1e6:.0f} MB |"
        )
    return "\n".join(out)


def draw(rows: list[tuple[str, ConfigDict, list[dict[str, Any]]]], path: Path) -> None:
    """Plots the loss over the noise level, relative to the first line."""
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    losses = [np.concatenate([r["losses"] for r in runs], axis=1) for _, _, runs in rows]
    for (line, _, _), of_line in zip(rows, losses, strict=True):
        axes.plot(LEVELS, of_line.mean(axis=1) / losses[0].mean(axis=1), marker="o", label=line)
    axes.set(xlabel="noise level", ylabel=f"held-out loss / that of {rows[0][0]}")
    figure.legend(loc="outside right upper")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    errors.run(main, configs.parse_flags)
