"""Errors of the user or the disk: a command reports each in one line, with exit code 1."""

import difflib
import errno
import functools
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from absl import app, flags, logging

from jaxvid import start


class InputError(ValueError):
    """An input of the user is wrong: the message says what, where, why and what to do."""


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint for a mistyped word, "did you mean 'predict'? ", or "" if none is near."""
    found = difflib.get_close_matches(word, list(known), 1, cutoff=0.5)
    return f"did you mean {found[0]!r}? " if found else ""


# Errors of the disk, and their remedies.
_REFUSALS = {
    errno.ENOSPC: "make room, and run the same command again",
    errno.EDQUOT: "make room, and run the same command again",
    errno.EFBIG: "raise `ulimit -f`, or use another file system",
    errno.EROFS: "choose another folder",
    errno.EACCES: "choose another folder, or change its permissions",
    errno.EPERM: "choose another folder, or change its permissions",
    errno.ENOTDIR: "choose another folder",
}


def run(
    main: Callable[[Sequence[str]], None],
    parse: Callable[[Sequence[str]], list[str]],
    words: bool = False,
) -> None:
    """Runs a command under absl. An error of the user or the disk ends it with one line.

    `parse` takes the arguments and returns those that are not flags; see `config.parse_flags`. Only
    with `words` may there be any.
    """

    @functools.wraps(main)
    def guarded(argv: Sequence[str]) -> None:
        if argv[1:] and not words:
            sys.exit(
                f"error: unexpected argument {argv[1]!r}: options look like --name=value; put "
                "quotes around a value that has spaces"
            )
        if start.huge_pages_on():
            start.say("huge pages: on (JAXVID_HUGE_PAGES=0 turns them off)")
        try:
            main(argv)
        except Exception as error:
            if line := line_of(error):
                sys.exit(f"error: {line}")
            raise

    def guarded_parse(argv: Sequence[str]) -> list[str]:
        try:
            # Failures are raised as exceptions; --verbosity=0 shows the logs of libraries.
            logging.set_verbosity(logging.FATAL)
            return parse(argv)
        except InputError as error:
            sys.exit(f"error: {error}")
        except flags.Error as error:
            sys.exit(f"error: {_flag_error(error)}")

    sys.unraisablehook = _report_unraisable
    try:
        app.run(guarded, flags_parser=guarded_parse)
    except KeyboardInterrupt:
        start.say("interrupted")
        sys.exit(130)
    except BrokenPipeError:  # the reader has closed the pipe, as with `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(1)


def line_of(error: Exception) -> str:
    """One line for an error of the user, the disk or a bucket; "" for other errors."""
    return str(error) if isinstance(error, InputError) else _refusal(error)


def one_line(error: Exception, file: str | None = None) -> str:
    """FILE:LINE: TYPE: MESSAGE, for an exception in the user's code.

    The line is the last one in `file`, or by default the last one outside of functions. A syntax
    error is reported at its own place, which may be in a module that `file` imports.
    """
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename == file
        or (not file and frame.name == "<module>" and not frame.filename.startswith("<frozen"))
    ]
    place, message = "".join(f"{f.filename}:{f.lineno}: " for f in frames[-1:]), str(error)
    if isinstance(error, SyntaxError):
        place, message = f"{error.filename}:{error.lineno}: ", error.msg
    return f"{place}{type(error).__name__}: {' '.join(message.split())}"


def of_bucket(error: BaseException) -> bool:
    """Whether an error is of Google Cloud Storage, or of the way to it."""
    return type(error).__module__.partition(".")[0] in ("gcsfs", "google", "aiohttp", "requests")


def _refusal(error: BaseException) -> str:
    """One line for an error of the disk or a bucket, also if wrapped; "" for other errors."""
    for cause in _chain(error):
        if of_bucket(cause):
            reason = " ".join(str(cause).split())
            return (
                f"gs://: {reason}; see that the network is there, and that you may use the bucket"
            )
        for number, remedy in _REFUSALS.items():
            reason = os.strerror(number)
            if isinstance(cause, OSError) and cause.errno == number:
                name = f"{cause.filename}: " if cause.filename else ""
                return f"{name}{reason}; {remedy}"
            # C++ libraries put the reason, and sometimes the file, into their own messages.
            if reason in str(cause):
                return f"{' '.join(str(cause).split())}; {remedy}"
    return ""


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error:
        yield error
        error = error.__cause__ or error.__context__


def _flag_error(error: flags.Error) -> str:
    """Turns absl's message into one plain line."""
    text = " ".join(str(error).split())
    if isinstance(error, flags.UnrecognizedFlagError):
        if error.flagname.startswith("config."):
            return f"give --config=FILE.py before --{error.flagname}"
        near = re.search(r"Did you mean: (\w+)", text)
        hint = f"did you mean --{near[1]}?" if near else "--help lists all"
        return f"--{error.flagname}: there is no such option; {hint}"
    if early := re.match(r"Found --(config[\w.]+)", text):
        return f"give --config=FILE.py before --{early[1]}"
    if empty := re.match(r"Missing value for flag (--[\w.]+)", text):
        return f"{empty[1]} needs a value: {empty[1]}=…"
    if missing := re.match(r"flag --(\w+)=None: Flag --\1 must have a value", text):
        return f"give --{missing[1]}=…: {flags.FLAGS[missing[1]].help}"
    if wrong := re.match(r"flag --(\w+)=(.*?): ", text):
        must = getattr(flags.FLAGS[wrong[1]].parser, "syntactic_help", "")
        return f"--{wrong[1]}={wrong[2]}: it must be {must}" if must else text
    return text


def _report_unraisable(error: Any) -> None:
    """Hides follow-up errors of a failed checkpoint: pending reads find their event loop closed."""
    if str(error.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(error)
