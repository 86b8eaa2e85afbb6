import http.server
import os
import socket
import subprocess
import sys
import threading

import pytest

from jaxvid.errors import InputError
from jaxvid.parallel import processes
from jaxvid.parallel.processes import alone, join
from tests.commands import ENVIRONMENT, ROOT


def test_a_process_0_that_does_not_answer_is_named(capfd):
    with socket.socket() as unused:
        unused.bind(("localhost", 0))
        port = unused.getsockname()[1]
        with pytest.raises(InputError, match=r"process 0 did not answer within 0\.2 s"):
            join(f"localhost:{port},2,1", timeout=0.2)
    assert f"waiting for process 0 at localhost:{port}" in capfd.readouterr().err


def test_a_port_that_is_taken_is_refused():
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"cannot use port {port}: Address already in use"):
            join(f"localhost:{port},2,0")


JOINS = """
import sys
from jaxvid.parallel.processes import join
join("auto", timeout=60)
import jax
print(jax.process_index(), "of", jax.process_count())
"""


def test_auto_joins_the_tasks_of_slurm_and_the_hosts_of_tpu_slices_of_gke():
    """Which are processes here, with the variables that those set."""
    with socket.socket() as a, socket.socket() as b:
        a.bind(("localhost", 61440 + os.getpid() % 4096))  # JAX's port of this Slurm job
        b.bind(("localhost", 0))
        port = b.getsockname()[1]
    slurm = [
        {
            "SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_NODELIST": "localhost",
            "SLURM_NTASKS": "2", "SLURM_STEP_NUM_NODES": "1", "SLURM_PROCID": f"{task}",
            "SLURM_LOCALID": f"{task}",
        }
        for task in range(2)
    ]  # fmt: skip
    gke = [
        {
            "TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0", "JAX_FORCE_TPU_INIT": "1",
            "MEGASCALE_COORDINATOR_ADDRESS": "localhost", "MEGASCALE_NUM_SLICES": "2",
            "MEGASCALE_SLICE_ID": f"{slice_}", "JAX_COORDINATOR_PORT": f"{port}",
        }
        for slice_ in range(2)
    ]  # fmt: skip
    joining = [
        subprocess.Popen(
            [sys.executable, "-c", JOINS], cwd=ROOT, env=ENVIRONMENT | variables, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for variables in slurm + gke
    ]  # fmt: skip
    said = [process.communicate() for process in joining]
    assert [out for out, _ in said] == ["0 of 2\n", "1 of 2\n"] * 2, said


@pytest.mark.parametrize(
    ("variables", "gpus"),
    [
        ({"CUDA_VISIBLE_DEVICES": "0,1,2,3", "SLURM_NTASKS": "2"}, [0, 1, 2, 3]),  # a node's task
        ({"CUDA_VISIBLE_DEVICES": "0,1,2,3", "SLURM_NTASKS": "8"}, None),  # JAX takes its own
        ({"CUDA_VISIBLE_DEVICES": "0", "SLURM_NTASKS": "8"}, [0]),  # it sees its own only
        ({"CUDA_VISIBLE_DEVICES": "0,1", "SLURM_NTASKS": "4", "SLURM_GPUS_PER_TASK": "2"}, [0, 1]),
        ({"SLURM_NTASKS": "2"}, None),  # no GPUs
        ({"CUDA_VISIBLE_DEVICES": "0,1"}, None),  # no Slurm
    ],
)
def test_a_task_of_slurm_takes_all_gpus_that_are_its_own(variables, gpus, monkeypatch):
    asked = {}
    monkeypatch.setattr("jax.distributed.initialize", lambda **kwargs: asked.update(kwargs))
    for name, value in ({"SLURM_STEP_NUM_NODES": "2"} | variables).items():
        monkeypatch.setenv(name, value)
    join("auto")
    assert asked["local_device_ids"] == gpus
    assert asked["cluster_detection_method"] is None


def test_open_mpi_5_is_joined_by_mpi4py(monkeypatch):
    asked = {}
    monkeypatch.setattr("jax.distributed.initialize", lambda **kwargs: asked.update(kwargs))
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    join("auto")
    assert asked["cluster_detection_method"] == "mpi4py"
    monkeypatch.setenv("OMPI_MCA_orte_hnp_uri", "1531576320.0;tcp://10.96.0.1:34911")
    join("auto")
    assert asked["cluster_detection_method"] is None


def test_who_forgets_to_join_is_warned(monkeypatch, tmp_path):
    assert alone({}) is None
    assert alone({"TPU_WORKER_HOSTNAMES": "localhost", "SLURM_STEP_NUM_TASKS": "1"}) is None
    for variables, line in [
        ({"SLURM_STEP_NUM_TASKS": "8"}, "one process of the 8 of a Slurm step"),
        ({"OMPI_COMM_WORLD_SIZE": "4"}, "one process of the 4 of an MPI launch"),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, "one host of the 2 of a TPU pod"),
        ({"TPU_WORKER_HOSTNAMES": "a,b", "MEGASCALE_NUM_SLICES": "2"}, "one host of the 4 of a"),
    ]:
        assert line in alone(variables)
        assert alone(variables).endswith("give --distributed=auto")

    class Metadata(http.server.BaseHTTPRequestHandler):
        """Answers a worker of a Cloud TPU VM pod."""

        def do_GET(self):
            known = self.headers["Metadata-Flavor"] == "Google"
            assert self.path.endswith("/instance/attributes/worker-network-endpoints")
            self.send_response(200 if known else 403)
            self.end_headers()
            self.wfile.write(b"a:1:10.0.0.1,b:2:10.0.0.2,c:3:10.0.0.3")

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Metadata) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        variables = {"GCE_METADATA_IP": f"127.0.0.1:{server.server_port}"}
        assert alone(variables) is None  # a machine without TPUs asks nobody
        monkeypatch.setattr(processes, "TPU_CHIPS", (str(tmp_path / "accel*"),))
        (tmp_path / "accel0").touch()
        assert "one host of the 3 of a TPU pod" in alone(variables)
        server.shutdown()
    assert alone(variables) is None  # no Cloud TPU VM
