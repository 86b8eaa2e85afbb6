"""How well videos hold that are drawn window by window, by the noise on the frames seen again.

    python -m benchmarks.rollouts --workdir=runs/base [--levels=0,0.1,0.2] [--frames=128]
        [--overlap=4] [--clips=64] [--steps=16]

Run it from the repository's root. With a run's averaged weights and its own sampler, videos like
unseen clips (labels and captions; actions end with the clips) are drawn for each level of
`sampler.observed_noise`, all from the same noise. Windows of as many frames as the network was
trained on are compared with other unseen clips, as in formulations.py: the energy distance of
pixels and their differences, in thousandths of a pixel's range, where 0 is a perfect model. Where
the videos drift, it rises along the columns, which name the first frame of a window.

To stdout goes a table in Markdown, each row as soon as it is known.
"""

from jaxvid import start

if __name__ == "__main__":
    start.begin()

from collections.abc import Sequence
from pathlib import Path

import jax
from absl import flags

from benchmarks.energy import VIEWS, energy_distance
from benchmarks.training import unseen
from jaxvid import config as configs
from jaxvid import errors
from jaxvid.errors import InputError
from jaxvid.parallel.mesh import make_mesh
from jaxvid.sampling.plans import rollout
from jaxvid.training.optimizer import make_optimizer
from jaxvid.training.state import make_init, make_network
from jaxvid.workdir.checkpoint import Checkpoints

WORKDIR = flags.DEFINE_string("workdir", None, "A run's work directory.", required=True)
LEVELS = flags.DEFINE_list("levels", ["0"], "Levels of the noise on frames seen again.")
FRAMES = flags.DEFINE_integer("frames", 128, "Of the videos.", lower_bound=1)
OVERLAP = flags.DEFINE_integer("overlap", None, "Past frames a window sees; by default half of it.")
CLIPS = flags.DEFINE_integer("clips", 64, "Videos that are drawn and compared.", lower_bound=3)
STEPS = flags.DEFINE_integer("steps", None, "Sampler steps; by default the config's.")


def main(_: Sequence[str]) -> None:
    workdir = Path(WORKDIR.value)
    config = configs.load(workdir)
    with config.unlocked():
        config.sampler.steps = config.sampler.steps if STEPS.value is None else STEPS.value
        changed = [config.copy_and_resolve_references() for _ in LEVELS.value]
    for of_level, level in zip(changed, LEVELS.value, strict=True):
        of_level.sampler.observed_noise = number(level)
        configs.check(of_level)
    T = config.data.frames
    if FRAMES.value < T:
        raise InputError(f"--frames={FRAMES.value}: the network draws {T} at once, ask for more")
    if config.data.low_res:
        raise InputError("data.low_res: videos that follow a low-resolution one do not drift")
    overlap = T // 2 if OVERLAP.value is None else OVERLAP.value
    starts = [start for start in (0, *(T * 2**i for i in range(20))) if start + T <= FRAMES.value]
    starts = sorted({*starts, FRAMES.value - T})

    wanted, real = (jax.device_get(unseen(config, CLIPS.value, index)) for index in range(2))
    real = real["video"] / 255
    mesh, net = make_mesh(config.mesh), make_network(config)
    _, abstract = make_init(config, net, make_optimizer(config), mesh)
    print("| noise |", *(f"frame {start} |" for start in starts))
    print("|---|" + "---|" * len(starts))
    with jax.set_mesh(mesh):
        with Checkpoints(workdir) as checkpoints:
            params = checkpoints.restore_ema(abstract.ema)
        for of_level in changed:
            videos = rollout(
                of_level, net, mesh, params, jax.random.key(0), wanted, 0, FRAMES.value, overlap
            )
            scores = (
                energy_distance(videos[:, start : start + T] / 255, real, VIEWS) for start in starts
            )
            cells = (f"{1000 * value:.1f} ± {1000 * error:.1f}" for value, error in scores)
            print(f"| {of_level.sampler.observed_noise} | {' | '.join(cells)} |", flush=True)


def number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InputError(f"--levels: {text!r} is not a number") from None


if __name__ == "__main__":
    errors.run(main, configs.parse_flags)
