"""A bucket of Google Cloud Storage, which an emulator on this machine plays."""

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from jaxvid.files import Path, to_path
from tests import commands


@contextlib.contextmanager
def emulated() -> Iterator[Path]:
    """An empty bucket; commands and this process find it by the environment."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "tests/emulator.py", str(port)], cwd=commands.ROOT,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    environment = {
        "STORAGE_EMULATOR_HOST": url,  # for gcsfs and Google's client
        "CLOUD_STORAGE_EMULATOR_ENDPOINT": url,  # for ArrayRecord
        "TENSORSTORE_GCS_HTTP_URL": url,
        "GOOGLE_AUTH_TOKEN_FOR_TESTING": "any",  # for TensorStore
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # would ask Google about the bucket
        "FSSPEC_GCS_TOKEN": "anon",  # else gcsfs looks for one, for a second
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
            patch.setitem(commands.ENVIRONMENT, name, value)
        commands.server.cache_clear()  # the next one has this environment
        for _ in range(200):
            with socket.socket() as probe:
                if not probe.connect_ex(("127.0.0.1", port)):
                    break
            time.sleep(0.1)
        yield to_path("gs://bucket", "bucket")
        commands.server.cache_clear()
        server.terminate()
        server.wait()
