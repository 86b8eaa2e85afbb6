"""Loads a config or cascade file. An error in it is one line, with its file and line number."""

import difflib
import importlib.machinery
import importlib.util
import inspect
import sys
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from jaxvid.errors import InputError, one_line

# For each kind of file: what its function returns, in words, and an example.
KINDS = {
    "config": (ConfigDict, "an ml_collections.ConfigDict", "configs/base.py"),
    "cascade": (tuple, "a tuple of jaxvid.cascade.Stage", "configs/cascade.py"),
}

# The folder with the shipped configs/: in an installed package, or else the clone.
SHIPPED = Path(__file__).parent / "shipped"
if not SHIPPED.is_dir():
    SHIPPED = Path(__file__).parents[1]


def load(text: str, kind: str = "config") -> Any:
    """Returns `get_config()` of FILE.py, or `get_config(ARGUMENT)` for FILE.py:ARGUMENT.

    Where the current folder has no such file in configs/, the shipped one is loaded. The same holds
    for what a file imports, as in `from configs import base`.

    Args:
      text: FILE.py or FILE.py:ARGUMENT.
      kind: "config", or "cascade" for the tuple of `get_cascade`.

    Raises:
      InputError: the file does not exist, fails, or does not return what its kind does.
    """
    returns, in_words, example = KINDS[kind]
    name, colon, argument = text.partition(":")
    path = Path(name).expanduser()
    folders = [Path(), SHIPPED] if path.parent == Path("configs") else [Path()]
    found = [folder / path for folder in folders if (folder / path).is_file()]
    if not found:
        others = [other for folder in folders for other in (folder / path.parent).glob("*.py")]
        files = [str(path.parent / other.name) for other in others]
        near = difflib.get_close_matches(str(path), files, 1)
        if (SHIPPED / "configs" / path.name).is_file():
            near = [f"configs/{path.name}"]
        raise InputError(
            f"--{kind}={text}: there is no such file; "
            + (f"did you mean {near[0]}?" if near else f"start from {example}")
        )
    path = found[0]
    if str(SHIPPED) not in sys.path:
        sys.path.append(str(SHIPPED))  # the last, so that other configs/ have priority
    loader = importlib.machinery.SourceFileLoader("jaxvid_config_file", str(path))
    module = importlib.util.module_from_spec(
        importlib.util.spec_from_loader(loader.name, loader, is_package=False)
    )
    sys.modules[loader.name] = module  # dataclasses and pickle look up its classes here
    try:
        loader.exec_module(module)
        function = getattr(module, f"get_{kind}", None)
        if not callable(function):
            raise InputError(
                f"{path} has no get_{kind}(): define one that returns a {kind}, as {example} does"
            )
        given = [argument] if colon else []
        _check_argument(function, given, text, kind)
        made = function(*given)
    except InputError:
        raise
    except Exception as error:
        raise InputError(one_line(error, str(path))) from error
    if not isinstance(made, returns):
        code = inspect.unwrap(function).__code__
        returned = "nothing" if made is None else f"a {type(made).__name__}"
        raise InputError(
            f"{code.co_filename}:{code.co_firstlineno}: get_{kind}() returns {returned}: end it "
            f"with `return` and {in_words}, as {example} does"
        )
    return made


def _check_argument(function: object, given: list[str], text: str, kind: str) -> None:
    try:
        inspect.signature(function).bind(*given)
    except TypeError:
        if given:
            remedy = f"its get_{kind}() takes no argument; leave out ':{given[0]}'"
        else:
            remedy = f"its get_{kind}() needs one argument: give {text}:ARGUMENT"
        raise InputError(f"--{kind}={text}: {remedy}") from None
