"""Sparse detail against the dense network: tokens, time, memory, and what it costs in quality.

    python -m benchmarks.sparse --config=configs/base.py --config.data.size=48 [--repeats=20]
    python -m benchmarks.sparse --config=configs/base.py --seeds=3 --networks=dense,between_2x
        [--protocols=quick,world] [--num=64]

Run it from the repository's root. Every fourth frame is a key frame with the config's patches; the
frames between have patches of twice or four times the side (`model.patches`). "skip" means that
half of the frames between skip the middle lines in training (`model.skip`). The config's line is
repeated once, then for the middle, then once.

First the training steps of all networks are timed, in turn, so that they meet the same load;
`faster` is the median over the turns of the dense network's time over the other's, and `memory` is
that of intermediate results. With `--seeds`, every network is then trained for `steps` steps, the
sparse ones also for as long as the dense one takes, and the averaged weights are scored as in
benchmarks/quality.py. Progress goes to stderr, Markdown tables to stdout.
"""

from jaxvid import start

if __name__ == "__main__":
    start.begin()

import statistics
import time
from collections.abc import Sequence
from typing import NamedTuple

import jax
from absl import flags
from ml_collections import ConfigDict

from benchmarks.scoring import scores_of, table
from benchmarks.train_step import CONFIG, REPEATS, WARMUP, random_batch, say
from jaxvid import config as configs
from jaxvid import errors
from jaxvid.build import build, check_training
from jaxvid.errors import InputError, nearest
from jaxvid.metrics.protocols import choose
from jaxvid.models.flops import train_flops
from jaxvid.models.transformer import stacks
from jaxvid.parallel import rules
from jaxvid.parallel.hosts import put_whole

NETWORKS = flags.DEFINE_list("networks", [], "Names of networks; by default all of them.")
SEEDS = flags.DEFINE_integer("seeds", 0, "Training runs of each network.", lower_bound=0)
PROTOCOLS = flags.DEFINE_list("protocols", ["quick", "world"], "Protocols of the scores.")
NUM = flags.DEFINE_integer("num", 0, "Number of clips, if not the protocols'.", lower_bound=0)
QUARTER = (0, 1, 1, 1)


class Cost(NamedTuple):
    """The cost of a training step.

    Attributes:
      tokens: of a clip.
      flops: of the network, forward and backward.
      seconds: of each step.
      memory: bytes of intermediate results.
    """

    tokens: int
    flops: int
    seconds: list[float]
    memory: int


def main(_: Sequence[str]) -> None:
    config = configs.from_flag(CONFIG)
    protocols = [choose(name, NUM.value) for name in PROTOCOLS.value]
    networks = variants(config)
    for name in NETWORKS.value:
        if name not in networks:
            hint = nearest(name, networks)
            raise InputError(f"--networks: {hint}{name!r} is not one of {', '.join(networks)}")
    if NETWORKS.value:
        networks = {name: networks[name] for name in dict.fromkeys(["dense", *NETWORKS.value])}
    for network in networks.values():
        configs.check(network)
    costs = costs_of(networks)
    dense = costs["dense"]
    faster = {
        name: statistics.median(a / b for a, b in zip(dense.seconds, cost.seconds, strict=True))
        for name, cost in costs.items()
    }
    print("| network | tokens of a clip | GFLOP per step | s per step | faster | memory, MB |")
    print("|---|---|---|---|---|---|")
    for name, cost in costs.items():
        print(
            f"| {name} | {cost.tokens:,} | {cost.flops / 1e9:.1f} "
            f"| {statistics.median(cost.seconds):.3g} | {faster[name]:.2f} "
            f"| {cost.memory / 1e6:.0f} |",
            flush=True,
        )
    rows = {}
    for name, network in networks.items() if SEEDS.value else ():
        as_long = round(config.steps * faster[name]) if name != "dense" else config.steps
        for steps in dict.fromkeys((config.steps, as_long)):
            network.steps = steps
            rows[f"{name}, {steps:,} steps"] = each = []
            for seed in range(SEEDS.value):
                network.seed = config.seed + seed
                each.append(scores_of(network, protocols))
                found = ", ".join(f"{s.metric} {s.value:.4g}" for s in each[-1])
                say(f"{name}, {steps} steps, seed {network.seed}: {found}")
    if rows:
        print(f"\n{table(rows)}")
        print(f"\n{'; '.join(p.label for p in protocols)}; steps of {config.batch_size} clips")


def variants(config: ConfigDict) -> dict[str, ConfigDict]:
    """The dense network of a config, in three lines, and those with sparse detail."""
    lines = stacks(config.model.blocks, config.model.depth)
    if len(lines) > 1 or config.model.depth < 3:
        raise InputError("config.model.blocks: the benchmark needs one line, and a depth above 2")
    line, (_, p, q) = config.model.blocks, config.model.patch
    chosen = {
        "dense": {},
        "between_2x": {"patches": ((2 * p, 2 * q),)},
        "between_2x_skip": {"patches": ((2 * p, 2 * q),), "skip": 0.5},
        "between_4x": {"patches": ((4 * p, 4 * q),)},
        "dense_skip": {"patches": ((p, q),), "skip": 0.5},
    }
    found = {}
    for name, changes in chosen.items():
        found[name] = config.copy_and_resolve_references()
        found[name].model.update(
            blocks=f"1*({line}) {config.model.depth - 2}*({line}) 1*({line})",
            detail=QUARTER if changes else (0,), **changes,
        )  # fmt: skip
    return found


def costs_of(networks: dict[str, ConfigDict]) -> dict[str, Cost]:
    """Times the steps of networks in turn, on one random batch each."""
    steps, costs = {}, {}
    for name, config in networks.items():
        run = build(config)
        check_training(run)
        batch = put_whole(random_batch(run), rules.batch_sharding(run.mesh))
        with jax.set_mesh(run.mesh):
            compiled = run.train_step.lower(run.state, batch).compile()
            steps[name] = [run, compiled, run.init(), batch]
        flops = sum(train_flops(*run.network_call(config.batch_size)).values())
        memory = compiled.memory_analysis().temp_size_in_bytes
        size = config.data.size
        tokens = run.denoiser.net.tokens(config.data.frames, (size, size))
        costs[name] = Cost(tokens, flops, [], memory)
        say(f"{name}: compiled")
    for i in range(WARMUP + REPEATS.value):
        for name, step in steps.items():
            run, compiled, state, batch = step
            with jax.set_mesh(run.mesh):
                started = time.perf_counter()
                step[2], _ = jax.block_until_ready(compiled(state, batch))
                if i >= WARMUP:
                    costs[name].seconds.append(time.perf_counter() - started)
    return costs


if __name__ == "__main__":
    errors.run(main, configs.parse_flags)
