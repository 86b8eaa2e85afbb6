"""Measure which metrics notice which faults of videos, on real clips that are damaged on purpose.

    python -m benchmarks.sensitivity [--clips=128] [--size=32] [--metrics=fvd,kvd,motion,…]
        [--faults=blur,noise,…]

Run it from the repository's root. The clips are of the synthetic world, 16 frames of two or three
shapes, which speed up, so that time has a direction. Each set of damaged clips is compared with as
many other clips. A Markdown table goes to stdout: a row for each fault and severity, a column for
each metric, and in each cell the score and, in brackets, by how many standard errors it is worse
than that of undamaged clips. Bold cells are worse by more than 3.
"""

from jaxvid import start

if __name__ == "__main__":
    start.begin()

from collections.abc import Callable, Sequence

import cv2
import jax
import numpy as np
from absl import flags

from jaxvid import config as configs
from jaxvid import errors
from jaxvid.data.sources.synthetic import SyntheticWorld
from jaxvid.errors import InputError
from jaxvid.metrics.metric import FEATURES, METRICS, Clips, Metric
from jaxvid.metrics.score import measure
from jaxvid.parallel.mesh import make_mesh

CLIPS = flags.DEFINE_integer("clips", 128, "Clips of each set.", lower_bound=12)
SIZE = flags.DEFINE_integer("size", 32, "Height and width in pixels.", lower_bound=16)
NAMES = flags.DEFINE_list(
    "metrics",
    ["fvd", "kvd", "precision", "recall", "energy", "motion", "flicker", "warping"],
    "Metrics to measure.",
)
WHICH = flags.DEFINE_list("faults", [], "Faults to make; all by default.")
FRAMES, FPS = 16, 8.0

Fault = Callable[[Clips, float, np.random.Generator], Clips]


def blur(clips: Clips, sigma: float, rng: np.random.Generator) -> Clips:
    """A Gaussian blur, in pixels."""
    frames = clips.reshape(-1, *clips.shape[2:])
    return np.stack([cv2.GaussianBlur(x, (0, 0), sigma) for x in frames]).reshape(clips.shape)


def noise(clips: Clips, std: float, rng: np.random.Generator) -> Clips:
    """Gaussian noise, as a share of the pixel range."""
    noisy = clips + rng.normal(0, 255 * std, clips.shape)
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)


def frozen(clips: Clips, share: float, rng: np.random.Generator) -> Clips:
    """The last frames stand still."""
    last = round((1 - share) * (FRAMES - 1))
    return clips[:, np.minimum(np.arange(FRAMES), last)]


def shuffled(clips: Clips, share: float, rng: np.random.Generator) -> Clips:
    """A share of the frames change places."""
    out = clips.copy()
    for clip in out:
        places = rng.permutation(FRAMES)[: round(share * FRAMES)]
        clip[places] = clip[rng.permutation(places)]
    return out


def flipped_in_time(clips: Clips, share: float, rng: np.random.Generator) -> Clips:
    """A share of the clips run backwards."""
    back = rng.permutation(len(clips))[: round(share * len(clips))]
    out = clips.copy()
    out[back] = out[back, ::-1]
    return out


def dropped(clips: Clips, share: float, rng: np.random.Generator) -> Clips:
    """A share of the frames is replaced by the frame before it."""
    index = np.tile(np.arange(FRAMES), (len(clips), 1))
    index[rng.random(index.shape) < share] -= 1
    return clips[np.arange(len(clips))[:, None], np.maximum(index, 0)]


FAULTS: dict[str, tuple[Fault, tuple[float, ...]]] = {
    "blur": (blur, (0.5, 1, 2)),
    "noise": (noise, (0.02, 0.05, 0.1)),
    "frozen": (frozen, (0.25, 0.5, 1)),
    "dropped": (dropped, (0.1, 0.25, 0.5)),
    "shuffled": (shuffled, (0.25, 0.5, 1)),
    "reversed": (flipped_in_time, (0.25, 0.5, 1)),
}


def main(_: Sequence[str]) -> None:
    for name in NAMES.value:
        if not isinstance(METRICS.get(name), Metric):
            known = ", ".join(n for n, m in METRICS.items() if isinstance(m, Metric))
            raise InputError(f"--metrics: {name!r} is not one of {known}")
    for name in WHICH.value:
        if name not in FAULTS:
            raise InputError(f"--faults: {name!r} is not one of {', '.join(FAULTS)}")
    mesh = make_mesh({"replica": 1, "data": -1, "fsdp": 1, "context": 1, "tensor": 1})
    of = dict.fromkeys(METRICS[name].of for name in NAMES.value)
    extract = {name: FEATURES[name].make(mesh, FPS) for name in of}

    def features(clips: Clips) -> dict[str, np.ndarray]:
        with jax.set_mesh(mesh):
            return {name: function(clips) for name, function in extract.items()}

    clips, real = speeding_up(0, CLIPS.value), features(speeding_up(CLIPS.value, CLIPS.value))
    floors = [score(name, features(clips), real) for name in NAMES.value]
    print("| fault | severity |", *(f"{name} |" for name in NAMES.value))
    print("|---|---|" + "---|" * len(NAMES.value))
    print("| none | |", *(f"{value:.3g} ± {error:.1g} |" for value, error in floors), flush=True)
    for fault in WHICH.value or FAULTS:
        damage, severities = FAULTS[fault]
        for severity in severities:
            damaged = features(damage(clips, severity, np.random.default_rng(0)))
            cells = [
                cell(name, score(name, damaged, real), floor)
                for name, floor in zip(NAMES.value, floors, strict=True)
            ]
            print(f"| {fault} | {severity:g} |", *(f"{text} |" for text in cells), flush=True)


def speeding_up(first: int, clips: int) -> Clips:
    """Clips of the world from number `first` on, whose frames are further and further apart."""
    world = SyntheticWorld(0, 2 * FRAMES - 1, SIZE.value, FPS)
    at = np.rint(2 * (FRAMES - 1) * np.linspace(0, 1, FRAMES) ** 1.5).astype(int)
    return np.stack([world[first + i].decode(at) for i in range(clips)])


def score(
    name: str, drawn: dict[str, np.ndarray], real: dict[str, np.ndarray]
) -> tuple[float, float]:
    """The score in a metric, and its standard error."""
    found = measure(METRICS[name], drawn[METRICS[name].of], real[METRICS[name].of], seed=0)
    return found["value"], found["error"]


def cell(name: str, found: tuple[float, float], floor: tuple[float, float]) -> str:
    """A score, and by how many standard errors it is worse than the floor."""
    worse = (found[0] - floor[0]) / max(np.hypot(found[1], floor[1]), 1e-12)
    if METRICS[name].better == "higher":
        worse = -worse
    elif METRICS[name].better == "real":
        worse = abs(worse)
    text = f"{found[0]:.3g} ({worse:.1f})"
    return f"**{text}**" if worse > 3 else text


if __name__ == "__main__":
    errors.run(main, configs.parse_flags)
