"""The one exception that a command turns into one line and a non-zero exit."""

import difflib
import functools
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from absl import app, flags, logging


class InputError(ValueError):
    """Something the user gave is wrong: the message says what, where, why and what to do."""


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint for a mistyped word, "did you mean 'predict'? ", or "" if none is near."""
    found = difflib.get_close_matches(word, list(known), 1, cutoff=0.5)
    return f"did you mean {found[0]!r}? " if found else ""


def run(
    main: Callable[[Sequence[str]], None],
    parse: Callable[[Sequence[str]], list[str]] = flags.FLAGS,
) -> None:
    """Runs a command under absl; what the user got wrong is told in a line, without a traceback.

    `parse` takes the arguments in and returns those that are not flags.
    """

    @functools.wraps(main)
    def guarded(argv: Sequence[str]) -> None:
        if argv[1:]:
            sys.exit(f"error: unexpected argument {argv[1]!r}: options look like --name=value")
        try:
            main(argv)
        except InputError as error:
            sys.exit(f"error: {error}")

    def guarded_parse(argv: Sequence[str]) -> list[str]:
        try:
            # Failures reach us as exceptions; --verbosity=0 shows what libraries log about them.
            logging.set_verbosity(logging.FATAL)
            return parse(argv)
        except (flags.Error, InputError) as error:
            sys.exit(f"error: {error}")

    sys.unraisablehook = _tell_unraisable
    app.run(guarded, flags_parser=guarded_parse)


def _tell_unraisable(error: Any) -> None:
    """When a checkpoint fails to load, arrays still under way find their event loop closed."""
    if str(error.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(error)
