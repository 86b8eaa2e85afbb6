#!/usr/bin/env python3
"""Installs what jaxvid needs, with JAX for the TPU or GPU of this machine, if it has one.

    launch/install.py [--dry-run]

It installs into the environment of the Python that runs it.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

from shared import Failed, Shell, parser, refuse

REQUIREMENTS = Path(__file__).resolve().parents[1] / "requirements.txt"
PCI = Path("/sys/bus/pci/devices")
# Where JAX looks for TPUs: the vendor, and its devices.
GOOGLE = "0x1ae0"
TPUS = {
    "0x0027": "v2, v3",
    "0x0056": "",
    "0x005e": "v4",
    "0x0062": "v5p",
    "0x0063": "v5e",
    "0x006f": "v6e",
    "0x0076": "TPU7x",
    "0x007c": "TPU8t",
    "0x0083": "TPU8i",
}
CUDA = (12, 13)  # for which there is JAX


def main() -> int:
    flags = parser(__doc__).parse_args()
    try:
        words = sys.executable, "-m", "pip", "install", "--quiet", f"--requirement={REQUIREMENTS}"
        Shell(flags.dry_run).run(*words, f"jax{accelerator()}")
    except Failed as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def accelerator() -> str:
    """What to add to `jax`: "[tpu]", "[cuda12]", "[cuda13]", or nothing for a CPU."""
    for path in PCI.glob("*"):
        if _read(path / "vendor") == GOOGLE and _read(path / "device") in TPUS:
            return "[tpu]"
    if not shutil.which("nvidia-smi"):
        return ""
    said = subprocess.run(["nvidia-smi"], capture_output=True, text=True).stdout
    found = re.search(r"CUDA (?:UMD )?Version: *(\d+)", said)  # the newest that the driver runs
    if not found:
        print(f"note: installing for a CPU; nvidia-smi: {' '.join(said.split())[:200]}")
        return ""
    newest = int(found[1])
    if newest < CUDA[0]:
        refuse(f"the GPU's driver runs CUDA {newest}, JAX needs {CUDA[0]}: install a newer driver")
    return f"[cuda{min(newest, CUDA[1])}]"


def _read(path: Path) -> str:
    return path.read_text().strip() if path.exists() else ""


if __name__ == "__main__":
    sys.exit(main())
