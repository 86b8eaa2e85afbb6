"""The processes of a run end together: if one fails, is killed or loses its machine, so do all.

JAX would let the others wait, in a collective or at its barrier for the end of the program. Here
each process has a connection to process 0. The kernel closes it when the process ends, however it
ends; so the others learn that at once, and of a machine that is gone within half a minute.
"""

import contextlib
import ctypes
import logging
import os
import secrets
import selectors
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from typing import NoReturn

from absl import logging as absl_logging
from jax._src import distributed  # has the store of keys and values, which JAX does not export

from jaxvid import errors, start
from jaxvid.errors import InputError
from jaxvid.parallel import processes

TIMEOUT = 60  # seconds in which all processes connect
LONGEST = 2000  # most bytes of last words
SAME = 1.0  # seconds in which the processes come to the same error, and each says it itself
FIRST = 5.0  # seconds in which it is known whether another process ended before an error came
DAY = 24 * 60 * 60 * 1000  # milliseconds

_watch: "_Watch | None" = None


@contextlib.contextmanager
def joined(text: str | None, saves: bool = False) -> Iterator[None]:
    """Joins the processes of `--distributed`, and ends with them. Only the first one prints.

    Args:
      text: as `processes.join` takes it; None for a process alone.
      saves: whether the block handles SIGTERM; else that ends all processes, as Ctrl-C does.
    """
    global _watch
    if not text:
        if warning := processes.alone(os.environ):
            start.say(warning)
        yield
        return
    processes.join(text)
    _watch, client = _Watch(_connect()), distributed.global_state.client
    start.on_signal([signal.SIGINT] + [signal.SIGTERM] * (not saves), leave)
    _notice_failed_saves()
    with contextlib.ExitStack() as quiet:
        if distributed.global_state.process_id:
            nowhere = quiet.enter_context(open(os.devnull, "w"))
            quiet.enter_context(contextlib.redirect_stdout(nowhere))
        with sharing_fate():
            yield
            client.wait_at_barrier("jaxvid/done", DAY)
            _watch.over.set()


@contextlib.contextmanager
def sharing_fate() -> Iterator[None]:
    """If the block raises, all processes of the run end at once.

    What is outside is not unwound, because it may wait for the others, as a save in flight does.
    """
    try:
        yield
    except Exception as error:
        if _watch is None:
            raise
        _watch.fail(error)


def _notice_failed_saves() -> None:
    """Ends all processes when a save in the background fails in this one.

    Orbax logs the error, and then waits for the others, which wait for this one, for 20 minutes.
    """

    def look(record: logging.LogRecord) -> bool:
        if record.module == "async_checkpointer" and record.exc_info:
            _watch.fail(record.exc_info[1])
        return shown

    shown = absl_logging.get_verbosity() >= absl_logging.ERROR
    if not shown:
        absl_logging.set_verbosity(absl_logging.ERROR)
    absl_logging.get_absl_logger().addFilter(look)


def leave(number: int) -> NoReturn:
    """As `start.leave`, for all processes of the run."""
    if _watch is not None:
        _watch.end("interrupted", "was interrupted; run the same command to resume", 128 + number)
    start.leave(number)


class _Watch:
    """Tells the others of the end of this process, and ends it after theirs.

    Args:
      peers: the connection to process 0, or in process 0 those to all others, with their index.
    """

    def __init__(self, peers: dict[socket.socket, int]):
        self._peers, self._index = peers, distributed.global_state.process_id
        self._ends = threading.Lock()  # never released
        self.over = threading.Event()
        # JAX aborts as soon as process 0 is gone. As the handler of SIGABRT, which is number 6,
        # `sleep` gives the thread as many seconds to say so.
        libc = ctypes.CDLL(None)
        libc.signal(signal.SIGABRT, libc.sleep)
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        with selectors.DefaultSelector() as selector:
            for peer in self._peers:
                selector.register(peer, selectors.EVENT_READ)
            peer = selector.select()[0][0].fileobj
        words = b""
        with contextlib.suppress(OSError):
            words = peer.recv(LONGEST)
        if self.over.is_set():
            return
        if words:
            time.sleep(SAME)
        news = words.decode(errors="replace") or (
            f"process {self._peers[peer]} has ended without a word: it was killed, ran out of "
            "memory, or its machine is gone; run the same command to resume"
        )
        self._end(f"error: {news}", news)

    def fail(self, error: Exception) -> NoReturn:
        """Ends all processes because of an error in this one."""
        if error.__cause__ or not isinstance(error, InputError):
            # It may follow from the end of another process, of which the thread then tells.
            time.sleep(FIRST)
        if line := errors.line_of(error):
            self.end(f"error: {line}", f"has ended: {line}")
        said = "".join(traceback.format_exception(error)).rstrip()
        kind, _, what = said.rpartition("\n")[2].partition(": ")
        self.end(said, f"has ended: {kind}: {what}; run the same command to resume")

    def end(self, line: str, news: str, code: int = 1) -> NoReturn:
        """Ends this process with a line, and the others with the news of it."""
        self._end(line, f"process {self._index} {news}", code)

    def _end(self, line: str, news: str, code: int = 1) -> NoReturn:
        self._ends.acquire()
        with contextlib.suppress(OSError):  # the log may be on the disk that is full
            start.say(line)
        for peer in self._peers:
            with contextlib.suppress(OSError):
                peer.sendall(news.encode()[:LONGEST])
        if self._index == 0:
            self._wait()
        start.end(code)

    def _wait(self) -> None:
        """Waits for the others to end: without process 0 they would abort."""
        ends = time.monotonic() + FIRST
        for peer in self._peers:
            with contextlib.suppress(OSError):
                peer.settimeout(max(0.01, ends - time.monotonic()))
                while peer.recv(LONGEST):
                    pass


def _connect() -> dict[socket.socket, int]:
    """Connects this process to process 0, or process 0 to all others."""
    state = distributed.global_state
    key, words, peers = "jaxvid/peers", secrets.token_hex(16), {}
    try:
        if state.process_id:
            port, words = state.client.blocking_key_value_get(key, TIMEOUT * 1000).split()
            host = state.coordinator_address.rpartition(":")[0].strip("[]")
            peer = socket.create_connection((host, int(port)), TIMEOUT)
            peer.sendall(f"{words} {state.process_id:8d}".encode())
            return {_alive(peer): 0}
        both = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if both else socket.AF_INET
        with socket.create_server(("", 0), family=family, dualstack_ipv6=both) as server:
            server.settimeout(TIMEOUT)
            state.client.key_value_set(key, f"{server.getsockname()[1]} {words}")
            while len(peers) < state.num_processes - 1:
                peer, _ = server.accept()
                said, _, index = _hello(peer).partition(" ")
                if said == words:  # else it is not of this run
                    peers[_alive(peer)] = int(index)
        return peers
    except OSError as error:
        raise InputError(
            f"the processes cannot connect to process 0 ({error}): all ports must be open between "
            "their machines"
        ) from error


def _hello(peer: socket.socket) -> str:
    peer.settimeout(FIRST)
    with contextlib.suppress(OSError):
        return peer.recv(41, socket.MSG_WAITALL).decode(errors="replace")
    return ""


def _alive(peer: socket.socket) -> socket.socket:
    """Lets the kernel ask whether the other machine is there; it is given up after 30 seconds."""
    peer.settimeout(None)
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if sys.platform == "linux":
        for option, value in (("IDLE", 10), ("INTVL", 5), ("CNT", 4)):
            peer.setsockopt(socket.IPPROTO_TCP, getattr(socket, f"TCP_KEEP{option}"), value)
    return peer
