"""Compare networks on many layouts of eight devices with those on one.

    XLA_FLAGS=--xla_force_host_platform_device_count=8 python -m benchmarks.layouts

Run it from the repository's root; it uses `tests/tiny.py`. A Markdown table has for each layout
and word of the grammar the largest relative difference of the loss and of the gradient of an array,
and the bytes of the training state of a network of all words on a device.
"""

from jaxvid import start

if __name__ == "__main__":
    start.begin()

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxvid import config as configs
from jaxvid import errors
from jaxvid.build import Run, build
from jaxvid.data import pipeline
from jaxvid.errors import InputError
from jaxvid.parallel import rules
from jaxvid.parallel.hosts import put_whole
from jaxvid.training.step import draw_examples, loss_by_noise
from tests import tiny

LAYOUTS = (
    {"replica": 2},
    {"data": 8},
    {"fsdp": 8},
    {"tensor": 8},
    {"context": 4},
    {"replica": 2, "data": 2, "fsdp": 2},
    {"data": 2, "fsdp": 2, "tensor": 2},
    {"data": 2, "context": 4},
    {"fsdp": 2, "context": 4},
    {"fsdp": 2, "context": 2, "tensor": 2},
    {"replica": 2, "context": 2, "tensor": 2},
)
WORDS = (
    "space", "time", "joint", "window(2,2,2)", "conv", "recur", "text", "mlp", "swiglu",
    "space+time",
)  # fmt: skip


def name_of(layout: dict[str, int]) -> str:
    """Such as "data 2, fsdp 4"."""
    return ", ".join(f"{axis} {size}" for axis, size in layout.items())


def make(blocks: str, layout: dict[str, int], frames: int = 4, **model: Any) -> Run:
    """A run on as many devices as the layout has, with 8 clips of 64 tokens in a frame."""
    config = tiny.get_config()
    config.data.update(frames=frames, size=32)
    config.model.update(blocks=blocks, depth=1, width=32, heads=8, patch=(1, 4, 4))
    config.model.update(**model)
    config.conditions.text.length = 8
    config.mesh.update({"data": 1} | layout)
    return build(config, jax.devices()[: math.prod(layout.values())])


def compiled(run: Run) -> tuple[jax.stages.Compiled, tuple[Any, Any]]:
    """The program of a run's loss and gradient at random parameters, and its arguments."""
    config, rng = run.config, np.random.default_rng(0)
    blank = pipeline.blank_batch(config.data, run.encode, config.batch_size)
    batch = {name: blank[name] for name in ("time", "given")}
    batch["video"] = rng.integers(0, 256, blank["video"].shape).astype(np.uint8)
    batch["given"]["text"] = jax.tree.map(
        lambda x: rng.integers(1, 8, x.shape).astype(x.dtype), batch["given"]["text"]
    )

    def place(x: jax.ShapeDtypeStruct) -> jax.Array:
        # Larger weights would enlarge what rounding changes.
        return jax.device_put(rng.normal(scale=0.05, size=x.shape).astype(x.dtype), x.sharding)

    def loss(params: Any, batch: Any) -> jax.Array:
        examples = draw_examples(config, run.denoiser, batch, jax.random.key(0))
        return loss_by_noise(config, run.denoiser, params, examples)[0].sum()

    with jax.set_mesh(run.mesh):
        arguments = (
            jax.tree.map(place, run.params),
            put_whole(batch, rules.batch_sharding(run.mesh)),
        )
        of_params = jax.tree.map(lambda x: x.sharding, run.params)
        step = jax.jit(jax.value_and_grad(loss), out_shardings=(None, of_params))
        return step.lower(*arguments).compile(), arguments


def difference(found: Any, expected: Any) -> float:
    """The largest |a - b| / |b| of an array of a tree, where next to no b counts as 1/1000 of the
    largest.
    """
    trees = (list(map(np.asarray, jax.tree.leaves(tree))) for tree in (found, expected))
    pairs = list(zip(*trees, strict=True))
    largest = max(np.linalg.norm(b) for _, b in pairs)
    return max(
        float(np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-3 * largest)) for a, b in pairs
    )


def main(_: Sequence[str]) -> None:
    if jax.device_count() != 8:
        raise InputError(
            f"{jax.device_count()} device(s): the layouts are of eight; set XLA_FLAGS="
            "--xla_force_host_platform_device_count=8"
        )
    titles = [f"`{word}`" for word in WORDS] + ["bytes per device"]
    print(f"| layout | {' | '.join(titles)} |\n|---{'|---' * len(titles)}|")
    every = "1*(" + ") 1*(".join(WORDS) + ")"
    alone = [step(*arguments) for step, arguments in (compiled(make(w, {})) for w in WORDS)]
    for layout in LAYOUTS:
        cells = []
        for word, expected in zip(WORDS, alone, strict=True):
            step, arguments = compiled(make(word, layout))
            cells.append(f"{difference(step(*arguments), expected):.0e}")
        cells.append(f"{rules.bytes_of_part(make(every, layout).state):,}")
        print(f"| {name_of(layout)} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    errors.run(main, configs.parse_flags)
