#!/usr/bin/env python3
"""Runs a training on GPUs of a Slurm cluster.

    launch/slurm.py run --name=latte --nodes=2 --gpus=8 --time=24:00:00 \\
        --config=configs/latte.py:XL/2 --workdir=runs/latte

run     submits the job, unless one of this name is queued or runs
logs    follows what the job prints
status  the state of the job
delete  asks the run to save and end, and cancels the job

The command is what follows `--`; without a program, and from --config= on, these are flags of
jaxvid.train. The work directory must be on a file system that all nodes share. When the job's time
is up, or it is preempted, it is queued again and resumes. Run this in the repository, in the Python
environment of the run.
"""

import sys
from pathlib import Path

from shared import Failed, Shell, at_least, joined, parser, refuse, split


def main() -> None:
    own, command = split(sys.argv[1:])
    options = parser(__doc__)
    actions = ["run", "logs", "status", "delete"]
    options.add_argument("action", choices=actions, metavar="action", help=", ".join(actions))
    options.add_argument("--name", required=True)
    options.add_argument("--nodes", type=at_least(1), default=1)
    options.add_argument("--gpus", type=at_least(1), default=8, help="of each node (8)")
    options.add_argument(
        "--process-per", choices=["gpu", "node"], default="gpu", help="gpu (default) or node"
    )
    options.add_argument("--time", default="24:00:00", help="limit of each part (24:00:00)")
    options.add_argument(
        "--sbatch-flag", action="append", default=[], help="a further one, as --partition=…"
    )
    flags = options.parse_args(own)
    if flags.action == "run" and not command:
        refuse("run needs a command after --, or flags of jaxvid.train")
    shell = Shell(flags.dry_run)
    shell.need("sbatch", "run this on a login node of the cluster")
    try:
        act(flags, shell, joined(command, "auto"))
    except Failed as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


def act(flags, shell: Shell, command: list[str]) -> None:
    queue = "squeue", "--me", f"--name={flags.name}"
    if flags.action == "status":
        shell.run(*queue)
        return
    assume = "" if flags.action == "run" else "JOB RUNNING"
    found = shell.ask(*queue, "--noheader", "--format=%A %T", assume=assume)
    job, _, state = found.partition("\n")[0].partition(" ")
    if flags.action == "run":
        if job:
            raise Failed(f"job {job} has this name ({state}): follow its logs, or delete it")
        tasks = flags.gpus if flags.process_per == "gpu" else 1
        shell.run(
            "sbatch", f"--job-name={flags.name}", f"--nodes={flags.nodes}",
            f"--gpus-per-node={flags.gpus}", f"--ntasks-per-node={tasks}", f"--time={flags.time}",
            "--output=jaxvid-%j.log", *flags.sbatch_flag,
            str(Path(__file__).parent.resolve() / "slurm.sbatch"), *command,
        )  # fmt: skip
    elif not job:
        shell.say(f"no job is called {flags.name}")
    elif flags.action == "logs":
        shell.run("tail", "--lines=100", "--follow=name", "--retry", f"jaxvid-{job}.log")
    elif flags.action == "delete":
        # A signal alone lets a run save; a job that waits has nothing to save.
        shell.run("scancel", *["--signal=TERM"] * (state == "RUNNING"), job)


if __name__ == "__main__":
    main()
