"""Compare processes, predictions and samplers by the number of network evaluations.

    python -m benchmarks.formulations --config=configs/base.py [--processes=cosine,edm]
        [--predictions=x0,v] [--samplers=ddim,unipc] [--evaluations=4,8,16,32] [--clips=256]
        [--plot=docs/images/formulations.png]

Run it from the repository's root. For each process and prediction it trains the config's network,
from the same initial weights and on the same clips:

- All predictions use the loss of the config, `diffusion.weighting` or `diffusion.loss_space`. So
  the comparison is between predictions, and not between the weightings that often come with them.
- Noise levels have the distribution of the config. The edm process, with its different spacing of
  the levels, has its published distribution ln sigma ~ N(-1.2, 1.2).
- The predictions of the edm process are x0, eps and edm: v is edm without its normalization, and
  velocity is eps times a factor of up to 560. The other processes omit edm, which equals v for data
  of unit variance.

Each sampler draws clips with the averaged weights (EMA), without guidance, from the same noise and
with the same number of network evaluations. heun evaluates the network twice per step, so it takes
half the steps. The drawn clips have the conditions of one set of unseen clips, such as their
labels. They are compared with another set by the energy distance of pixels and of pixel differences
in time and space (jaxvid/metrics/energy.py), in thousandths of the pixel range: a perfect model
scores 0, one that diverged nan. The first row compares the two sets of unseen clips. +- is the
standard error over the clips. All samplers start from the same noise and are compared with the same
clips, so differences between rows are more certain than +- suggests.

Progress goes to stderr, a Markdown table to stdout, row by row. The full comparison takes 20 to 40
minutes on two cores with

    --config=configs/base.py --config.data.size=8 --config.model.patch="(1, 2, 2)"
        --config.model.width=32 --config.model.depth=2 --config.model.unroll=1
        --config.steps=500 --config.batch_size=16
        --config.diffusion.noise_distribution=uniform --clips=128
"""

from jaxvid import start

if __name__ == "__main__":
    start.begin()

import functools
import itertools
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jaxtyping import Array, UInt8
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator
from ml_collections import ConfigDict, config_flags

from benchmarks.training import Trained, energy_score, train, unseen
from jaxvid import config as configs
from jaxvid import errors
from jaxvid.conditions.condition import prepare
from jaxvid.data.pixels import to_uint8
from jaxvid.denoiser import Denoiser
from jaxvid.diffusion import process as processes
from jaxvid.diffusion import sampler, schedule
from jaxvid.diffusion.noise import shift
from jaxvid.errors import InputError
from jaxvid.sampling.draw import time_shift

Clips = UInt8[np.ndarray, "B T H W 3"]
Score = tuple[float, float]
Scores = dict[tuple[str, str, str], list[Score]]

CONFIG = config_flags.DEFINE_config_file("config", None, "File with get_config().")
PROCESSES = flags.DEFINE_list("processes", list(processes.PROCESSES), "Processes to compare.")
PREDICTIONS = flags.DEFINE_list(
    "predictions", list(processes.PREDICTIONS), "Predictions to compare."
)
SAMPLERS = flags.DEFINE_list(
    "samplers", ["euler", "ddim", "heun", "dpmpp_2m", "unipc"], "Samplers to compare."
)
EVALUATIONS = flags.DEFINE_list(
    "evaluations", ["4", "8", "16", "32"], "Network evaluations per clip."
)
CLIPS = flags.DEFINE_integer("clips", 256, "Clips that are drawn and compared.", lower_bound=3)
PLOT = flags.DEFINE_string("plot", None, "PNG file for a plot of the scores.")


def main(_: Sequence[str]) -> None:
    config = configs.from_flag(CONFIG)
    for flag, known in (
        (PROCESSES, processes.PROCESSES),
        (PREDICTIONS, processes.PREDICTIONS),
        (SAMPLERS, sampler.SAMPLERS),
    ):
        for name in flag.value or [""]:
            if name not in known:
                raise InputError(f"--{flag.name}: {name!r} is not one of {', '.join(known)}")
    evaluations = numbers(EVALUATIONS.value, SAMPLERS.value)
    pairs = [pair for pair in itertools.product(PROCESSES.value, PREDICTIONS.value) if fits(*pair)]
    if not pairs:
        raise InputError(
            "--predictions: none of them is compared for these --processes; add another"
        )
    changed = [formulation(config, *pair) for pair in pairs]

    wanted, real = (unseen(config, CLIPS.value, index) for index in range(2))
    score = functools.partial(energy_score, real=np.asarray(real["video"]))
    floor = score(np.asarray(wanted["video"]))
    print("| process | prediction | sampler |", *(f"{n} evaluations |" for n in evaluations))
    print("|---|---|---|" + "---|" * len(evaluations))
    print(row("unseen clips", "", "", [floor] * len(evaluations)), flush=True)

    scores: Scores = {}
    for i, (pair, config) in enumerate(zip(pairs, changed, strict=True)):
        started = time.perf_counter()
        trained = train(config)
        between = time.perf_counter()
        for name in SAMPLERS.value:
            drawn = draw(config, trained, name, evaluations, wanted)
            scores[*pair, name] = [score(clips) for clips in drawn]
            print(row(*pair, name, scores[*pair, name]), flush=True)
        print(
            f"{i + 1} of {len(pairs)}: {', '.join(pair)}: last loss {trained.losses[-1]:.3f}, "
            f"trained in {between - started:.0f} s, drawn in {time.perf_counter() - between:.0f} s",
            file=sys.stderr,
        )
        if PLOT.value:
            plot(scores, evaluations, floor, Path(PLOT.value))


def numbers(texts: Sequence[str], samplers: Iterable[str]) -> list[int]:
    """Parses the numbers of evaluations; raises InputError if a sampler cannot take that many."""
    for name in samplers:
        stages = len(sampler.SAMPLERS[name].steps)
        for text in texts or [""]:
            if not text.isdecimal() or not int(text) or int(text) % stages:
                raise InputError(
                    f"--evaluations: {text!r} must be a positive multiple of {stages}, the "
                    f"evaluations in a step of {name}"
                )
    return sorted(set(map(int, texts)))


def fits(process: str, prediction: str) -> bool:
    """Whether the comparison includes the pair; see above."""
    return prediction not in (("v", "velocity") if process == "edm" else ("edm",))


def formulation(config: ConfigDict, process: str, prediction: str) -> ConfigDict:
    """The config with another process and prediction, checked."""
    config = config.copy_and_resolve_references()
    config.diffusion.update(process=process, prediction=prediction)
    if process == "edm":
        config.diffusion.update(noise_distribution="edm", noise_mean=-1.2, noise_std=1.2)
    configs.check(config)
    return config


def draw(
    config: ConfigDict,
    trained: Trained,
    name: str,
    evaluations: Sequence[int],
    clips: dict[str, Any],
) -> list[Clips]:
    """Clips with the conditions of `clips`, one array for each number of evaluations."""
    T, stages = config.data.frames, len(sampler.SAMPLERS[name].steps)
    process = trained.run.denoiser.process
    sample = jax.jit(make_sample(config, trained.run.denoiser, name))
    drawn = []
    with jax.set_mesh(trained.run.mesh):
        for steps in (n // stages for n in evaluations):
            levels = schedule.ladder(process, steps, config.sampler.spacing)
            levels = shift(levels, time_shift(config))
            # One compiled program for all numbers: the extra rows stay at level 0.
            levels = jnp.pad(levels, (0, max(evaluations) // stages - steps))
            rows = schedule.staggered(levels, np.zeros(T, bool))
            drawn.append(np.asarray(sample(trained.state.ema, rows, clips)))
    return drawn


def make_sample(config: ConfigDict, denoiser: Denoiser, name: str) -> Callable[..., Array]:
    """Makes a function `(params, schedule [rows, T], clips) -> videos uint8`."""

    def sample(params: Any, rows: Array, clips: dict[str, Any]) -> Array:
        eps_key, step_key, given_key = jax.random.split(jax.random.key(config.seed), 3)
        eps = jax.random.normal(eps_key, clips["video"].shape)
        given = prepare(denoiser.conditions, clips["given"], given_key, training=False)

        def x0(x: Array, noise: Array) -> Array:
            def evaluate() -> Array:
                return denoiser.x0({"params": params}, x, noise, clips["time"], given)

            return jax.lax.cond(jnp.any(noise > 0), evaluate, lambda: x)

        start = denoiser.process.sigma(jnp.ones(())) * eps
        return to_uint8(sampler.sample(x0, denoiser.process, start, rows, name, key=step_key))

    return sample


def row(process: str, prediction: str, name: str, scores: Iterable[Score]) -> str:
    cells = (f"{value:.1f} ± {error:.1f}" for value, error in scores)
    return f"| {' | '.join((process, prediction, name, *cells))} |"


def plot(scores: Scores, evaluations: Sequence[int], floor: Score, path: Path) -> None:
    """Plots a column per process.

    The upper row has a line per prediction, with the best sampler at each number of evaluations.
    The lower row has a line per sampler, with the prediction that reaches the lowest score.
    """
    columns, predictions, samplers = (
        list(dict.fromkeys(names)) for names in zip(*scores, strict=True)
    )
    values = {key: np.array([value for value, _ in of_key]) for key, of_key in scores.items()}
    figure = Figure(figsize=(2 + 1.8 * len(columns), 5.5), layout="constrained")
    panels = figure.subplots(2, len(columns), sharex=True, sharey=True, squeeze=False)
    for process, (above, below) in zip(columns, panels.T, strict=True):
        lowest = {
            prediction: np.fmin.reduce([values[process, prediction, name] for name in samplers])
            for prediction in predictions
            if (process, prediction, samplers[0]) in values
        }
        best = min(lowest, key=lambda prediction: np.fmin.reduce([*lowest[prediction], np.inf]))
        for prediction, line in lowest.items():
            above.plot(evaluations, line, **style(predictions, prediction))
        for name in samplers:
            below.plot(evaluations, values[process, best, name], **style(samplers, name))
        above.set_title(process, fontsize="medium")
        below.set_title(f"predicting {best}", fontsize="medium")
    for axes in panels.flat:
        axes.set(xscale="log", yscale="log")
        axes.set_xticks(evaluations, evaluations)
        axes.minorticks_off()
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.axhspan(0, 2 * floor[1], color="0.9")
    panels[0, 0].set_ylim(bottom=1.4 * floor[1])
    for axes, names in zip(panels[:, -1], (predictions, samplers), strict=True):
        handles = [Line2D([], [], label=name, **style(names, name)) for name in names]
        axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1, 1))
    figure.supxlabel("evaluations of the network")
    figure.supylabel("energy distance, thousandths (grey: within error of 0)")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def style(names: Sequence[str], name: str) -> dict[str, str]:
    """Colour and dashes of a line; dashes show equal lines, as euler and ddim of rectified_flow."""
    i = names.index(name)
    return {"color": f"C{i}", "linestyle": ("-", "--", ":")[i % 3], "marker": "."}


if __name__ == "__main__":
    errors.run(main, configs.parse_flags)
