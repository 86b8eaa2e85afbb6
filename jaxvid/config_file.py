"""Loads a config file. An error in it is reported in one line, with its file and line number."""

import difflib
import importlib.machinery
import importlib.util
import inspect
import sys
from pathlib import Path

from ml_collections import ConfigDict

from jaxvid.errors import InputError, one_line


def load(text: str) -> ConfigDict:
    """Returns `get_config()` of FILE.py, or `get_config(ARGUMENT)` for FILE.py:ARGUMENT.

    Raises InputError for a file that does not exist, fails, or does not return a ConfigDict.
    """
    name, colon, argument = text.partition(":")
    path = Path(name).expanduser()
    if not path.is_file():
        files = [str(other) for other in path.parent.glob("*.py")]
        near = difflib.get_close_matches(str(path), files, 1)
        raise InputError(
            f"--config={text}: there is no such file; "
            + (f"did you mean {near[0]}?" if near else "start from configs/base.py")
        )
    loader = importlib.machinery.SourceFileLoader("jaxvid_config_file", str(path))
    module = importlib.util.module_from_spec(
        importlib.util.spec_from_loader(loader.name, loader, is_package=False)
    )
    sys.modules[loader.name] = module  # dataclasses and pickle look up its classes here
    try:
        loader.exec_module(module)
        function = getattr(module, "get_config", None)
        if not callable(function):
            raise InputError(
                f"{path} has no get_config(): define one that returns a config, as "
                "configs/base.py does"
            )
        given = [argument] if colon else []
        _check_argument(function, given, text)
        config = function(*given)
    except InputError:
        raise
    except Exception as error:
        raise InputError(one_line(error, str(path))) from error
    if not isinstance(config, ConfigDict):
        code = inspect.unwrap(function).__code__
        returned = "nothing" if config is None else f"a {type(config).__name__}"
        raise InputError(
            f"{code.co_filename}:{code.co_firstlineno}: get_config() returns {returned}: end it "
            "with `return` and an ml_collections.ConfigDict, as configs/base.py does"
        )
    return config


def _check_argument(function: object, given: list[str], text: str) -> None:
    try:
        inspect.signature(function).bind(*given)
    except TypeError:
        if given:
            remedy = f"its get_config() takes no argument; leave out ':{given[0]}'"
        else:
            remedy = f"its get_config() needs one argument: give {text}:ARGUMENT"
        raise InputError(f"--config={text}: {remedy}") from None
