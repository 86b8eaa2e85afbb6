"""Train a video diffusion model.

    python -m jaxvid.train --config=configs/base.py [--workdir=DIR] [--config.KEY=VALUE …]

A work directory that holds checkpoints is resumed from the newest. With several processes, each
runs this same command: see `--distributed`.
"""

from jaxvid import start

if __name__ == "__main__":
    start.begin()

import collections
import signal
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from ml_collections import ConfigDict, config_flags

from jaxvid import config as configs
from jaxvid import errors, files
from jaxvid.build import check_labels, check_mesh
from jaxvid.data import pipeline
from jaxvid.data.conditions import check_conditions
from jaxvid.data.sources import make_source
from jaxvid.models.transformer import SpaceTimeTransformer
from jaxvid.parallel import processes, rules
from jaxvid.parallel.mesh import make_mesh
from jaxvid.sampling import draw as sampling
from jaxvid.sampling.tasks import observed_frames
from jaxvid.training import ema
from jaxvid.training.meter import Meter
from jaxvid.training.optimizer import make_optimizer
from jaxvid.training.state import make_init, make_network
from jaxvid.training.step import jit_train_step
from jaxvid.workdir import folder, pictures
from jaxvid.workdir.checkpoint import Checkpoints, Snapshots
from jaxvid.workdir.log import Log

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "File with get_config(), such as configs/base.py."
)
WORKDIR = flags.DEFINE_string("workdir", None, "Where the run lies; by default runs/NAME.")
DISTRIBUTED = flags.DEFINE_string(
    "distributed",
    None,
    "Join other processes: 'auto' on a TPU pod, Slurm or Open MPI; else HOST:PORT,COUNT,INDEX.",
)


def main(_: Sequence[str]) -> None:
    config = configs.from_flag(CONFIG)
    name = Path(config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")[0]).stem
    workdir = files.to_path(WORKDIR.value or f"runs/{name}", "--workdir")
    files.make_folder(workdir, "--workdir")
    if DISTRIBUTED.value:
        processes.join(DISTRIBUTED.value)
    train(config, workdir)


def train(config: ConfigDict, workdir: Path) -> None:
    """Trains from where `workdir` is to `config.steps`; raises InputError for what cannot be."""
    started, lead = time.monotonic(), jax.process_index() == 0

    # Mesh and data. Everything that can be wrong is found before the first compile.
    mesh = make_mesh(config.mesh)
    check_mesh(config, mesh)
    source = make_source(config.data)
    check_labels(config, source.labels)
    check_conditions(source, config.data)
    folder.claim(workdir, config, write=lead)
    dataset = pipeline.make_dataset(
        source,
        config.data,
        seed=config.seed,
        batch_size=config.batch_size,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )

    # Model, optimizer and state.
    net, tx = make_network(config), make_optimizer(config)
    init, abstract = make_init(config, net, tx, mesh)
    train_step = jit_train_step(config, net, tx, abstract)

    with (
        jax.set_mesh(mesh),
        Checkpoints(workdir, config.checkpoint.keep) as checkpoints,
        Snapshots(workdir, config.ema.widths, write=True) as snapshots,
    ):
        # Restore, or begin. All that a step depends on beside the state follows from its number.
        state = checkpoints.restore(abstract)
        begins = "resuming" if state else "starting"
        state = state or init()
        step = int(state.step)
        if ema.is_due(config, step):  # cut off after the checkpoint of the same step
            snapshots.save(step, state.profiles)

        with Log(workdir, config.steps, step, write=lead) as log:
            parameters = sum(x.size for x in jax.tree.leaves(state.params))
            log.say(
                f"{begins} at step {step} of {config.steps} in {workdir}: "
                f"{parameters / 1e6:.2f} M parameters, {mesh.size} x {jax.devices()[0].device_kind}"
            )
            show_samples = _make_show_samples(config, net, mesh, workdir, log)
            window = Meter(step, config.data.max_bad)
            batches = pipeline.batches(dataset, step, config.data)
            stop_asked = _stop_signals()
            batch, stopping = None, False
            in_flight: collections.deque[jax.Array] = collections.deque()

            # In the loop nothing moves between host and devices unless the code says so.
            with jax.transfer_guard("disallow"):
                while step < config.steps and not stopping:
                    # The devices are at the step before while this one's batch is fetched.
                    with window.waiting_for_data(lambda: all(x.is_ready() for x in in_flight)):
                        host_batch = next(batches)
                    window.count_bad(host_batch.pop("bad"), log.say)
                    batch = pipeline.put(host_batch, rules.batch_sharding(mesh))
                    state, metrics = train_step(state, batch)
                    step += 1
                    window.add(metrics)
                    in_flight.append(metrics["loss"])
                    if len(in_flight) > 1:
                        in_flight.popleft().block_until_ready()

                    stopping = stop_asked(step)
                    ends = stopping or step == config.steps
                    saves = ends or step % config.checkpoint.every == 0
                    keeps = ema.is_due(config, step)
                    if saves or keeps or step % config.log.every == 0:
                        # Before the save: it raises if a loss since the last one is not finite.
                        values = window.close(step, config.batch_size)
                        log.metrics(step, values)
                        log.progress(
                            step, values["loss"], values["clips_per_s"], values["data_wait"]
                        )
                    if saves:
                        # Whoever goes on from here does not come past the snapshots before again.
                        snapshots.wait()
                        checkpoints.save(step, state)
                    if keeps:
                        snapshots.save(step, state.profiles)
                    if not ends and config.log.sample_every and not step % config.log.sample_every:
                        show_samples(step, state.ema, batch)
                        window.restart_clock()
            checkpoints.wait()
            snapshots.wait()
            if not stopping:
                if batch is None:  # all steps had been taken before
                    batch = pipeline.put(next(batches), rules.batch_sharding(mesh))
                show_samples(step, state.ema, batch)
            batches.close()
            if lead and (workdir / "metrics.jsonl").stat().st_size:
                pictures.write_loss_curve(workdir / "loss.png", workdir / "metrics.jsonl")
            if stopping:
                log.say(f"stopped by a signal and saved at step {step}; the same command goes on")
            minutes, seconds = divmod(round(time.monotonic() - started), 60)
            log.say(f"{minutes}:{seconds:02d} min; samples, loss.png and checkpoints: {workdir}")


def _make_show_samples(
    config: ConfigDict, net: SpaceTimeTransformer, mesh: Mesh, workdir: Path, log: Log
) -> Callable[[int, Any, dict[str, jax.Array]], None]:
    """A function that draws clips for what is trained, and puts them in `samples/` and the log.

    To generate, classes are asked for in turn; to predict, frames of the newest batch are given.
    Low-resolution video, where there is some, is always that of the newest batch.
    """
    num = config.sampler.num
    blank, key = sampling.blank_clips(config, num, mesh), jax.random.key(config.seed)
    given = {
        task: observed_frames(task, config.data.frames, max(1, config.data.frames // 4))
        for task in ("generate", "predict")
        if config.tasks[task]
    }
    samplers = {
        task: sampling.make_sampler(config, net, mesh, observed) for task, observed in given.items()
    }

    def show(step: int, params: Any, batch: dict[str, jax.Array]) -> None:
        for task, draw in samplers.items():
            clips = batch
            if task == "generate" and not config.data.low_res:
                clips = pipeline.put(blank, rules.batch_sharding(mesh))
            videos = np.asarray(jax.device_get(draw(params, key, clips)))[:num]
            log.videos(step, task, videos, config.data.fps)
            if jax.process_index() == 0:
                folder = workdir / "samples" / f"{step:07d}-{task}"
                sampling.write_samples(folder, videos, config.data.fps, given[task])

    return show


def _stop_signals() -> Callable[[int], bool]:
    """Asks at each step whether a signal to stop has come, with one answer for all processes."""
    if jax.process_count() > 1:
        # SIGTERM to any of them; JAX agrees with the others on a step to stop at.
        return multihost_utils.reached_preemption_sync_point
    came = threading.Event()

    def ask(number: int) -> None:
        if came.is_set():
            start.leave(number)
        came.set()
        start.say("stopping after this step; press again to stop without saving")

    start.on_signal([signal.SIGTERM, signal.SIGINT], ask)
    return lambda step: came.is_set()


if __name__ == "__main__":
    errors.run(main, configs.parse_flags)
