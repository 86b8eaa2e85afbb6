"""How far a network follows its conditions: its loss with those of another clip, or with none.

    python -m benchmarks.conditions --workdir=DIR [--clips=256]

Run it from the repository's root. Unseen clips get the same noise three times: with their own
conditions, with those of other clips, and with none. The loss is that of training, of the averaged
weights. A network that follows its conditions is worse with those of others than with none; one
that ignores them is not. A Markdown table goes to stdout; +- is the standard error of the
difference to the first row.
"""

from jaxvid import start

if __name__ == "__main__":
    start.begin()

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from benchmarks.training import unseen
from jaxvid import config as configs
from jaxvid import errors
from jaxvid.conditions.condition import null, prepare
from jaxvid.errors import InputError
from jaxvid.trained import load
from jaxvid.training.step import draw_examples, loss_by_noise

WORKDIR = flags.DEFINE_string("workdir", None, "A run's work directory.", required=True)
CLIPS = flags.DEFINE_integer("clips", 256, "Unseen clips.", lower_bound=12)
PARTS = 6  # the error is that of their means


def main(_: Sequence[str]) -> None:
    model = load(WORKDIR.value)
    config, conditions = model.run.config.copy_and_resolve_references(), model.run.conditions
    if not conditions:
        raise InputError(f"--workdir={WORKDIR.value}: the network has no conditions")
    clips = CLIPS.value // PARTS

    @jax.jit
    def losses(params: Any, batch: Any, key: jax.Array) -> tuple[jax.Array, ...]:
        given = prepare(conditions, batch["given"], key, training=True)
        others = jax.tree.map(lambda x: jnp.roll(x, 1, axis=0), given)
        examples = draw_examples(config, model.run.denoiser, batch, key)
        found = []
        for each in (given, others, null(conditions, given)):
            sums, counts = loss_by_noise(
                config, model.run.denoiser, params, examples.replace(given=each)
            )
            found.append(sums.sum() / counts.sum())
        return tuple(found)

    with jax.set_mesh(model.run.mesh):
        rows = [
            losses(model.params, unseen(config, clips, i), jax.random.key(i)) for i in range(PARTS)
        ]
    found = np.array(rows)
    differences = found - found[:, :1]
    error = differences.std(axis=0, ddof=1) / PARTS**0.5
    print("| conditions | loss | more than with its own |\n|---|---|---|")
    for name, value, more, e in zip(
        ("its own", "another clip's", "none"),
        found.mean(axis=0), differences.mean(axis=0), error, strict=True,
    ):  # fmt: skip
        print(f"| {name} | {value:.4f} | {more:.4f} +- {e:.4f} |")


if __name__ == "__main__":
    errors.run(main, configs.parse_flags)
