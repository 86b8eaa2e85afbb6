#!/usr/bin/env python3
"""Runs a training on TPU slices of Google Kubernetes Engine.

    launch/gke.py run --name=latte --topology=v5e:4x4 --image=REGISTRY/jaxvid:1 \\
        --config=configs/latte.py:XL/2 --workdir=gs://BUCKET/latte

run     starts a command on all hosts of all slices
render  prints the JobSet that run applies
logs    follows what the first host prints
status  the state of the JobSet and of its pods
delete  asks the run to save and end, and deletes the JobSet

The command is what follows `--`; without a program, and from --config= on, these are flags of
jaxvid.train. Give it a --workdir=gs://…: a run that is started again resumes from there. kubectl
must know the cluster, and the cluster JobSet; with --xpk and --cluster, xpk finds both.
"""

import json
import shlex
import string
import sys
from pathlib import Path

from shared import STOPPED, Failed, Shell, at_least, joined, name, parser, refuse, split, tpu


def main() -> None:
    own, command = split(sys.argv[1:])
    options = parser(__doc__)
    actions = ["run", "render", "logs", "status", "delete"]
    options.add_argument("action", choices=actions, metavar="action", help=", ".join(actions))
    options.add_argument("--name", required=True, type=name)
    options.add_argument("--namespace", default="default", type=name)
    options.add_argument("--topology", type=tpu, help="of a slice: v5e:4x4, v5p:4x4x8, …")
    options.add_argument("--slices", type=at_least(1), default=1, help="connected by DCN (1)")
    options.add_argument("--image", help="with jaxvid and jax[tpu]; see launch/Dockerfile")
    options.add_argument("--spot", action="store_true")
    options.add_argument("--restarts", type=at_least(0), default=10, help="of a failed run (10)")
    options.add_argument("--grace", type=at_least(1), default=120, help="seconds to save in (120)")
    options.add_argument("--service-account", default="default", help="which may use the bucket")
    options.add_argument("--xpk", action="store_true", help="by xpk, in place of kubectl")
    for flag in ("--cluster", "--project", "--zone"):
        options.add_argument(flag, help="for xpk")
    flags = options.parse_args(own)
    if flags.action in ("run", "render"):
        for flag in ("topology", "image"):
            if not getattr(flags, flag):
                refuse(f"{flags.action} needs --{flag}=…")
        if not command:
            refuse(f"{flags.action} needs a command after --, or flags of jaxvid.train")
    if flags.xpk and not (flags.cluster and flags.project and flags.zone):
        refuse("--xpk needs --cluster=…, --project=… and --zone=…")
    if flags.xpk and flags.action not in ("run", "delete"):
        refuse(f"--xpk is for run and delete; {flags.action} works without it")

    command = joined(command, "auto")
    if flags.action == "render":
        print(render(flags, command), end="")
        return
    shell = Shell(flags.dry_run)
    try:
        act(flags, shell, command) if not flags.xpk else by_xpk(flags, shell, command)
    except Failed as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


def render(flags, command: list[str]) -> str:
    """The JobSet as YAML, of which JSON is a part: so values are quoted."""
    slice_ = flags.topology
    command = [word.replace("$", "$$") for word in command]  # Kubernetes expands $(NAME)
    nodes = {
        "cloud.google.com/gke-tpu-accelerator": slice_.node,
        "cloud.google.com/gke-tpu-topology": slice_.topology,
    }
    if flags.spot:
        nodes["cloud.google.com/gke-spot"] = "true"
    values = {
        "name": flags.name, "namespace": flags.namespace, "restarts": flags.restarts,
        "slices": flags.slices, "hosts": slice_.hosts, "stopped": STOPPED, "grace": flags.grace,
        "service_account": flags.service_account, "nodes": nodes, "image": flags.image,
        "command": command, "chips": slice_.chips // slice_.hosts,
    }  # fmt: skip
    template = string.Template((Path(__file__).parent / "jobset.yaml").read_text())
    return template.substitute({key: json.dumps(value) for key, value in values.items()})


def act(flags, shell: Shell, command: list[str]) -> None:
    kubectl = "kubectl", f"--namespace={flags.namespace}"
    shell.need("kubectl", "gcloud components install kubectl")
    pods = f"--selector=jobset.sigs.k8s.io/jobset-name={flags.name}"
    if flags.action == "run":
        remedy = "run `gcloud container clusters get-credentials`, and install JobSet there"
        shell.check(remedy, *kubectl, "auth", "can-i", "create", "jobsets.jobset.x-k8s.io")
        found = shell.ask(
            *kubectl, "get", "jobset", flags.name, "--ignore-not-found",
            "--output=jsonpath={.metadata.name} {.status.terminalState}",
        )  # fmt: skip
        if found:
            state = found.partition(" ")[2] or "running"
            raise Failed(f"{flags.name} is there already: {state}; follow its logs, or delete it")
        shell.run(*kubectl, "apply", "--filename=-", stdin=render(flags, command))
    elif flags.action == "logs":
        first = "jobset.sigs.k8s.io/job-index=0,batch.kubernetes.io/job-completion-index=0"
        shell.run(*kubectl, "logs", "--follow", "--tail=100", f"{pods},{first}")
    elif flags.action == "status":
        shell.run(*kubectl, "get", "jobset", flags.name, "--ignore-not-found")
        shell.run(*kubectl, "get", "pods", pods, "--output=wide")
    elif flags.action == "delete":
        shell.run(*kubectl, "delete", "jobset", flags.name, "--ignore-not-found")


def by_xpk(flags, shell: Shell, command: list[str]) -> None:
    shell.need("xpk", "pip install xpk")
    place = f"--cluster={flags.cluster}", f"--project={flags.project}", f"--zone={flags.zone}"
    if flags.action == "delete":
        shell.run("xpk", "workload", "delete", f"--workload={flags.name}", *place, "--force")
        return
    slice_ = flags.topology
    kind = slice_.accelerator_type.rpartition("-")[0]
    shell.run(
        "xpk", "workload", "create", f"--workload={flags.name}", *place,
        f"--tpu-type={kind}-{slice_.topology}", f"--num-slices={flags.slices}",
        f"--docker-image={flags.image}", f"--max-restarts={flags.restarts}",
        f"--termination-grace-period-seconds={flags.grace}", *["--spot"] * flags.spot,
        f"--command={shlex.join(command)}",
    )  # fmt: skip


if __name__ == "__main__":
    main()
