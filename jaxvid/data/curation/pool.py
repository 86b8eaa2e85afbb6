"""Runs jobs in processes of this machine, which end with it and leave nothing half-written."""

import concurrent.futures
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import cv2

from jaxvid.config import import_plugins

interrupted = threading.Event()


def run(function: Callable[[Any], Any], jobs: Sequence[Any], workers: int) -> Iterator[Any]:
    """Yields the results of the jobs as they become ready.

    Raises:
      KeyboardInterrupt: `interrupted` is set.
    """
    pool = concurrent.futures.ProcessPoolExecutor(
        min(workers, len(jobs)),
        multiprocessing.get_context("spawn"),
        initializer=_start,
        initargs=(sys.argv,),
    )
    with pool:
        try:
            # Workers inherit the mask: Ctrl-C reaches every process of the terminal, and only the
            # parent handles it.
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
            try:
                futures = [pool.submit(function, job) for job in jobs]
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            for future in concurrent.futures.as_completed(futures):
                if interrupted.is_set():
                    raise KeyboardInterrupt
                yield future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for child in multiprocessing.active_children():
                child.terminate()
            raise


def interrupt(*_: Any) -> None:
    """A signal handler that ends `run`."""
    # Python drops an exception that is raised in a finalizer or a callback, and one inside the pool
    # may break it and come as another, so also set an event.
    interrupted.set()
    raise KeyboardInterrupt


def _start(argv: Sequence[str]) -> None:
    import_plugins(argv)
    threading.Thread(target=_follow_parent, daemon=True).start()
    cv2.setNumThreads(1)


def _follow_parent() -> None:
    """Ends this process when the parent is killed, so that no orphan writes into the output."""
    multiprocessing.parent_process().join()
    os._exit(1)
