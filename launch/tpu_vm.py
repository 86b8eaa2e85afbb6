#!/usr/bin/env python3
"""Runs a training on a Cloud TPU VM pod.

    launch/tpu_vm.py keep --name=latte --project=P --zone=Z --topology=v5e:4x4 --queued --spot \\
        --config=configs/latte.py:XL/2 --workdir=gs://BUCKET/latte

keep    creates, installs and runs, and again after a preemption, until the run has ended
create  creates the pod, at once or, with --queued, when there is room
install copies a revision of this repository to all workers, with all that it needs
run     starts a command on all workers, and returns; refuses while another runs
logs    follows what a worker prints
status  the state of the pod, and of the run on each worker
stop    asks the run to save and end
delete  deletes the pod, and with it what is only there

The command is what follows `--`; without a program, and from --config= on, these are flags of
jaxvid.train. Give it a --workdir=gs://…: a run that is started again resumes from there.
"""

import shlex
import sys
import time
from pathlib import Path

from shared import Failed, Shell, at_least, joined, name, parser, refuse, split, tpu

# By Google's names, of queued resources and of TPU VMs.
LOST = {"SUSPENDED", "FAILED", "PREEMPTED", "TERMINATED"}
READY = {"READY", "ACTIVE"}

# Scripts for bash on each worker, in the home folder. The run, and whatever must not meet one,
# holds the lock, which a process inherits and a crash releases.
LOCK = "mkdir -p jaxvid-run && exec 9>jaxvid-run/lock && flock --nonblock 9"
INSTALL = f"""
if ! {{ {LOCK}; }}; then echo "$(hostname): a run is active: stop it first" >&2; exit 1; fi
set -e
rm -rf jaxvid jaxvid-run/ended jaxvid-run/installed
mkdir jaxvid
tar -xzf jaxvid.tar.gz -C jaxvid
python3 -m pip install --quiet --user uv
python3 -m uv venv --quiet --allow-existing --python=3.12 jaxvid-env
VIRTUAL_ENV=~/jaxvid-env python3 -m uv pip install --quiet \\
    --requirements=jaxvid/requirements.txt 'jax[tpu]' gcsfs
touch jaxvid-run/installed
"""
RUN = f"""
if ! {{ {LOCK}; }}; then echo "$(hostname): a run is active" >&2; exit 1; fi
cd jaxvid || exit 1
export PATH=~/jaxvid-env/bin:"$PATH"
rm -f ~/jaxvid-run/ended
setsid bash -c '"$@" & echo $! >~/jaxvid-run/pid; wait $!; echo $? >~/jaxvid-run/ended' \\
    run COMMAND >>~/jaxvid-run/log 2>&1 </dev/null &
"""
STATUS = f"""
if ! ({LOCK}); then state=running
elif [ -e jaxvid-run/ended ]; then state="ended $(cat jaxvid-run/ended)"
elif [ -e jaxvid-run/installed ]; then state=ready
else state=bare
fi
echo "jaxvid: $(hostname) $state"
"""
STOP = f'({LOCK}) || kill -TERM "$(cat jaxvid-run/pid)"'
LOGS = "tail --lines=100 --follow=name --retry jaxvid-run/log"


class Pod:
    """A TPU VM pod, or several slices of one queued resource."""

    def __init__(self, shell: Shell, flags):
        self.shell, self.flags = shell, flags
        self.kind = "queued-resources" if flags.queued else "tpu-vm"
        # What a dry run takes for granted.
        self.there = flags.action not in ("create", "keep")
        self.run_state = {"keep": "bare", "stop": "running"}.get(flags.action, "ready")

    def words(self, verb: str, *rest: str) -> list[str]:
        place = f"--project={self.flags.project}", f"--zone={self.flags.zone}"
        return ["gcloud", "compute", "tpus", self.kind, verb, *rest, *place, "--quiet"]

    def on(self, workers: str) -> list[str]:
        """Flags for "all" workers, or for one by its number in the first slice."""
        node = "all" if workers == "all" else "0"
        return [
            f"--worker={workers}",
            *[f"--node={node}"] * self.flags.queued,
            *self.flags.ssh_flag,
        ]

    def ssh(self, script: str, workers: str = "all") -> list[str]:
        return [
            *self.words("ssh", self.flags.name),
            *self.on(workers),
            f"--command={script.strip()}",
        ]

    def state(self) -> str:
        """Its state by Google's name, "" if there is none."""
        field = "state.state" if self.flags.queued else "state"
        words = self.words("describe", self.flags.name, f"--format=value({field})")
        return self.shell.ask(*words, assume="READY" * self.there, missing="NOT_FOUND")

    def create(self) -> None:
        flags, slice_ = self.flags, self.flags.topology
        words = [*self.words("create", flags.name), f"--accelerator-type={slice_.accelerator_type}"]
        if flags.queued:
            words += [f"--runtime-version={flags.runtime or slice_.runtime}"]
            one = [f"--node-id={flags.name}"]
            several = [f"--node-count={flags.slices}", f"--node-prefix={flags.name}"]
            words += one if flags.slices == 1 else several
        else:
            words += [f"--version={flags.runtime or slice_.runtime}"]
        self.shell.run(*words, *["--spot"] * flags.spot, *flags.create_flag)
        self.there = True

    def delete(self) -> None:
        force = ["--force"] * self.flags.queued  # the nodes too
        self.shell.run(*self.words("delete", self.flags.name), *force)
        self.there = False

    def install(self) -> None:
        """Copies a revision of this repository, without what is not committed."""
        root, file = (
            Path(__file__).resolve().parents[1],
            Path.home() / ".cache/jaxvid/jaxvid.tar.gz",
        )
        if not self.shell.dry_run:
            file.parent.mkdir(parents=True, exist_ok=True)
        archive = "--format=tar.gz", f"--output={file}", self.flags.revision
        self.shell.run("git", "-C", str(root), "archive", *archive)
        copy = self.words("scp", str(file), f"{self.flags.name}:jaxvid.tar.gz")
        self.shell.run(*copy, *self.on("all"))
        self.shell.run(*self.ssh(INSTALL))
        self.run_state = "ready"

    def start(self, command: list[str]) -> None:
        self.shell.run(*self.ssh(RUN.replace("COMMAND", shlex.join(command))))
        self.run_state = "ended 0"

    def runs(self) -> list[str]:
        """The state of the run on each worker: bare, ready, running or ended CODE."""
        said = self.shell.ask(*self.ssh(STATUS), assume=f"jaxvid: worker {self.run_state}")
        return [line.split(" ", 2)[2] for line in said.splitlines() if line.startswith("jaxvid: ")]


def main() -> None:
    own, command = split(sys.argv[1:])
    options = parser(__doc__)
    actions = ["keep", "create", "install", "run", "logs", "status", "stop", "delete"]
    options.add_argument("action", choices=actions, metavar="action", help=", ".join(actions))
    options.add_argument("--name", required=True, type=name)
    options.add_argument("--project", required=True)
    options.add_argument("--zone", required=True)
    options.add_argument("--topology", type=tpu, help="for keep and create: v5e:4x4, v5p:4x4x8, …")
    options.add_argument("--queued", action="store_true", help="a queued resource, in all actions")
    options.add_argument("--slices", type=at_least(1), default=1, help="connected by DCN (1)")
    options.add_argument("--spot", action="store_true")
    options.add_argument("--runtime", help="another version of the VM's software")
    options.add_argument("--revision", default="HEAD", help="what to install (HEAD)")
    options.add_argument("--restarts", type=at_least(0), default=10, help="of a failed run (10)")
    options.add_argument("--poll", type=float, default=60, help="seconds between looks (60)")
    options.add_argument("--worker", default="0", help="whose logs (0)")
    for verb in ("create", "ssh"):
        text = f"a further flag of gcloud's {verb}, such as --{verb}-flag=--internal-ip"
        options.add_argument(f"--{verb}-flag", action="append", default=[], help=text)
    flags = options.parse_args(own)
    if flags.action in ("keep", "create") and not flags.topology:
        refuse(f"{flags.action} needs --topology, such as --topology=v5e:4x4")
    if flags.action in ("keep", "run") and not command:
        refuse(f"{flags.action} needs a command after --, or flags of jaxvid.train")
    if flags.slices > 1 and not flags.queued:
        refuse("--slices needs --queued: only a queued resource connects slices")
    kept = any(word.startswith("--workdir=gs://") for word in command)
    if flags.action == "keep" and "jaxvid.train" in command and not kept:
        refuse("keep needs --workdir=gs://…: what is on the pod is lost with it")

    shell = Shell(flags.dry_run)
    shell.need("gcloud", "https://cloud.google.com/sdk/docs/install")
    shell.check("run `gcloud auth login`", "gcloud", "auth", "print-access-token")
    try:
        act(flags, Pod(shell, flags), joined(command, "auto"))
    except Failed as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


def act(flags, pod: Pod, command: list[str]) -> None:
    if flags.action == "keep":
        keep(flags, pod, command)
    elif flags.action == "create":
        if state := pod.state():
            pod.shell.say(f"{flags.name} is there already: {state}")
        else:
            pod.create()
    elif flags.action == "install":
        pod.install()
    elif flags.action == "run":
        states = pod.runs()
        if "bare" in states:
            raise Failed("a worker has nothing installed: install first")
        if "running" in states:
            raise Failed("a run is active: logs follows it, stop ends it")
        pod.start(command)
    elif flags.action == "logs":
        pod.shell.run(*pod.ssh(LOGS, flags.worker))
    elif flags.action == "status":
        state = pod.state()
        pod.shell.say(f"{flags.name}: {state or 'not there'}")
        if state in READY:
            pod.shell.say(f"{flags.name}: {summary(pod.runs())}")
    elif flags.action == "stop":
        pod.shell.run(*pod.ssh(STOP))
    elif flags.action == "delete":
        if pod.state():
            pod.delete()
        else:
            pod.shell.say(f"{flags.name} is not there")


def keep(flags, pod: Pod, command: list[str]) -> None:
    """Creates, installs and runs, whichever is next, until the run has ended on all workers."""
    failures, said = 0, ""

    def say(line: str) -> None:
        nonlocal said
        if line != said:
            pod.shell.say(time.strftime("%F %T"), line)
        said = line

    while failures <= flags.restarts:
        try:
            state = pod.state()
            say(f"{flags.name}: {state or 'not there'}")
            if not state:
                pod.create()
            elif state in LOST:
                failures += state == "FAILED"
                pod.delete()
            elif state in READY:
                runs = pod.runs()
                say(f"{flags.name}: {summary(runs)}")
                ends = {run for run in runs if run.startswith("ended")}
                if "running" in runs or not runs:
                    time.sleep(flags.poll)
                elif "bare" in runs:
                    pod.install()
                elif ends == {"ended 0"} and "ready" not in runs:
                    return
                else:
                    failures += bool(ends)
                    if failures <= flags.restarts:
                        pod.start(command)
            else:  # it is being created, or deleted
                time.sleep(flags.poll)
        except Failed as error:  # also what met a preemption, which the next look finds
            say(f"error: {error}")
            failures += 1
            time.sleep(flags.poll)
    raise Failed(f"gave up after {flags.restarts} restarts; logs shows the last run")


def summary(runs: list[str]) -> str:
    """Such as "3 running, 1 ended 1"."""
    return ", ".join(f"{runs.count(run)} {run}" for run in sorted(set(runs)))


if __name__ == "__main__":
    main()
