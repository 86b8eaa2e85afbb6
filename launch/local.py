#!/usr/bin/env python3
"""Runs a command in several processes on this machine, as on several hosts.

    launch/local.py --processes=4 --devices=2 --config=configs/base.py --workdir=runs/four
    launch/local.py --processes=2 -- python -m jaxvid.train --config=configs/base.py

Each process has CPU devices of its own, and each of its lines its number. If one process fails, the
others have some time to find out and end. SIGTERM and Ctrl-C go to all processes; after SIGTERM a
run saves and ends. The exit code is that of the first process that failed.
"""

import os
import queue
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading

from shared import at_least, joined, parser, refuse, split


def main() -> int:
    own, command = split(sys.argv[1:])
    options = parser(__doc__)
    options.add_argument("--processes", type=at_least(1), default=2)
    options.add_argument("--devices", type=at_least(1), default=1, help="of each process")
    options.add_argument(
        "--grace", type=float, default=60, help="seconds until the others are killed (60)"
    )
    flags = options.parse_args(own)
    if not command:
        refuse("give a command after --, or flags of jaxvid.train")

    if command[0] == "python":
        command[0] = sys.executable
    devices = "--xla_force_host_platform_device_count="
    others = re.sub(rf"{devices}\S+", "", os.environ.get("XLA_FLAGS", ""))
    environment = {
        "JAX_PLATFORMS": "cpu",
        "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
        "XLA_FLAGS": f"{others} {devices}{flags.devices}".strip(),
    }
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    commands = [
        joined(command, f"{address},{flags.processes},{index}") for index in range(flags.processes)
    ]
    if flags.dry_run:
        for words in commands:
            print(shlex.join(["env", *(f"{k}={v}" for k, v in environment.items()), *words]))
        return 0
    return run(commands, os.environ | environment, flags.grace)


def run(commands: list[list[str]], environment: dict[str, str], grace: float) -> int:
    """Runs all commands at once, and returns the exit code of the first that failed, or 0."""
    try:
        processes = [
            subprocess.Popen(
                words, env=environment, text=True, bufsize=1, errors="replace",
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                start_new_session=True,  # a terminal's Ctrl-C comes once, from here
            )
            for words in commands
        ]  # fmt: skip
    except OSError as error:
        refuse(f"{commands[0][0]}: {error.strerror}")

    def forward(number: int, _: object) -> None:
        for process in processes:
            if process.poll() is None:
                process.send_signal(number)

    signal.signal(signal.SIGTERM, forward)
    signal.signal(signal.SIGINT, forward)
    ended: queue.Queue[int] = queue.Queue()
    for index, process in enumerate(processes):
        threading.Thread(target=follow, args=[index, process, ended]).start()

    def kill() -> None:
        print(f"{grace:g} s after the first failed, the others are killed", flush=True)
        for process in processes:
            process.kill()

    timer, first = threading.Timer(grace, kill), 0
    timer.daemon = True
    for _ in processes:
        code = ended.get()
        if code and not first:
            first = code
            timer.start()
    timer.cancel()
    return first


def follow(index: int, process: subprocess.Popen[str], ended: queue.Queue[int]) -> None:
    """Prints the lines of a process, and then its exit code."""
    for line in process.stdout:
        sys.stdout.write(f"[{index}] {line.rstrip()}\n")
        sys.stdout.flush()
    code = process.wait()
    if code:
        sys.stdout.write(f"[{index}] ended with exit code {code}\n")
        sys.stdout.flush()
    ended.put(code if code >= 0 else 128 - code)


if __name__ == "__main__":
    sys.exit(main())
