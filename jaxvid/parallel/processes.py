"""Joins the other processes of a run, before JAX initialises its devices."""

import contextlib
import glob
import os
import re
import socket
import threading
import time
import urllib.request
from collections.abc import Mapping

import jax

from jaxvid import start
from jaxvid.errors import InputError

TIMEOUT = 300.0  # seconds: machines of a pod may start minutes apart
SILENT = 45  # seconds after which a process that hangs is given up, with its machine or alone
TPU_CHIPS = "/dev/accel[0-9]*", "/dev/vfio/[0-9]*"


def join(text: str, timeout: float = TIMEOUT) -> None:
    """Joins the processes of `--distributed`; returns when all have joined.

    Args:
      text: "auto" on a TPU pod (Cloud TPU VMs and GKE, one slice or several), Slurm, Open MPI or
        Kubernetes, or else "HOST:PORT,COUNT,INDEX": the host of process 0 and a free port on it,
        the number of processes, and the index of this one, from 0.
      timeout: seconds to wait for the others. After that the process prints an error and ends with
        exit code 1.

    Raises:
      InputError: `text` is invalid, "auto" finds no cluster, the port is in use, or process 0 does
        not answer.
    """
    # JAX has one count of steps for all who ask it whether to stop. Orbax asks about earlier steps
    # than the training, and then the processes stop at different ones and wait for each other.
    jax.config.update("jax_enable_preemption_service", False)
    limits = {
        "initialization_timeout": round(timeout + 60),
        "heartbeat_timeout_seconds": SILENT,
    }
    if text == "auto":
        try:
            with _limit(timeout, "--distributed=auto: the other processes did not join"):
                jax.distributed.initialize(
                    local_device_ids=_gpus(os.environ),
                    cluster_detection_method="mpi4py" if _needs_mpi4py(os.environ) else None,
                    **limits,
                )
        except (ValueError, RuntimeError, ImportError, OSError) as error:
            raise InputError(
                "--distributed=auto: this is not a TPU pod, Slurm job or Open MPI launch "
                f"({' '.join(str(error).split())}); give HOST:PORT,COUNT,INDEX"
            ) from error
        return
    host, port, count, index = _parse(text)
    if index == 0:
        _check_free(text, port)
    else:
        _wait_for_process_0(text, host, port, timeout)
    # JAX would abort with a stack trace, so use a shorter limit.
    with _limit(timeout, f"--distributed={text}: not all of the {count} processes joined"):
        jax.distributed.initialize(f"{host}:{port}", count, index, **limits)


def alone(environment: Mapping[str, str]) -> str | None:
    """A line for a user who forgot `--distributed` where a launcher started several processes."""
    among = [
        (_hosts(environment), "host", "of a TPU pod"),
        (environment.get("SLURM_STEP_NUM_TASKS", 1), "process", "of a Slurm step"),
        (environment.get("OMPI_COMM_WORLD_SIZE", 1), "process", "of an MPI launch"),
    ]
    for count, what, whole in among:
        if int(count) > 1:
            return (
                f"warning: this is one {what} of the {count} {whole}, and it trains without the "
                "others, or waits for them forever; give --distributed=auto"
            )
    return None


def _hosts(environment: Mapping[str, str]) -> int:
    """The hosts of the TPU pod that this one is part of; 1 without TPUs."""
    slices = int(environment.get("MEGASCALE_NUM_SLICES") or 1)
    if names := environment.get("TPU_WORKER_HOSTNAMES"):  # GKE
        return slices * len(names.split(","))
    if not any(map(glob.glob, TPU_CHIPS)):
        return 1
    server = environment.get("GCE_METADATA_IP", "metadata.google.internal")
    request = urllib.request.Request(
        f"http://{server}/computeMetadata/v1/instance/attributes/worker-network-endpoints",
        headers={"Metadata-Flavor": "Google"},
    )
    try:
        with urllib.request.urlopen(request, timeout=2) as answer:
            return slices * len(answer.read().decode().split(","))
    except OSError:  # no Cloud TPU VM
        return 1


def _gpus(environment: Mapping[str, str]) -> list[int] | None:
    """The GPUs of a process of Slurm by their numbers among those it sees; None is JAX's choice.

    JAX takes one GPU, of the process's number on its node. That is wrong for a process that has a
    node to itself, and for one that sees only its own GPUs.
    """
    seen = environment.get("CUDA_VISIBLE_DEVICES", "").split(",")
    tasks, nodes = map(environment.get, ("SLURM_NTASKS", "SLURM_STEP_NUM_NODES"))
    own = len(seen) == 1 or tasks == nodes or "SLURM_GPUS_PER_TASK" in environment
    elsewhere = {"JAX_LOCAL_DEVICE_IDS", "OMPI_COMM_WORLD_SIZE"} & environment.keys()
    return list(range(len(seen))) if tasks and own and seen[0] and not elsewhere else None


def _needs_mpi4py(environment: Mapping[str, str]) -> bool:
    """Whether Open MPI, from version 5 on, does not tell JAX the address of process 0."""
    launched = "OMPI_COMM_WORLD_SIZE" in environment
    return launched and "OMPI_MCA_orte_hnp_uri" not in environment


def _parse(text: str) -> tuple[str, int, int, int]:
    """Host, port, count and index; raises InputError."""
    form = re.fullmatch(r"\[?(?P<host>[^,]+?)\]?:(\d+),(\d+),(\d+)", text)
    if not form:
        raise InputError(
            f"--distributed={text}: give 'auto' or HOST:PORT,COUNT,INDEX, such as "
            "10.0.0.1:1234,2,0: the address of process 0, the number of processes, and the index "
            "of this one"
        )
    host, (port, count, index) = form["host"], map(int, form.groups()[1:])
    if not 0 < port < 65536:
        raise InputError(f"--distributed={text}: the port {port} must be from 1 to 65535")
    if not index < count:
        raise InputError(
            f"--distributed={text}: the index {index} must be below the count {count}; the first "
            "process has index 0"
        )
    try:
        socket.getaddrinfo(host, port)
    except (OSError, UnicodeError) as error:
        raise InputError(f"--distributed={text}: there is no host {host!r} ({error})") from error
    return f"[{host}]" if ":" in host else host, port, count, index


def _check_free(text: str, port: int) -> None:
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind(("", port))
        except OSError as error:
            raise InputError(
                f"--distributed={text}: process 0 cannot use port {port}: {error.strerror}; choose "
                "another for all processes"
            ) from error


def _wait_for_process_0(text: str, host: str, port: int, timeout: float) -> None:
    ends, waited = time.monotonic() + timeout, False
    while True:
        try:
            left = max(0.1, ends - time.monotonic())
            socket.create_connection((host.strip("[]"), port), timeout=left).close()
            return
        except OSError as error:
            if time.monotonic() > ends:
                raise InputError(
                    f"--distributed={text}: process 0 did not answer within {timeout:g} s "
                    f"({error}); is it running at {host}:{port}?"
                ) from error
        if not waited:
            start.say(f"waiting for process 0 at {host}:{port}")
            waited = True
        time.sleep(min(1.0, timeout / 10))


@contextlib.contextmanager
def _limit(timeout: float, line: str):
    """Ends the process with an error if the block takes longer than `timeout`."""

    def end() -> None:
        start.say(f"error: {line} within {timeout:g} s; the command must run once for each index")
        os._exit(1)

    timer = threading.Timer(timeout, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
