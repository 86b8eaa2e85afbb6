"""Compare lines of the block grammar at equal parameters, data, steps and seeds.

    python -m benchmarks.architectures --config=configs/base.py --config.steps=300 [--seeds=2]
        [--lines="space mlp time mlp,joint mlp"] [--plot=docs/images/architectures.png]

Run it from the repository's root. Each line is repeated so that it has as many words as the
config's line in all, or nearly, and its width is the one at which its parameters come nearest to
the config's. Every network is trained by the step that `jaxvid.train` runs, and its average (EMA)
is measured on clips that no one was trained on: the loss by noise level, all frames unknown, the
same noise for all. Progress goes to stderr, a table in Markdown to stdout; +- is the standard error
over the clips of all seeds.
"""

from jaxvid import start

if __name__ == "__main__":
    start.begin()

import functools
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
from jaxvid import config as configs
from jaxvid import errors
from jaxvid.data.pixels import to_condition, to_float
from jaxvid.diffusion import loss, process
from jaxvid.models import grammar
from jaxvid.models.flops import train_flops
from jaxvid.models.mixers import MIXERS
from jaxvid.models.transformer import SpaceTimeTransformer, stacks
from jaxvid.parallel.mesh import make_mesh
from jaxvid.training.optimizer import make_optimizer
from jaxvid.training.state import make_init, make_network

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
NAMES = flags.DEFINE_list("lines", list(LINES), "Lines of the grammar, separated by commas.")
SEEDS = flags.DEFINE_integer("seeds", 1, "How many times each is trained.", lower_bound=1)
CLIPS = flags.DEFINE_integer("clips", 64, "Clips that are measured on, per seed.", lower_bound=2)
PLOT = flags.DEFINE_string("plot", None, "Where to draw the losses, a PNG.")


def main(_: Sequence[str]) -> None:
    config = configs.from_flag(CONFIG)
    target = parameters(config)
    rows = []
    for line, equal in [(line, like(config, line, target)) for line in NAMES.value]:
        runs = []
        for seed in range(SEEDS.value):
            equal.seed = config.seed + seed
            runs.append(measure(equal, CLIPS.value))
            print(f"{line}, seed {equal.seed}: {runs[-1]['step_s']:.3f} s/step", file=sys.stderr)
        rows.append((line, equal, runs))
    print(table(rows))
    if PLOT.value:
        draw(rows, Path(PLOT.value))


def parameters(config: ConfigDict) -> int:
    """How many the network of a config has."""
    net, mesh = make_network(config), make_mesh(config.mesh)
    _, state = make_init(config, net, make_optimizer(config), mesh)
    return sum(x.size for x in jax.tree.leaves(state.params))


def like(config: ConfigDict, line: str, target: int) -> ConfigDict:
    """The config with another line, of as many words, and `target` parameters or nearly."""
    config = config.copy_and_resolve_references()
    depth = max(1, round(words(config.model.blocks, config.model.depth) / words(line, 1)))
    with config.ignore_type():
        config.model.update(blocks=line, depth=depth, unroll=depth)
    configs.check(config)
    step = 4 * config.model.heads
    widths = range(step, 3 * config.model.width + 1, step)

    def distance(width: int) -> int:
        config.model.width = width
        return abs(parameters(config) - target)

    config.model.width = min(widths, key=distance)
    return config


def words(blocks: str | Sequence[tuple[str, int]], depth: int) -> int:
    """How many there are in a network's whole depth."""
    parsed = ((grammar.parse(line, MIXERS), repeats) for line, repeats in stacks(blocks, depth))
    return sum(repeats * sum(map(len, line)) for line, repeats in parsed)


def measure(config: ConfigDict, clips: int) -> dict[str, Any]:
    """Trains a config's network, and measures its average on `clips` new clips."""
    run = training.train(config)
    with jax.set_mesh(run.mesh):
        evaluate = jax.jit(functools.partial(held_out, config, run.net))
        losses = evaluate(run.state.ema, training.unseen(config, clips))
    T, S = config.data.frames, config.data.size
    return {
        "losses": np.asarray(losses),
        "step_s": run.step_s,
        "gflop": sum(train_flops(run.net, (config.batch_size, T, S, S, 3)).values()) / 1e9,
        "memory": run.temp_bytes,
    }


def held_out(
    config: ConfigDict, net: SpaceTimeTransformer, params: Any, batch: dict[str, Array]
) -> Float32[Array, "levels B"]:
    """The loss of each clip at each of `LEVELS`, in the space that the config trains in."""
    d = config.diffusion
    kind = process.PROCESSES[d.process]
    x0 = to_float(batch["video"])
    eps = jax.random.normal(jax.random.key(0), x0.shape)
    condition = to_condition(config, batch, jnp.zeros(len(x0)), jax.random.key(1))

    def at(level: Array) -> Array:
        noise = jnp.full(x0.shape[:2], level)
        x_t = process.corrupt(kind, x0, eps, noise)
        scaled = x_t * process.input_scale(kind, noise)
        output = net.apply({"params": params}, scaled, noise, batch["time"], condition)
        errors = loss.frame_errors(kind, output, x_t, x0, eps, noise, d.prediction, d.loss_space)
        return errors.mean(axis=1)

    return jax.lax.map(at, jnp.array(LEVELS))


def table(rows: list[tuple[str, ConfigDict, list[dict[str, Any]]]]) -> str:
    """Markdown: a row per line."""
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
    """Loss over noise level, relative to the first line's."""
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
