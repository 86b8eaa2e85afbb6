"""What a command does before its slow imports: Ctrl-C is handled, and huge pages are turned on.

A command module begins with

    from jaxvid import start

    if __name__ == "__main__":
        start.begin()

Only the standard library is imported here. Nothing happens where a command is imported.
"""

import importlib.util
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Mapping

THP = "/sys/kernel/mm/transparent_hugepage/enabled"
TUNABLE = "glibc.malloc.hugetlb"

_actions: dict[int, Callable[[int], None]] = {}


def begin(huge_pages: bool = True) -> None:
    """Call it first in a command. With `huge_pages` the process may start itself again, once."""
    environment = os.environ.copy()
    if huge_pages and not huge_pages_on() and huge_pages_help(environment) and sys.executable:
        # glibc reads this only when a process starts.
        tunables = environment.get("GLIBC_TUNABLES")
        environment["GLIBC_TUNABLES"] = f"{tunables}:{TUNABLE}=1" if tunables else f"{TUNABLE}=1"
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)
    on_signal([signal.SIGINT], leave)


def huge_pages_help(environment: Mapping[str, str]) -> bool:
    """Whether a command that is started with these variables would gain from huge pages.

    XLA's CPU client allocates the arrays of a step anew at each step: with pages of 4 kB a third of
    the time goes into the kernel. JAXVID_HUGE_PAGES=0 turns them off.
    """
    if sys.platform != "linux" or environment.get("JAXVID_HUGE_PAGES") == "0":
        return False
    # Asking JAX for its devices would import it, so look for the packages of accelerators.
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


def leave(number: int) -> None:
    """Ends the process at once, with exit code 128 + `number`; nothing else is run or saved."""
    say("interrupted")
    if "multiprocessing.process" in sys.modules:
        for child in sys.modules["multiprocessing.process"].active_children():
            child.kill()
    # An exception in half-imported native code, or the end of the interpreter below its threads,
    # may crash.
    os._exit(128 + number)


def say(line: str) -> None:
    """Writes a line to standard error, whatever another thread is writing there."""
    on_terminal = os.isatty(2)  # where a progress bar or ^C may stand
    os.write(2, f"{chr(10) * on_terminal}{line}\n".encode())


def on_signal(numbers: Iterable[int], action: Callable[[int], None]) -> None:
    """Calls `action(number)` at once when a signal comes, in place of an earlier action.

    The call is made from a thread of its own: Python's handlers wait until the main thread returns
    from native code, such as a compilation or a step. An ordinary handler that is installed later
    takes a signal over. Call this from the main thread.
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
    """The main thread goes on until the thread above has done what is asked."""
