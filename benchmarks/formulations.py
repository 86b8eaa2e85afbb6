"""Compare processes, predictions and samplers by how many times the network is asked.

    python -m benchmarks.formulations --config=configs/base.py [--processes=cosine,edm]
        [--predictions=x0,v] [--samplers=ddim,unipc] [--evaluations=4,8,16,32] [--clips=256]
        [--plot=docs/images/formulations.png]

Run it from the repository's root. For each process and prediction the config's network is trained,
from the same weights on the same clips; what differs beside is told here:

- The loss is the config's, `diffusion.weighting` or the space `diffusion.loss_space`, whatever is
  predicted: so predictions are compared, not the weightings that often come with them.
- Noise levels are drawn as the config says, but for the edm process, whose levels are spaced
  otherwise: with its published ln sigma ~ N(-1.2, 1.2).
- Of the edm process, x0, eps and edm are compared: v is edm without its normalization, and velocity
  is eps, times up to 560. Elsewhere there is no edm, which is v for a unit variance of the data.

With its average (EMA), without guidance, each sampler draws clips from the same noise in as many
evaluations of the network: heun asks it twice a step, so it takes half the steps. They are asked
for what one set of unseen clips shows (labels and whatever else the config conditions on) and
compared with another by the energy distance of pixels, of their differences in time, and of those
in space (see energy.py), in thousandths of a pixel's range: 0 is a perfect model, and nan one that
diverged. The first row has the one set of unseen clips for those drawn. +- is the standard error
over the clips; as all are drawn from the same noise and compared with the same clips, differences
are surer than it says.

Progress goes to stderr; to stdout a table in Markdown, each row as soon as it is known. All of it
takes 20 to 40 minutes on two cores with

    --config=configs/base.py --config.data.size=8 --config.model.width=32 --config.model.depth=2
        --config.model.unroll=1 --config.steps=500 --config.batch_size=16
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
from jaxtyping import Array, Float
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator
from ml_collections import ConfigDict, config_flags

from benchmarks.energy import VIEWS, energy_distance
from benchmarks.training import Trained, train, unseen
from jaxvid import config as configs
from jaxvid import errors
from jaxvid.data.pixels import to_condition
from jaxvid.diffusion import process, sampler, schedule
from jaxvid.diffusion.noise import shift
from jaxvid.errors import InputError
from jaxvid.training.step import time_shift

Clips = Float[np.ndarray, "B T H W 3"]
Score = tuple[float, float]
Scores = dict[tuple[str, str, str], list[Score]]

CONFIG = config_flags.DEFINE_config_file("config", None, "File with get_config().")
PROCESSES = flags.DEFINE_list("processes", list(process.PROCESSES), "Those to compare.")
PREDICTIONS = flags.DEFINE_list("predictions", list(process.PREDICTIONS), "Those to compare.")
SAMPLERS = flags.DEFINE_list(
    "samplers", ["euler", "ddim", "heun", "dpmpp_2m", "unipc"], "Those to compare."
)
EVALUATIONS = flags.DEFINE_list(
    "evaluations", ["4", "8", "16", "32"], "How often a sampler asks the network."
)
CLIPS = flags.DEFINE_integer("clips", 256, "Clips that are drawn and compared.", lower_bound=3)
PLOT = flags.DEFINE_string("plot", None, "Where to draw the scores, a PNG.")


def main(_: Sequence[str]) -> None:
    config = configs.from_flag(CONFIG)
    for flag, known in (
        (PROCESSES, process.PROCESSES),
        (PREDICTIONS, process.PREDICTIONS),
        (SAMPLERS, sampler.SAMPLERS),
    ):
        for name in flag.value or [""]:
            if name not in known:
                raise InputError(f"--{flag.name}: {name!r} is not one of {', '.join(known)}")
    evaluations = numbers(EVALUATIONS.value, SAMPLERS.value)
    pairs = [pair for pair in itertools.product(PROCESSES.value, PREDICTIONS.value) if fits(*pair)]
    if not pairs:
        raise InputError("--predictions: none of them is compared for these --processes")
    changed = [formulation(config, *pair) for pair in pairs]

    wanted, real = (unseen(config, CLIPS.value, index) for index in range(2))
    score = functools.partial(compare, np.asarray(real["video"]) / 255)
    floor = score(np.asarray(wanted["video"]) / 255)
    print("| process | prediction | sampler |", *(f"{n} evaluations |" for n in evaluations))
    print("|---|---|---|" + "---|" * len(evaluations))
    print(row("unseen clips", "", "", [floor] * len(evaluations)), flush=True)

    scores: Scores = {}
    for i, (pair, config) in enumerate(zip(pairs, changed, strict=True)):
        started = time.perf_counter()
        run = train(config)
        trained = time.perf_counter()
        for name in SAMPLERS.value:
            drawn = draw(config, run, name, evaluations, wanted)
            scores[*pair, name] = [score(clips) for clips in drawn]
            print(row(*pair, name, scores[*pair, name]), flush=True)
        print(
            f"{i + 1} of {len(pairs)}: {', '.join(pair)}: last loss {run.losses[-1]:.3f}, trained "
            f"in {trained - started:.0f} s, drawn in {time.perf_counter() - trained:.0f} s",
            file=sys.stderr,
        )
        if PLOT.value:
            plot(scores, evaluations, floor, Path(PLOT.value))


def numbers(texts: Sequence[str], samplers: Iterable[str]) -> list[int]:
    """The numbers of evaluations; raises InputError where a sampler cannot take that many."""
    for name in samplers:
        stages = len(sampler.SAMPLERS[name].steps)
        for text in texts or [""]:
            if not text.isdecimal() or not int(text) or int(text) % stages:
                raise InputError(
                    f"--evaluations: {text!r} must be a positive multiple of {stages}, what a "
                    f"step of {name} takes"
                )
    return sorted(set(map(int, texts)))


def fits(kind: str, prediction: str) -> bool:
    """Whether the pair is compared: see above."""
    return prediction not in (("v", "velocity") if kind == "edm" else ("edm",))


def formulation(config: ConfigDict, kind: str, prediction: str) -> ConfigDict:
    """The config with another process and prediction, checked."""
    config = config.copy_and_resolve_references()
    config.diffusion.update(process=kind, prediction=prediction)
    if kind == "edm":
        config.diffusion.update(noise_distribution="edm", noise_mean=-1.2, noise_std=1.2)
    configs.check(config)
    return config


def compare(real: Clips, clips: Clips) -> Score:
    """The energy distance in thousandths, and its standard error."""
    value, error = energy_distance(clips, real, VIEWS)
    return 1000 * value, 1000 * error


def draw(
    config: ConfigDict,
    run: Trained,
    name: str,
    evaluations: Sequence[int],
    clips: dict[str, Array],
) -> list[Clips]:
    """Clips like `clips` in so many evaluations of the network, an array for each number."""
    kind = process.PROCESSES[config.diffusion.process]
    T, stages = config.data.frames, len(sampler.SAMPLERS[name].steps)
    sample = jax.jit(make_sample(config, run, name))
    drawn = []
    with jax.set_mesh(run.mesh):
        for steps in (n // stages for n in evaluations):
            levels = shift(schedule.ladder(kind, steps, config.sampler.spacing), time_shift(config))
            # One program for all: rows after the last stay at 0, where nothing is left to do.
            levels = jnp.pad(levels, (0, max(evaluations) // stages - steps))
            rows = schedule.staggered(levels, np.zeros(T, bool))
            drawn.append(np.asarray(sample(run.state.ema, rows, clips)))
    return drawn


def make_sample(config: ConfigDict, run: Trained, name: str) -> Callable[..., Array]:
    """`(params, schedule [rows, T], clips) -> pixels in [0, 1]`, rounded as they are saved."""
    kind = process.PROCESSES[config.diffusion.process]

    def sample(params: Any, rows: Array, clips: dict[str, Array]) -> Array:
        eps_key, step_key, low_res_key = jax.random.split(jax.random.key(config.seed), 3)
        eps = jax.random.normal(eps_key, clips["video"].shape)
        level = jnp.full(len(eps), config.sampler.low_res_noise)
        condition = to_condition(config, clips, level, low_res_key)

        def denoise(x: Array, noise: Array) -> Array:
            def ask() -> Array:
                scaled = x * process.input_scale(kind, noise)
                output = run.net.apply({"params": params}, scaled, noise, clips["time"], condition)
                return process.convert(kind, output, x, noise, config.diffusion.prediction, "x0")

            return jax.lax.cond(jnp.any(noise > 0), ask, lambda: x)

        start = kind.sigma(jnp.ones(())) * eps
        x = sampler.sample(denoise, kind, start, rows, name, key=step_key)
        return jnp.clip(jnp.round((x + 1) * 127.5), 0, 255) / 255

    return sample


def row(kind: str, prediction: str, name: str, scores: Iterable[Score]) -> str:
    cells = (f"{value:.1f} ± {error:.1f}" for value, error in scores)
    return f"| {' | '.join((kind, prediction, name, *cells))} |"


def plot(scores: Scores, evaluations: Sequence[int], floor: Score, path: Path) -> None:
    """A column per process. Above, predictions: each with the sampler that is best at that number
    of evaluations. Below, samplers: with the prediction that comes to the lowest score."""
    kinds, predictions, samplers = (
        list(dict.fromkeys(names)) for names in zip(*scores, strict=True)
    )
    values = {key: np.array([value for value, _ in of_key]) for key, of_key in scores.items()}
    figure = Figure(figsize=(2 + 1.8 * len(kinds), 5.5), layout="constrained")
    panels = figure.subplots(2, len(kinds), sharex=True, sharey=True, squeeze=False)
    for kind, (above, below) in zip(kinds, panels.T, strict=True):
        lowest = {
            prediction: np.fmin.reduce([values[kind, prediction, name] for name in samplers])
            for prediction in predictions
            if (kind, prediction, samplers[0]) in values
        }
        best = min(lowest, key=lambda prediction: np.fmin.reduce([*lowest[prediction], np.inf]))
        for prediction, line in lowest.items():
            above.plot(evaluations, line, **style(predictions, prediction))
        for name in samplers:
            below.plot(evaluations, values[kind, best, name], **style(samplers, name))
        above.set_title(kind, fontsize="medium")
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
    """Its colour, and dashes, as some lie on others: ddim is euler for rectified_flow."""
    i = names.index(name)
    return {"color": f"C{i}", "linestyle": ("-", "--", ":")[i % 3], "marker": "."}


if __name__ == "__main__":
    errors.run(main, configs.parse_flags)
