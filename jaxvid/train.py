"""Train a video diffusion model.

    python -m jaxvid.train --config=configs/base.py [--workdir=DIR] [--config.KEY=VALUE …]

If the work directory has checkpoints, training resumes from the newest. With several processes,
run this command in each; see `--distributed`.
"""

from jaxvid import start

if __name__ == "__main__":
    start.begin()

import collections
import contextlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence

import jax
import numpy as np
from absl import flags
from jax.sharding import Mesh
from ml_collections import ConfigDict, config_flags

from jaxvid import config as configs
from jaxvid import errors, files
from jaxvid.actions import make_actions
from jaxvid.build import Run, advice, build, check_training, least_memory
from jaxvid.conditions.condition import check_source
from jaxvid.data import pipeline
from jaxvid.data.buckets import describe_buckets, open_sources, steps_of
from jaxvid.data.sources import Source
from jaxvid.evaluators import Evaluator, make_evaluators
from jaxvid.files import Path
from jaxvid.parallel import hosts, peers
from jaxvid.summary import summary
from jaxvid.training.goodput import Goodput
from jaxvid.training.meter import Meter
from jaxvid.training.state import from_parts, to_parts
from jaxvid.workdir import folder, pictures, starts
from jaxvid.workdir.checkpoint import Best, Checkpoints, Snapshots, start_from
from jaxvid.workdir.disk import make_folder
from jaxvid.workdir.log import Log
from jaxvid.workdir.report import write_report
from jaxvid.workdir.wandb_writer import WandbWriter

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "File with get_config(), such as configs/base.py."
)
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; by default runs/NAME.")
DISTRIBUTED = flags.DEFINE_string(
    "distributed",
    None,
    "Join other processes: 'auto' on a TPU pod, Slurm or Open MPI; else HOST:PORT,COUNT,INDEX.",
)
ACCEPT = flags.DEFINE_bool(
    "accept_changes", False, "Resume although the config or the data differ from the run's."
)
DRY_RUN = flags.DEFINE_bool(
    "dry_run", False, "Only say what the run would be, and write data.png: the first clips."
)
# The exit code of a run that a signal stopped. It tells a scheduler to run the command again.
STOPPED = 128 + signal.SIGTERM


def main(_: Sequence[str]) -> None:
    config = configs.from_flag(CONFIG)
    name = folder.run_name(config_flags.get_config_filename(flags.FLAGS["config"]))
    workdir = files.to_path(WORKDIR.value or f"runs/{name}", "--workdir")
    with peers.joined(DISTRIBUTED.value, saves=True):
        if DRY_RUN.value:
            return dry_run(config, workdir)
        done = train(config, workdir, ACCEPT.value, start.began)
    if not done:
        sys.exit(STOPPED)


def dry_run(config: ConfigDict, workdir: Path) -> None:
    """Says what the run of a config would be, and writes its first clips to `workdir`/data.png.

    Raises InputError as `train` does before its first compile.
    """
    sources, source, validation, run, _ = _opened(config)
    if jax.process_index() == 0:
        print(summary(run, source, validation))
        make_folder(workdir)
        _write_sheet(workdir / "data.png", sources[0], run)
        print(f"data.png: {workdir}; nothing was trained")


def _opened(config: ConfigDict) -> tuple[list[Source], Source, Source, Run, list[Evaluator]]:
    """The sources of each bucket, of all and held out, the run and its evaluators.

    Finds all mistakes of the user that can be found before the first compile.
    """
    sources, source, validation = open_sources(config)
    config.conditions.label.names = tuple(source.labels)  # for `sample --label=NAME`
    run = build(config)
    check_training(run)
    check_source(run.conditions, source)
    return sources, source, validation, run, make_evaluators(run, validation)


def _write_sheet(path: Path, source: Source, run: Run) -> None:
    """Shows the first clips of training; of several buckets, `source` is the first."""
    clips, titles = pipeline.first_clips(source, run.buckets[0].data, run.config.seed, 8)
    pictures.write_png(path, pictures.contact_sheet(clips, titles=titles))


def train(
    config: ConfigDict, workdir: Path, accept: bool = False, began: float | None = None
) -> bool:
    """Trains from the newest checkpoint in `workdir`, or from scratch, to step `config.steps`.

    `began` is when the command started, by `time.monotonic`; by default now. Returns whether it got
    to the last step: a signal may have stopped it.

    Raises InputError if the config, data, devices and work directory do not fit together.
    """
    began, lead = began or time.monotonic(), jax.process_index() == 0

    sources, source, validation, run, evaluators = _opened(config)
    of_buckets = [
        pipeline.make_dataset(
            of_bucket,
            bucket.data,
            run.encode,
            seed=config.seed,
            batch_size=bucket.batch_size,
            share=run.share,
            by_kind=bool(run.details),
            scenes=config.data.render_on_device,
        )
        for of_bucket, bucket in zip(sources, run.buckets, strict=True)
    ]
    dataset = of_buckets[0]
    if config.data.buckets:
        steps = steps_of(run.buckets, sources)
        dataset = pipeline.mix(of_buckets, steps, source.starts)

    with (
        Goodput(began) as goodput,
        jax.set_mesh(run.mesh),
        folder.lock(workdir),
        Checkpoints(workdir, config.checkpoint.keep) as checkpoints,
        Snapshots(workdir, config.ema.widths, config.ema.snapshot_dtype) as snapshots,
        Best(workdir, write=True) as best,
        peers.sharing_fate(),
    ):
        notes = folder.claim(workdir, config, lead, source.fingerprint, accept)
        if lead:
            memory = least_memory(run) / 1e6
            print(f"a step needs at least {memory:.0f} MB of memory per device", flush=True)
            if not (sheet := workdir / "data.png").exists():
                _write_sheet(sheet, sources[0], run)
        # Four ways to start. Besides the state, a step depends only on its number.
        # 1. Resume: `workdir` has a checkpoint. 2. Extend: it has one, and `steps` is larger now.
        # 3. Fine-tune: start from the averaged weights of the run `init_from`, where they fit.
        # 4. From scratch.
        if parts := checkpoints.restore(to_parts(run.state)):
            begins, state = "resuming", from_parts(parts)
        elif config.init_from:
            origin = files.to_path(config.init_from, "--config.init_from")
            params, taken = start_from(origin, run.init().params)
            begins, state = "fine-tuning", run.init(params)
            notes.append(f"from {config.init_from}: {taken}")
        else:
            begins, state = "starting", run.init()
        step = int(state.step)
        if lead:
            starts.add(workdir, step)
        if (curves := workdir / "metrics.jsonl").exists():
            goodput.add_earlier(step, pictures.read_metrics(curves))

        mirror = WandbWriter(config, workdir) if lead and config.log.wandb else None
        with (
            mirror or contextlib.nullcontext(),
            Log(workdir, config.steps, step, goodput.values(), write=lead, also=mirror) as log,
        ):
            parameters = sum(x.size for x in jax.tree.leaves(state.params))
            log.say(
                f"{begins} at step {step} of {config.steps} in {workdir}: "
                f"{parameters / 1e6:.2f} M parameters, {run.mesh.size} x "
                f"{jax.devices()[0].device_kind}"
            )
            log.say(f"{len(source)} clips to train on, {len(validation)} held out for validation")
            if config.data.buckets:
                for line in describe_buckets(run.buckets, sources):
                    log.say(line)
            for line in notes + advice(config):
                log.say(line)
            actions = make_actions(
                run, validation or sources[0], evaluators, workdir, snapshots, best, log
            )
            if step:  # repeat the actions of this step, which may have been interrupted
                with goodput.on("actions"):
                    for action in actions:
                        if action.due(step):
                            action.act(step, state)
            meter = Meter(step, config.data.max_bad, run.metrics_of, goodput)
            batches = pipeline.batches(dataset, step, config.data)
            should_stop = _stop_signals(run.mesh)
            stopping = False
            in_flight: collections.deque[jax.Array] = collections.deque()
            bad: list[np.ndarray] = []
            goodput.begin_steps()

            while step < config.steps and not stopping:
                # The devices still run the previous step while the host fetches the next batch.
                with meter.waiting_for_data(lambda: all(x.is_ready() for x in in_flight)):
                    host_batch = next(batches)
                bad.append(host_batch["bad"])
                # The guard rejects implicit transfers between host and devices.
                of_profile = jax.profiler.StepTraceAnnotation("train", step_num=step + 1)
                with of_profile, jax.transfer_guard("disallow"):
                    batch = run.put(host_batch)
                    state, metrics = run.train_step(state, batch, run.detail_at(step))
                step += 1
                meter.add(metrics, len(batch["time"]))
                in_flight.append(metrics)
                if len(in_flight) > 1:
                    in_flight.popleft().block_until_ready()

                stopping = should_stop()
                saves = stopping or step == config.steps or step % config.checkpoint.every == 0
                due = [] if stopping else [action for action in actions if action.due(step)]
                if saves or due or step % config.log.every == 0:
                    # Before saving, because these raise if too many records are bad, or if a recent
                    # loss is not finite.
                    meter.count_bad(hosts.union(bad), log.say, getattr(source, "name_of", int))
                    bad.clear()
                    values = meter.close(step)
                    log.metrics(step, values)
                    log.progress(step, values["loss"], values["clips_per_s"], values["data_wait"])
                if saves:
                    with goodput.on("checkpoint"):
                        # A run that resumes here will not write these again.
                        snapshots.wait()
                        log.sync()
                        checkpoints.save(step, to_parts(state))
                with goodput.on("actions"):
                    for action in due:
                        action.act(step, state)
                if due:
                    meter.restart_clock()
            with goodput.on("checkpoint"):
                checkpoints.wait()
                snapshots.wait()
                best.wait()
            log.say(goodput.summary())
            batches.close()
            log.sync()
            if lead and files.size_of(curves):
                pictures.write_loss_curve(workdir / "loss.png", curves)
                pictures.write_score_curves(workdir / "scores.png", curves)
                write_report(workdir / "report.html", [workdir])
            if stopping:
                log.say(
                    f"stopped by a signal and saved at step {step}; run the same command to resume"
                )
            minutes, seconds = divmod(round(time.monotonic() - began), 60)
            log.say(f"{minutes}:{seconds:02d} min; report.html, samples and checkpoints: {workdir}")
    return step >= config.steps


def _stop_signals(mesh: Mesh) -> Callable[[], bool]:
    """Returns a function that tells whether to stop after a step, the same in all processes.

    Several agree after each step, without waiting: they stop one step after they were asked to.
    """
    came = threading.Event()

    def ask(number: int) -> None:
        if came.is_set() and number == signal.SIGINT:
            peers.leave(number)
        came.set()
        start.say("stopping after this step; press Ctrl-C again to stop without saving")

    start.on_signal([signal.SIGTERM, signal.SIGINT], ask)
    if jax.process_count() == 1:
        return came.is_set
    any_host, answers = hosts.any_host(mesh), collections.deque([False])

    def agreed() -> bool:
        answers.append(any_host(came.is_set()))
        return bool(answers.popleft())

    return agreed


if __name__ == "__main__":
    errors.run(main, configs.parse_flags)
