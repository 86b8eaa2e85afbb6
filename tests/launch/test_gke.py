"""launch/gke.py: the JobSet against a schema, and the commands against stand-ins."""

import shlex

import pytest
import yaml

SIZES = "--topology=v6e:16x16", "--slices=2", "--image=gcr.io/p/jaxvid:1", "--spot"
AWKWARD = [
    "--config=configs/latte.py:XL/2", "--workdir=gs://b/it's \"a\": $(HOME) #1",
    "--config.data.strides=(1,)",
]  # fmt: skip

# The part of jobset.x-k8s.io/v1alpha2 and of Kubernetes's pods that the template uses: all keys
# must be there, and no others.
JOBSET = {
    "apiVersion": {"jobset.x-k8s.io/v1alpha2"},
    "kind": {"JobSet"},
    "metadata": {
        "name": str,
        "namespace": str,
        "annotations": {"alpha.jobset.sigs.k8s.io/exclusive-topology": str},
    },
    "spec": {
        "failurePolicy": {
            "maxRestarts": int,
            "rules": [
                {
                    "name": str,
                    "action": {"FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts"},
                    "onJobFailureReasons": [{"BackoffLimitExceeded", "PodFailurePolicy"}],
                }
            ],
        },
        "replicatedJobs": [
            {
                "name": str,
                "replicas": int,
                "template": {
                    "spec": {
                        "parallelism": int,
                        "completions": int,
                        "completionMode": {"Indexed", "NonIndexed"},
                        "backoffLimit": int,
                        "podFailurePolicy": {"rules": list},
                        "template": {
                            "spec": {
                                "restartPolicy": {"Never"},  # for a podFailurePolicy
                                "hostNetwork": bool,
                                "dnsPolicy": {"ClusterFirstWithHostNet"},
                                "serviceAccountName": str,
                                "terminationGracePeriodSeconds": int,
                                "nodeSelector": {
                                    "cloud.google.com/gke-tpu-accelerator": str,
                                    "cloud.google.com/gke-tpu-topology": str,
                                    "cloud.google.com/gke-spot": {"true"},
                                },
                                "tolerations": [{"key": str, "operator": {"Exists", "Equal"}}],
                                "containers": [
                                    {
                                        "name": str,
                                        "image": str,
                                        "command": [str],
                                        "securityContext": {"privileged": bool},
                                        "resources": {
                                            "requests": {"google.com/tpu": int},
                                            "limits": {"google.com/tpu": int},
                                        },
                                        "volumeMounts": [{"name": str, "mountPath": str}],
                                    }
                                ],
                                "volumes": [{"name": str, "emptyDir": {"medium": {"Memory"}}}],
                            }
                        },
                    }
                },
            }
        ],
    },
}


def check(value, schema, path=""):
    if isinstance(schema, dict):
        assert value.keys() == schema.keys(), path
        for key in schema:
            check(value[key], schema[key], f"{path}.{key}")
    elif isinstance(schema, list):
        assert value, path
        for i, item in enumerate(value):
            check(item, schema[0], f"{path}[{i}]")
    elif isinstance(schema, set):
        assert value in schema, path
    else:
        assert type(value) is schema, path


def script(tools, action, *words, **kwargs):
    return tools.run("gke.py", action, "--name=latte", *words, **kwargs)


def test_the_jobset_has_its_schema_and_a_pod_per_host_of_each_slice(tools):
    jobset = yaml.safe_load(script(tools, "render", *SIZES, *AWKWARD))
    check(jobset, JOBSET)
    (slices,) = jobset["spec"]["replicatedJobs"]
    job = slices["template"]["spec"]
    assert (slices["replicas"], job["parallelism"], job["completions"]) == (2, 64, 64)
    pod = job["template"]["spec"]
    (train,) = pod["containers"]
    assert pod["nodeSelector"]["cloud.google.com/gke-tpu-accelerator"] == "tpu-v6e-slice"
    assert pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"] == "16x16"
    assert train["resources"]["limits"] == {"google.com/tpu": 4}
    assert train["volumeMounts"][0]["name"] == pod["volumes"][0]["name"]
    # Kubernetes reads $$ as $, and $(HOME) as a variable.
    words = [word.replace("$$", "$") for word in train["command"]]
    assert words == ["python", "-m", "jaxvid.train", *AWKWARD, "--distributed=auto"]
    assert train["command"][4].count("$") == 2


def test_what_was_asked_to_stop_starts_again_without_end_and_what_failed_ten_times(tools):
    jobset = yaml.safe_load(script(tools, "render", *SIZES, *AWKWARD))
    policy = jobset["spec"]["failurePolicy"]
    assert policy["maxRestarts"] == 10
    assert policy["rules"][0]["action"] == "RestartJobSetAndIgnoreMaxRestarts"
    job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    (drained, stopped) = job["podFailurePolicy"]["rules"]
    assert drained == {"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget"}]}
    container = job["template"]["spec"]["containers"][0]["name"]
    codes = {"containerName": container, "operator": "In", "values": [143]}
    assert stopped == {"action": "FailJob", "onExitCodes": codes}


KUBECTL = """
there = here / "jobset"
if "can-i" in words:
    print("no" if (here / "forbidden").exists() else "yes")
    sys.exit((here / "forbidden").exists())
elif "apply" in words:
    there.write_text(sys.stdin.read())
elif "jobset" in words and there.exists():
    if "get" in words:
        print("latte", end=" ")
    else:
        there.unlink()
"""
CAN = ["auth", "can-i", "create", "jobsets.jobset.x-k8s.io"]
FOUND = [
    "get", "jobset", "latte", "--ignore-not-found",
    "--output=jsonpath={.metadata.name} {.status.terminalState}",
]  # fmt: skip


def test_run_applies_the_jobset_once_and_delete_can_be_repeated(tools):
    tools.add("kubectl", KUBECTL)
    words = "--namespace=team-a", *SIZES, *AWKWARD
    printed = script(tools, "run", *words, "--dry-run")
    assert tools.calls() == []
    script(tools, "run", *words)
    applied = (tools.folder / "jobset").read_text()
    assert applied == script(tools, "render", *words)
    kubectl = ["kubectl", "--namespace=team-a"]
    calls = tools.calls()
    assert calls == [kubectl + rest for rest in (CAN, FOUND, ["apply", "--filename=-"])]
    typed = "".join(line for line in printed.splitlines(True) if line.startswith("kubectl"))
    assert printed == typed + applied
    assert "latte is there already: running; follow" in script(tools, "run", *words, expect=1)
    script(tools, "delete")
    script(tools, "delete")
    assert tools.calls()[-1][2:] == ["delete", "jobset", "latte", "--ignore-not-found"]
    script(tools, "logs")
    first = "jobset.sigs.k8s.io/job-index=0,batch.kubernetes.io/job-completion-index=0"
    pods = f"--selector=jobset.sigs.k8s.io/jobset-name=latte,{first}"
    assert tools.calls()[-1][2:] == ["logs", "--follow", "--tail=100", pods]


def test_the_same_by_xpk(tools):
    tools.add("xpk")
    place = "--cluster=it's", "--project=p", "--zone=us-east5-b"
    script(tools, "run", "--xpk", *place, *SIZES, *AWKWARD)
    script(tools, "delete", "--xpk", *place)
    create, delete = tools.calls()
    command = create.pop()
    assert create == [
        "xpk", "workload", "create", "--workload=latte", *place, "--tpu-type=v6e-16x16",
        "--num-slices=2", "--docker-image=gcr.io/p/jaxvid:1", "--max-restarts=10",
        "--termination-grace-period-seconds=120", "--spot",
    ]  # fmt: skip
    ran = ["python", "-m", "jaxvid.train", *AWKWARD, "--distributed=auto"]
    assert shlex.split(command.removeprefix("--command=")) == ran
    assert delete == ["xpk", "workload", "delete", "--workload=latte", *place, "--force"]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["run", "--image=a", "--config=c"], "run needs --topology=…"),
        (["run", *SIZES], "run needs a command after --"),
        (["render", "--topology=v5p:4x4", "--image=a"], "such as v5e:4x4, v5p:4x4x8"),
        (["logs", "--xpk", "--cluster=c", "--project=p", "--zone=z"], "--xpk is for run and del"),
        (["delete", "--xpk"], "--xpk needs --cluster=…"),
        (["delete", "--xpk", "--cluster=c", "--project=p", "--zone=z"], "xpk is not installed"),
        (["run", *SIZES, "--config=c"], "kubectl is not installed: gcloud components"),
    ],
)
def test_a_mistake_is_one_line_before_anything_runs(words, line, tools):
    assert line in script(tools, *words, expect=2).splitlines()[-1]


def test_a_cluster_that_does_not_know_jobsets_is_refused(tools):
    tools.add("kubectl", KUBECTL)
    (tools.folder / "forbidden").touch()
    said = script(tools, "run", *SIZES, *AWKWARD, expect=2)
    assert said.endswith("get-credentials`, and install JobSet there\n")
    assert len(tools.calls()) == 1
