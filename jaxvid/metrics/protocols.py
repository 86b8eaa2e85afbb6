"""Protocols: named and versioned choices that make scores comparable.

The Fréchet video distance of one model can double with another frame stride, split or number of
clips. So a score is always that of a protocol, and says so. A protocol with another number is
another protocol: increase `version` when a choice changes.
"""

import dataclasses

from jaxvid.errors import InputError
from jaxvid.metrics.metric import FEATURES, METRICS, Metric, Paired


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How clips are drawn and what they are compared with.

    Attributes:
      name: its name in `PROTOCOLS`.
      metrics: names of the metrics.
      clips: number of drawn clips, and of real clips.
      frames: frames of a clip; 0 for those of a training clip. A model that was trained on shorter
        clips draws window by window.
      stride: frames of the data from a frame of a real clip to the next.
      split: split of the real clips, "train" or "validation".
      per_video: whether they are clips of different videos: one of each, chosen by the seed.
      task: what is drawn, see `sampling.tasks`; "generate" observes no frames of the real clips.
      observed: frames that the task observes; 0 for a quarter of a training clip.
      samples: predictions of each clip, of which metrics of pairs take the best.
      window: frames of the windows of a long clip, each of which is compared with real clips of
        this length; 0 for the whole clip.
      plan: order of the calls of a long clip, see `hierarchy.plan`; "" for that of the model.
      seed: seed of the choice of real clips and of all noise.
      version: increases when a choice changes.
      wanted: number of clips of the unchanged protocol, if this one has another.
    """

    name: str
    metrics: tuple[str, ...]
    clips: int
    frames: int = 0
    stride: int = 1
    split: str = "validation"
    per_video: bool = False
    task: str = "generate"
    observed: int = 0
    samples: int = 1
    window: int = 0
    plan: str = ""
    seed: int = 0
    version: int = 1
    wanted: int = 0

    @property
    def label(self) -> str:
        """Name, version and plan, and a warning if it has other numbers than its name promises."""
        label = f"{self.name}-v{self.version}" + f" by {self.plan}" * bool(self.plan)
        return f"{label} with {self.clips} of {self.wanted} clips" if self.wanted else label

    @property
    def clips_of(self) -> tuple:
        """All that determines its clips."""
        return tuple(
            getattr(self, name)
            for name in ("clips", "frames", "stride", "split", "per_video", "task", "observed",
                         "samples", "window", "plan", "seed")
        )  # fmt: skip

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the features of its metrics."""
        metrics = [METRICS[name] for name in self.metrics]
        return tuple(dict.fromkeys(m.of for m in metrics if isinstance(m, Metric)))

    @property
    def pairs(self) -> tuple[str, ...]:
        """Names of its metrics of pairs."""
        return tuple(name for name in self.metrics if isinstance(METRICS[name], Paired))

    def check(self, frames: int, size: int) -> None:
        """Raises InputError if clips of so many frames or pixels are too small for a metric."""
        for name in self.features:
            fewest = FEATURES[name].frames
            if frames < fewest:
                raise InputError(
                    f"the feature {name} needs clips of at least {fewest} frames, not {frames}: "
                    "choose a protocol with longer clips, or other metrics"
                )
        for name in self.pairs:
            if size < METRICS[name].size:
                raise InputError(
                    f"the metric {name} needs frames of at least {METRICS[name].size} pixels, not "
                    f"{size}: choose other metrics"
                )


FEWEST = 12  # clips: each has five neighbours in either half
I3D = ("fvd", "kvd", "precision", "recall", "density", "coverage")
MOTION = ("motion", "flicker", "warping")
PROTOCOLS: dict[str, Protocol] = {}


def protocol(new: Protocol) -> Protocol:
    """Registers a protocol by its name."""
    PROTOCOLS[new.name] = new
    return new


# Clips of the length that was trained, and nothing to install.
protocol(Protocol("quick", ("energy", *MOTION), clips=256))
# As StyleGAN-V (Skorokhodov et al. 2022, arXiv 2112.14683) computes it.
protocol(
    Protocol("fvd2048_16f", I3D, clips=2048, frames=16, split="train", per_video=True, version=2)
)
protocol(Protocol("fvd256_16f", I3D + MOTION, clips=256, frames=16))
# The laws of the synthetic world.
WORLD = ("world_count", "world_identity", "world_path", "world_speed")
protocol(Protocol("world", WORLD, clips=256))

# Videos that go on: is the last window as good as the first?
protocol(Protocol("long", ("fvd", "kvd", *MOTION), clips=256, frames=64, window=16))
# The rest of a clip from its first quarter, the best of four predictions.
protocol(Protocol("predict", ("psnr", "ssim"), clips=256, task="predict", samples=4))


def choose(name: str, clips: int = 0, metrics: tuple[str, ...] = (), plan: str = "") -> Protocol:
    """A registered protocol, with another number of clips (0: its own), other metrics or a plan.

    Raises InputError, which names what can be chosen, for another name or number.
    """
    if 0 < clips < FEWEST:
        raise InputError(f"{clips} clips are too few for a score and its error: {FEWEST} or more")
    for names, known in (((name,), PROTOCOLS), (metrics, METRICS)):
        if wrong := set(names) - known.keys():
            raise InputError(f"{min(wrong)!r} is not one of {', '.join(known)}")
    found = PROTOCOLS[name]
    if metrics:
        found = dataclasses.replace(found, metrics=tuple(metrics))
    if plan:
        found = dataclasses.replace(found, plan=plan)
    if clips and clips != found.clips:
        found = dataclasses.replace(found, clips=clips, wanted=found.clips)
    if found.pairs and found.task == "generate":
        raise InputError(
            f"{', '.join(found.pairs)} compare predictions with true frames: choose a protocol "
            "that predicts, such as predict"
        )
    return found
