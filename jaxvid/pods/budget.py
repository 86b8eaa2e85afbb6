"""What a program takes of a pod, found by compiling it: memory, transfers, and the least time."""

import dataclasses
import re
import time
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from jaxvid import config as configs
from jaxvid.build import Run, build, check_training
from jaxvid.models import flops
from jaxvid.parallel import rules
from jaxvid.parallel.chips import Chip, GiB
from jaxvid.parallel.collectives import Collective, collectives
from jaxvid.parallel.program import Program, hbm_bytes
from jaxvid.parallel.program import flops as compiled_flops
from jaxvid.sampling.draw import make_sampler

PROGRAMS = ("train", "sample")


@dataclasses.dataclass(frozen=True)
class Budget:
    """What a program takes. All of it, but for `flops`, is that of one device.

    Attributes:
      mesh: sizes of its axes.
      clips: of a step of training, or of a call of the sampler.
      compile_s: seconds to trace and compile.
      memory: bytes by kind; of a program that does not fit, those that are known.
      needs: bytes of memory, of a program that does not fit at the least.
      limit: bytes that the compiler may use; of a program that fits, all of the device.
      fits: whether it fits.
      flops: of the network on all devices, counted in the jaxpr as `models.flops` does.
      compiled_flops: of the compiled program, with what it computes again.
      hbm_bytes: that its operations read and write.
      collectives: by kind and axes of the mesh.
      seconds: that the program needs at the least: for its products, its traffic with the memory
        (`hbm`), and its transfers, one after another, in a slice (`ici`) and between (`dcn`).
      mfu: `flops` by the peak of all devices, in the longest of `seconds`.
    """

    mesh: dict[str, int]
    clips: int
    compile_s: float
    memory: dict[str, int]
    needs: int
    limit: int
    fits: bool
    flops: float = 0.0
    compiled_flops: float = 0.0
    hbm_bytes: int = 0
    collectives: tuple[Collective, ...] = ()
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    mfu: float = 0.0

    @property
    def bound(self) -> str:
        """What takes longest."""
        return max(self.seconds, key=self.seconds.get)

    @property
    def least_s(self) -> float:
        """Seconds that a step needs at the least, if all that can overlap does."""
        return self.seconds[self.bound]

    @property
    def per_clip_s(self) -> float:
        """Seconds that a clip needs at the least."""
        return self.least_s / self.clips

    @property
    def fit(self) -> str:
        """Whether it fits, in words."""
        needs, limit = self.needs / GiB, self.limit / GiB
        return f"{'fits' if self.fits else 'does not fit'}: {needs:.2f} of {limit:.2f} GiB"

    def as_json(self) -> dict[str, Any]:
        """All of it, for a file."""
        more = {"bound": self.bound, "least_s": self.least_s} if self.seconds else {}
        groups = [group._asdict() for group in self.collectives]
        return dataclasses.asdict(self) | {"collectives": groups} | more


def checked(config: ConfigDict, devices: list[jax.Device], program: str) -> Run:
    """The run of a config; raises InputError, before it compiles, if it cannot work."""
    configs.check(config)
    run = build(config, devices)
    if program == "train":
        check_training(run)
    return run


def given(run: Run, program: str) -> dict[str, int]:
    """Bytes of what a program is given, by kind, on one device."""
    if program == "train":
        state = run.state
        trees = {
            "parameters": state.params,
            "averages": (state.ema, state.profiles),
            "optimizer": (state.step, state.opt_state),
        }
    else:
        trees = {"parameters": run.params}
    trees["batch"] = run.batch(*_clips(run, program))
    return {kind: rules.bytes_of_part(tree) for kind, tree in trees.items()}


def measure(run: Run, chip: Chip, program: str) -> Budget:
    """Compiles a program of a run, "train" or "sample", for the devices of its mesh.

    Of buckets, the one with the most tokens counts. What a device cannot even be given is not
    compiled.
    """
    mesh = {axis: size for axis, size in run.mesh.shape.items() if size > 1}
    clips, memory = _clips(run, program)[0], given(run, program)
    known, limit = sum(memory.values()), int(chip.memory / chip.devices)
    if known > limit:
        return Budget(mesh, clips, 0.0, memory, known, limit, fits=False)
    began = time.perf_counter()
    try:
        with jax.set_mesh(run.mesh):
            compiled = _lower(run, program).compile()
    except jax.errors.JaxRuntimeError as error:
        needs, limit = _out_of_memory(error, known, limit)
        seconds = time.perf_counter() - began
        return Budget(mesh, clips, seconds, memory, needs, limit, fits=False)
    seconds = time.perf_counter() - began
    sizes, read = compiled.memory_analysis(), Program(compiled.as_text())
    arguments = sizes.argument_size_in_bytes
    memory |= {
        "padding": max(0, arguments - known),
        "results": sizes.output_size_in_bytes - sizes.alias_size_in_bytes,
        "activations": sizes.temp_size_in_bytes,
        "program": sizes.generated_code_size_in_bytes,
    }
    counted, moved = compiled_flops(read), hbm_bytes(read)
    transfers = tuple(collectives(read, run.mesh))
    model = _model_flops(run, program, clips)
    # The compiler may write small products as sums, which are no faster.
    products = max(counted, model / run.mesh.size)
    least = _least_seconds(chip, products, moved, transfers)
    peak = chip.peak / chip.devices * run.mesh.size
    needs = sum(memory.values())
    return Budget(
        mesh, clips, seconds, memory, needs, limit, needs <= limit, model, counted, moved,
        transfers, least, model / peak / max(least.values()),
    )  # fmt: skip


def _clips(run: Run, program: str) -> tuple[int, ConfigDict]:
    """The clips of a step, or of a call of the sampler that fills the devices, and their data."""
    if program == "train":
        bucket = max(run.buckets, key=lambda bucket: bucket.tokens)
        return bucket.batch_size, bucket.data
    parts, c = rules.batch_parts(run.mesh), run.config.sampler
    return parts * (c.batch_size or -(-c.num // parts)), run.config.data


def _lower(run: Run, program: str) -> jax.stages.Lowered:
    if program == "train":
        batch = run.batch(*_clips(run, program))
        return run.train_step.lower(run.state, batch, run.detail_at(0))
    return _drawing(run).lower(*_call(run))


def _call(run: Run) -> tuple[Any, ...]:
    return run.params, jax.eval_shape(jax.random.key, 0), run.batch(*_clips(run, "sample"))


def _drawing(run: Run, attention: str | None = None) -> Any:
    denoiser = run.denoiser
    if attention:
        denoiser = dataclasses.replace(denoiser, net=denoiser.net.clone(attention=attention))
    draw = make_sampler(run.config, denoiser, run.mesh)
    observed = np.zeros(run.config.data.frames, bool)
    return jax.jit(lambda params, key, clips: draw(params, key, clips, observed))


def _model_flops(run: Run, program: str, clips: int) -> float:
    if program == "train":
        return float(sum(flops.train_flops(*run.network_call(clips)).values()))
    # With plain attention: others compute more than they need.
    with jax.set_mesh(run.mesh):
        jaxpr = jax.make_jaxpr(_drawing(run, "einsum"))(*_call(run)).jaxpr
    return float(flops.count(jaxpr).total())


def _least_seconds(
    chip: Chip, products: float, moved: int, transfers: tuple[Collective, ...]
) -> dict[str, float]:
    """Seconds of a device at the peaks of its chip, which it shares with the chip's others."""
    ici = sum(c.bytes * chip.torus / c.dimensions for c in transfers if c.network == "ICI")
    dcn = sum(c.bytes for c in transfers if c.network == "DCN")
    work = {
        "compute": products / chip.peak,
        "hbm": moved / chip.bandwidth,
        "ici": ici / chip.ici,
        "dcn": dcn / chip.dcn,
    }
    return {name: chip.devices * seconds for name, seconds in work.items()}


def _out_of_memory(error: Exception, known: int, limit: int) -> tuple[int, int]:
    """Bytes that a program needs, and that the compiler may use; raises other errors again.

    Sometimes it tells the sum, sometimes only what comes on top of what the program is given.
    """
    text = " ".join(str(error).split())
    if "RESOURCE_EXHAUSTED" not in text:
        raise error
    if whole := re.search(r"Used ([\d.]+\w?) of ([\d.]+\w?) hbm", text):
        return _bytes(whole[1]), _bytes(whole[2])
    if more := re.search(r"\(([\d.]+\w?)\) exceeds available HBM \(([\d.]+\w?)\)", text):
        return known + _bytes(more[1]), _bytes(more[2])
    return known, limit


def _bytes(text: str) -> int:
    number, unit = re.fullmatch(r"([\d.]+)([KMGT]?)\w*", text).groups()
    return int(float(number) * 1024 ** " KMGT".index(unit or " "))
