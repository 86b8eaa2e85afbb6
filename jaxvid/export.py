"""Write the weights of a run, averaged, and its config as one file.

    python -m jaxvid.export --workdir=runs/base --output=base.safetensors
    python -m jaxvid.export --workdir=runs/base --output=best.safetensors --weights=best

The file stands for the run: draw with `jaxvid.sample --workdir=base.safetensors --output=DIR`,
score it with `jaxvid.evaluate`, and start from it with
`jaxvid.train --config.init_from=base.safetensors`. Other programs read the arrays with the library
safetensors.
"""

from jaxvid import start

if __name__ == "__main__":
    start.begin()

from collections.abc import Sequence

import jax
from absl import flags

from jaxvid import config as configs
from jaxvid import errors, files
from jaxvid.errors import InputError
from jaxvid.trained import load
from jaxvid.workdir import exported, folder

WORKDIR = flags.DEFINE_string("workdir", None, "A run's work directory.")
CHECKPOINT = flags.DEFINE_integer("checkpoint", None, "Its step; by default the newest.")
WEIGHTS = flags.DEFINE_enum(
    "weights", "ema", ["ema", "raw", "best"], "Averaged, raw, or averaged with the best score."
)
EMA_WIDTH = flags.DEFINE_float(
    "ema_width", None, "Relative width of a post-hoc EMA, up to 0.28; by default the plain EMA."
)
OUTPUT = flags.DEFINE_string("output", None, "File, such as base.safetensors.")


def main(_: Sequence[str]) -> None:
    if WORKDIR.value is None or OUTPUT.value is None:
        raise InputError("give --workdir=DIR of a run, and --output=FILE.safetensors")
    workdir, output = (files.to_path(f.value, f"--{f.name}") for f in (WORKDIR, OUTPUT))
    if output.suffix != exported.SUFFIX:
        raise InputError(f"--output={output}: its name must end with {exported.SUFFIX}")
    model = load(
        workdir,
        checkpoint=CHECKPOINT.value,
        weights=WEIGHTS.value,
        ema_width=EMA_WIDTH.value,
    )
    config = folder.load(workdir)
    exported.write(output, model.params, config)
    count = sum(x.size for x in jax.tree.leaves(model.params))
    print(f"{count / 1e6:.2f} M parameters and their config: {output}")


if __name__ == "__main__":
    errors.run(main, configs.parse_flags)
