"""The start of a command, before its slow imports: Ctrl-C, huge pages and the compilation cache.

A command module begins with

    from jaxvid import start

    if __name__ == "__main__":
        start.begin()

This file imports only the standard library. Importing a command module has no effect.
"""

import contextlib
import errno
import importlib.util
import os
import platform
import signal
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import NoReturn

THP = "/sys/kernel/mm/transparent_hugepage/enabled"
TUNABLE = "glibc.malloc.hugetlb"
# XLA's CPU client allocates the arrays of a step again at each step. With pages of 4 kB, and memory
# that goes back to the kernel after a step and is cleared for the next, the kernel takes a third of
# the time. These keep it, in one heap, because other heaps of glibc hold 64 MB at most.
TUNABLES = (
    f"{TUNABLE}=1",
    f"glibc.malloc.mmap_threshold={2**40}",
    f"glibc.malloc.trim_threshold={2**40}",
    "glibc.malloc.arena_max=1",
)

began: float | None = None  # when the command started, by `time.monotonic`
LARGEST_CACHE = 5 * 10**9  # bytes of compiled programs that are kept

_actions: dict[int, Callable[[int], None]] = {}


def begin(huge_pages: bool = True) -> None:
    """Starts a command; call it first. With `huge_pages` the process may restart itself once."""
    global began
    began = time.monotonic()
    environment = os.environ.copy()
    if huge_pages and not huge_pages_on() and huge_pages_help(environment) and sys.executable:
        # glibc reads this only when a process starts.
        own = environment.get("GLIBC_TUNABLES")
        environment["GLIBC_TUNABLES"] = ":".join([own] * bool(own) + [*TUNABLES])
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)
    keep_compiled()
    on_signal([signal.SIGINT], leave)


def compile_only() -> None:
    """Lets the process compile for TPUs that are not there; call it after `begin`."""
    os.environ.update(
        JAX_PLATFORMS="cpu",
        JAX_ENABLE_COMPILATION_CACHE="false",  # a cached program does not say what it needs
        TPU_SKIP_MDS_QUERY="1",
        TPU_WORKER_HOSTNAMES="localhost",
        TPU_ACCELERATOR_TYPE="v5litepod-16",
        ALLOW_MULTIPLE_LIBTPU_LOAD="1",
    )


def keep_compiled() -> None:
    """Has JAX keep what it compiles in the user's cache folder, or says why it cannot.

    A compiled step takes a few MB. JAX's own variables have priority, such as
    JAX_COMPILATION_CACHE_DIR=gs://… or JAX_ENABLE_COMPILATION_CACHE=false, which turns this off.
    """
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
    off = os.environ.get("JAX_ENABLE_COMPILATION_CACHE") == "false"
    if off or "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    folder = os.path.join(cache_folder(), f"compiled-{_cpu():08x}")
    try:
        os.makedirs(folder, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        drop_oldest(folder, LARGEST_CACHE)
    except OSError as error:
        say(f"note: {folder}: {error.strerror}; what is compiled now will not be kept")
    else:
        os.environ["JAX_COMPILATION_CACHE_DIR"] = folder


def _cpu() -> int:
    """A number of the CPU's features: its code may not run on others that share the folder."""
    try:
        with open("/proc/cpuinfo", "rb") as file:
            lines = (line for line in file if line.startswith((b"flags", b"Features")))
            return zlib.crc32(next(lines))
    except (OSError, StopIteration):
        return zlib.crc32(platform.processor().encode())


def drop_oldest(folder: str | os.PathLike, limit: int) -> None:
    """Removes files, those first that were not used for longest, until `limit` bytes are left.

    JAX's own limit needs another package, and all processes wait for one another at a lock.
    """
    stats = [(entry.path, entry.stat()) for entry in os.scandir(folder)]
    stats.sort(key=lambda item: max(item[1].st_atime, item[1].st_mtime), reverse=True)
    total = 0
    for path, stat in stats:
        total += stat.st_size
        if total > limit:
            with contextlib.suppress(FileNotFoundError):  # another process was faster
                os.unlink(path)


def cache_folder() -> str:
    """The folder in the user's cache for what can be computed again."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(home, "jaxvid")


def huge_pages_help(environment: Mapping[str, str]) -> bool:
    """Whether a command with these environment variables would gain from huge pages.

    JAXVID_HUGE_PAGES=0 turns them off, and the other settings of `TUNABLES`.
    """
    if sys.platform != "linux" or environment.get("JAXVID_HUGE_PAGES") == "0":
        return False
    # Only JAX knows the devices, but importing it is slow: look for packages of accelerators.
    platforms = environment.get("JAX_PLATFORMS")
    accelerators = any(map(importlib.util.find_spec, ("jax_plugins", "libtpu")))
    if platforms != "cpu" and (platforms or accelerators):
        return False
    try:
        libc, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
        with open(THP) as file:
            possible = "[never]" not in file.read()
    except (OSError, ValueError):  # another C library, or a kernel without huge pages
        return False
    return possible and libc == "glibc" and tuple(map(int, version.split("."))) >= (2, 35)


def huge_pages_on() -> bool:
    """Whether this process was started with huge pages."""
    return TUNABLE in os.environ.get("GLIBC_TUNABLES", "")


def leave(number: int) -> NoReturn:
    """Ends the process at once, with exit code 128 + `number`, without cleanup or saving."""
    say("interrupted")
    end(128 + number)


def end(code: int) -> NoReturn:
    """Ends the process and its children at once."""
    if "multiprocessing.process" in sys.modules:
        for child in sys.modules["multiprocessing.process"].active_children():
            child.kill()
    # An exception in half-imported native code may crash, and so may an interpreter that ends while
    # its threads run.
    os._exit(code)


def say(line: str) -> None:
    """Writes a line to standard error in one call, so that other threads cannot split it."""
    on_terminal = os.isatty(2)  # the line may already show a progress bar or ^C
    os.write(2, f"{chr(10) * on_terminal}{line}\n".encode())


def on_signal(numbers: Iterable[int], action: Callable[[int], None]) -> None:
    """Calls `action(number)` immediately when a signal arrives; replaces an earlier action.

    A separate thread makes the call, because Python's handlers wait until the main thread returns
    from native code, such as a compilation or a step. An ordinary handler that is installed later
    replaces the action. Call this from the main thread.
    """
    if not _actions:
        read, write = os.pipe()
        os.set_blocking(write, False)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        threading.Thread(target=_watch, args=[read], daemon=True).start()
    for number in numbers:
        _actions[number] = action
        signal.signal(number, _wait)


def _watch(pipe: int) -> None:
    while True:
        for number in os.read(pipe, 64):
            if signal.getsignal(number) is _wait:
                _actions[number](number)


def _wait(*_: object) -> None:
    """An empty handler: the main thread continues, and the thread of `_watch` calls the action."""
