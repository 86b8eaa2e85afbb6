import socket

import pytest

from jaxvid.errors import InputError
from jaxvid.parallel.processes import join


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
