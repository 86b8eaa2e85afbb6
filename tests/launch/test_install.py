"""launch/install.py with a stand-in for nvidia-smi, and with what Linux would say of devices."""

import shlex
import sys

import pytest

from tests.commands import ROOT

# The first lines of nvidia-smi: of an older driver, and of a newer one.
HEADS = {
    12: "| NVIDIA-SMI 550.54.15   Driver Version: 550.54.15   CUDA Version: 12.4     |",
    13: "| NVIDIA-SMI 595.45.04   KMD Version: 595.45.04   CUDA UMD Version: 13.2     |",
}


def installed(tools):
    (line,) = tools.run("install.py", "--dry-run").splitlines()
    *words, jax = shlex.split(line)
    assert words[:4] == [sys.executable, "-m", "pip", "install"]
    assert words[-1] == f"--requirement={ROOT}/requirements.txt"
    return jax


@pytest.mark.parametrize(("head", "jax"), [(HEADS[12], "jax[cuda12]"), (HEADS[13], "jax[cuda13]")])
def test_a_gpu_gets_the_jax_that_its_driver_runs(tools, head, jax):
    tools.add("nvidia-smi", f"print({head!r})")
    assert installed(tools) == jax


def test_without_an_accelerator_jax_is_as_the_requirements_say(tools):
    assert installed(tools) == "jax"
    tools.add("nvidia-smi", "print('NVIDIA-SMI has failed'); sys.exit(9)")
    assert "note: installing for a CPU; nvidia-smi: NVIDIA-SMI has failed" in tools.run(
        "install.py", "--dry-run"
    )


def test_a_driver_that_is_too_old_is_refused(tools):
    tools.add("nvidia-smi", "print('CUDA Version: 11.8')")
    said = tools.run("install.py", "--dry-run", expect=2)
    assert said == ("error: the GPU's driver runs CUDA 11, JAX needs 12: install a newer driver\n")


def test_a_tpu_is_known_by_its_number(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "launch")
    import install

    monkeypatch.setattr(install, "PCI", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    for device, expected in ("0x0042", ""), ("0x0063", "[tpu]"):  # a network card of Google, v5e
        slot = tmp_path / device
        slot.mkdir()
        (slot / "vendor").write_text("0x1ae0\n")
        (slot / "device").write_text(f"{device}\n")
        assert install.accelerator() == expected


def test_it_knows_the_numbers_that_jax_knows(monkeypatch):
    hardware = pytest.importorskip("jax._src.hardware_utils")
    monkeypatch.syspath_prepend(ROOT / "launch")
    import install

    assert set(hardware._TPU_PCI_DEVICE_IDS) <= set(install.TPUS)  # a newer JAX knows more TPUs
    assert hardware._GOOGLE_PCI_VENDOR_ID == install.GOOGLE
