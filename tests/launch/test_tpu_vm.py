"""launch/tpu_vm.py against a gcloud whose workers are folders here, where scripts really run."""

import json
import shlex
import time

import pytest

POD = "--name=latte", "--project=my-project", "--zone=us-west4-a", "--poll=0.02"
PLACE = [*POD[1:3], "--quiet"]
AWKWARD = [
    "--config=configs/latte.py:XL/2", "--workdir=gs://b/it's \"a\" run $HOME `id`",
    "--config.data.strides=(1,)", "--config.model.blocks=4*(space mlp) time mlp",
]  # fmt: skip

GCLOUD = """
state = here / "state"
verb = words[3] if len(words) > 3 else words[1]
workers = [here / f"worker-{i}" for i in range(2)]
if flag("--worker") not in ("all", None):
    workers = workers[int(flag("--worker")):][:1]

if (here / "logged out").exists():
    sys.exit("ERROR: (gcloud.auth.print-access-token) You do not have an active account selected.")
if verb == "print-access-token":
    print("ya29.token")
elif verb == "describe":
    if not state.exists():
        sys.exit("ERROR: (gcloud.describe) NOT_FOUND: Resource 'projects/p/latte' was not found")
    print(state.read_text())
    if state.read_text() == "WAITING_FOR_RESOURCES":
        state.write_text("ACTIVE")
elif verb == "create":
    state.write_text("WAITING_FOR_RESOURCES" if words[2] == "queued-resources" else "READY")
elif verb == "delete":
    state.unlink()
    for worker in workers:
        subprocess.run(["rm", "-rf", worker])
elif verb == "scp":
    for worker in workers:
        worker.mkdir(exist_ok=True)
        subprocess.run(["cp", words[4], worker / words[5].partition(":")[2]], check=True)
elif verb == "ssh":
    codes = []
    for worker in workers:
        worker.mkdir(exist_ok=True)
        environment = os.environ | {"HOME": str(worker)}
        done = subprocess.run(["bash", "-c", flag("--command")], cwd=worker, env=environment)
        codes.append(done.returncode)
    sys.exit(max(codes))
"""
GIT = """
import tarfile
(here / "requirements.txt").write_text("jax")
with tarfile.open(flag("--output"), "w:gz") as file:
    file.add(here / "requirements.txt", "requirements.txt")
"""
# Makes the environment, whose python plays the run: it ends with the code in a file, or on SIGTERM.
PYTHON = """
if words[:3] == ["-m", "uv", "venv"]:
    Path("jaxvid-env/bin").mkdir(parents=True)
    Path("jaxvid-env/bin/python").write_text(f'''#!{sys.executable} -SE
import json, signal, sys
from pathlib import Path
Path("../argv").write_text(json.dumps(sys.argv[1:]))
code = Path({str(here)!r}, "code").read_text()
if code == "waits":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    print("step 1/8", flush=True)
    signal.pause()
sys.exit(int(code))
''')
    Path("jaxvid-env/bin/python").chmod(0o755)
"""


@pytest.fixture
def cloud(tools):
    tools.add("gcloud", GCLOUD)
    tools.add("git", GIT)
    tools.add("python3", PYTHON)
    (tools.folder / "code").write_text("0")
    return tools


def verbs(calls):
    return [call[4] for call in calls if call[:3] == ["gcloud", "compute", "tpus"]]


def script(tools, *words, **kwargs):
    return tools.run("tpu_vm.py", words[0], *POD, *words[1:], **kwargs)


def test_keep_does_all_and_a_dry_run_prints_just_that(cloud):
    words = "keep", "--topology=v5e:4x4", "--spot", *AWKWARD
    printed = script(cloud, *words, "--dry-run")
    assert cloud.calls() == []
    script(cloud, *words)
    calls = [call for call in cloud.calls() if call[0] != "python3"]
    while calls[-2:] == calls[-4:-2]:  # it looked until the run had ended
        del calls[-2:]
    assert printed == "".join(f"{shlex.join(call)}\n" for call in calls)

    tpus = ["gcloud", "compute", "tpus", "tpu-vm"]
    archive = str(cloud.folder / "home/.cache/jaxvid/jaxvid.tar.gz")
    assert calls[0] == ["gcloud", "auth", "print-access-token"]
    assert calls[1] == [*tpus, "describe", "latte", "--format=value(state)", *PLACE]
    assert calls[2] == [
        *tpus, "create", "latte", *PLACE, "--accelerator-type=v5litepod-16",
        "--version=v2-alpha-tpuv5-lite", "--spot",
    ]  # fmt: skip
    assert calls[5][3:] == ["archive", "--format=tar.gz", f"--output={archive}", "HEAD"]
    assert calls[6] == [*tpus, "scp", archive, "latte:jaxvid.tar.gz", *PLACE, "--worker=all"]
    assert calls[7][:-1] == [*tpus, "ssh", "latte", *PLACE, "--worker=all"]
    for worker in range(2):
        ran = json.loads((cloud.folder / f"worker-{worker}/argv").read_text())
        assert ran == ["-m", "jaxvid.train", *AWKWARD, "--distributed=auto"]


def test_a_preempted_pod_is_made_anew_and_runs_the_same(cloud):
    words = "keep", "--topology=v5p:4x4x8", "--queued", "--spot", *AWKWARD
    (cloud.folder / "state").write_text("SUSPENDED")
    said = script(cloud, *words)
    calls = cloud.calls()
    assert verbs(calls)[:6] == ["describe", "delete", "describe", "create", "describe", "describe"]
    assert verbs(calls)[6:12] == ["ssh", "scp", "ssh", "describe", "ssh", "ssh"]
    queued = ["gcloud", "compute", "tpus", "queued-resources"]
    assert [*queued, "delete", "latte", *PLACE, "--force"] in calls
    assert [
        *queued, "create", "latte", *PLACE, "--accelerator-type=v5p-256",
        "--runtime-version=v2-alpha-tpuv5", "--node-id=latte", "--spot",
    ] in calls  # fmt: skip
    assert "latte: SUSPENDED" in said
    assert "latte: 2 ended 0" in said


def test_a_run_that_fails_starts_again_so_many_times(cloud):
    (cloud.folder / "code").write_text("7")
    words = "keep", "--topology=v5e:4x4", "--restarts=1", *AWKWARD
    assert "gave up after 1 restarts" in script(cloud, *words, expect=1)
    started = [call for call in cloud.calls() if "setsid" in call[-1]]
    assert len(started) == 2
    (cloud.folder / "code").write_text("0")
    for worker in range(2):  # the end of another command is not that of this one
        (cloud.folder / f"worker-{worker}/jaxvid-run/ended").write_text("0")
    script(cloud, "keep", "--topology=v5e:4x4", "--", "python", "another")
    assert json.loads((cloud.folder / "worker-0/argv").read_text()) == ["another"]


def test_one_run_at_a_time_and_stop_lets_it_save(cloud):
    (cloud.folder / "code").write_text("waits")
    run = "run", "--", "python", "-m", "jaxvid.evaluate", "--workdir=gs://b/a b"
    assert "nothing installed: install first" in script(cloud, *run, expect=1)
    script(cloud, "install", "--revision=v1.0")
    assert [call[-1] for call in cloud.calls() if call[0] == "git"] == ["v1.0"]
    script(cloud, *run)
    log = cloud.folder / "worker-1/jaxvid-run/log"
    while "step 1/8" not in log.read_text():
        time.sleep(0.01)
    assert json.loads((log.parents[1] / "argv").read_text()) == [*run[3:], "--distributed=auto"]
    assert "a run is active: logs follows it" in script(cloud, *run, expect=1)
    assert "a run is active: stop it first" in script(cloud, "install", expect=1)
    (cloud.folder / "state").write_text("READY")
    assert "latte: READY\nlatte: 2 running\n" in script(cloud, "status")
    script(cloud, "stop")
    while "2 ended 143" not in script(cloud, "status"):
        time.sleep(0.01)
    script(cloud, "stop")  # nothing is left to stop


def test_create_and_delete_can_be_repeated(cloud):
    create = "create", "--topology=v6e:16x16", "--queued", "--slices=2"
    script(cloud, *create, "--create-flag=--network=it's mine")
    assert cloud.calls()[-1] == [
        "gcloud", "compute", "tpus", "queued-resources", "create", "latte", *PLACE,
        "--accelerator-type=v6e-256", "--runtime-version=v2-alpha-tpuv6e", "--node-count=2",
        "--node-prefix=latte", "--network=it's mine",
    ]  # fmt: skip
    assert "latte is there already: WAITING_FOR_RESOURCES" in script(cloud, *create)
    script(cloud, "delete", "--queued")
    assert "latte is not there" in script(cloud, "delete", "--queued")
    assert verbs(cloud.calls()) == ["describe", "describe", "delete", "describe"]


def test_logs_of_a_worker_of_several_slices(cloud):
    printed = script(
        cloud, "logs", "--queued", "--worker=3", "--ssh-flag=--internal-ip", "--dry-run"
    )
    assert shlex.split(printed.splitlines()[-1])[6:] == [
        *PLACE, "--worker=3", "--node=0", "--internal-ip",
        "--command=tail --lines=100 --follow=name --retry jaxvid-run/log",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["create"], "create needs --topology"),
        (["create", "--topology=v5e:4x4x4"], "such as v5e:4x4, v5p:4x4x8"),
        (["create", "--topology=v9:4x4"], "such as v5e:4x4, v5p:4x4x8"),
        (["create", "--topology=v5e:4x4", "--slices=2"], "--slices needs --queued"),
        (["run"], "run needs a command after --"),
        (["keep", "--topology=v5e:4x4", "--config=c.py", "--workdir=runs/a"], "--workdir=gs://"),
        (["delete", "--name=It's"], "lower-case letters, digits and hyphens"),
        (["delete", "--nmae=a"], "unrecognized arguments: --nmae=a"),
        (["delete"], "gcloud is not installed: https"),
    ],
)
def test_a_mistake_is_one_line_before_anything_runs(words, line, tools):
    assert line in script(tools, *words, expect=2).splitlines()[-1]


def test_who_is_not_logged_in_is_told_so(cloud):
    (cloud.folder / "logged out").touch()
    said = script(cloud, "delete", expect=2)
    assert said.startswith("error: ")
    assert said.endswith("active account selected.; run `gcloud auth login`\n")
    assert len(cloud.calls()) == 1
