"""Keys of a config. Each is declared once, in the file that uses it:

    declare("ema", decay=key(0.9999, FRACTION, "share of the old average that stays at a step"))

The defaults, the checks, `--help` and docs/keys.md all come from these declarations. A config is an
`ml_collections.ConfigDict`; a config file starts from the defaults and sets only what differs.
"""

import ast
import dataclasses
import difflib
import importlib
import math
import os
import re
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from absl import flags
from ml_collections import ConfigDict

from jaxvid import config_file
from jaxvid.errors import InputError, one_line


@dataclasses.dataclass(frozen=True)
class Rule:
    """A rule for the value of a key.

    Attributes:
      says: the rule in words, such as "an integer of at least 1".
      holds: whether a value obeys the rule.
      choices: all valid values, if they can be listed.
    """

    says: str | Callable[[], str]
    holds: Callable[[Any], bool]
    choices: Collection[str] = ()

    def __str__(self) -> str:
        return self.says if isinstance(self.says, str) else self.says()


@dataclasses.dataclass(frozen=True)
class Key:
    """One key of a config; see `key`."""

    default: Any
    rule: Rule
    doc: str
    free: bool = False
    before: Any = None
    was: str = ""


KEYS: dict[str, Key] = {}
_REQUIREMENTS: list[Callable[[ConfigDict], None]] = []


def key(
    default: Any, rule: Rule, doc: str, *, free: bool = False, before: Any = None, was: str = ""
) -> Key:
    """Describes a key, for `declare`.

    Args:
      default: its value if a config file does not set it. All values have its type.
      rule: the rule for its value.
      doc: a phrase that says what it does, with its unit and the value that turns it off.
      free: whether it may differ when a run is resumed, because it does not change the results of
        training.
      before: its value in runs from before the key existed, if not the default.
      was: the key's name in older runs, if it had another.
    """
    return Key(default, rule, doc, free, default if before is None else before, was)


def declare(section: str, **keys: Key) -> None:
    """Adds keys to a section of the config, such as "model"; "" is the top level.

    Raises ValueError for a key that is already declared with another meaning, and for a default
    that breaks its own rule.
    """
    for name, declared in keys.items():
        full = f"{section}.{name}" if section else name
        if full in KEYS and KEYS[full].doc != declared.doc:
            raise ValueError(f"the key {full} is declared twice")
        if not declared.rule.holds(declared.default):
            raise ValueError(f"{full}: its default {declared.default!r} is not {declared.rule}")
        KEYS[full] = declared


def requirement(function: Callable[[ConfigDict], None]) -> Callable[[ConfigDict], None]:
    """Registers a check that several keys fit together. It raises InputError that names them."""
    _REQUIREMENTS.append(function)
    return function


def is_int(value: Any) -> bool:
    """Whether `value` is an integer, and not True or False."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether `value` is an integer or a finite float."""
    return is_int(value) or (isinstance(value, float) and math.isfinite(value))


def is_sequence(value: Any, holds: Callable[[Any], bool], length: int | None = None) -> bool:
    """Whether `value` is a tuple or list, of `length` items if given, that all satisfy `holds`."""
    return (
        isinstance(value, tuple | list)
        and (length is None or len(value) == length)
        and all(map(holds, value))
    )


def parse_call(text: str) -> tuple[str, dict[str, Any]]:
    """Splits a text such as "crop(least=0.8)" into a name and options; "flip" has none.

    Raises ValueError for other texts.
    """
    try:
        node = ast.parse(text.strip(), mode="eval").body
        call = node if isinstance(node, ast.Call) else ast.Call(node, [], [])
        if (
            not isinstance(call.func, ast.Name)
            or call.args
            or any(not k.arg for k in call.keywords)
        ):
            raise ValueError(text)
        return call.func.id, {k.arg: ast.literal_eval(k.value) for k in call.keywords}
    except (SyntaxError, MemoryError, RecursionError) as error:
        raise ValueError(text) from error


def one_of(choices: Collection[str]) -> Rule:
    """One of `choices`, read when a value is checked, because plugins may add choices."""
    return Rule(
        lambda: "one of " + ", ".join(choices),
        lambda v: isinstance(v, str) and v in choices,
        choices,
    )


NATURAL = Rule("an integer of at least 0", lambda v: is_int(v) and v >= 0)
POSITIVE = Rule("an integer of at least 1", lambda v: is_int(v) and v >= 1)
NUMBER = Rule("a number", is_number)
ABOVE_0 = Rule("a number above 0", lambda v: is_number(v) and v > 0)
UNIT = Rule("a number from 0 to 1", lambda v: is_number(v) and 0 <= v <= 1)
NOT_BELOW_0 = Rule("a number of at least 0", lambda v: is_number(v) and v >= 0)
FRACTION = Rule("a number of at least 0 and below 1", lambda v: is_number(v) and 0 <= v < 1)
SCALE = Rule("a number above 0 and at most 1", lambda v: is_number(v) and 0 < v <= 1)
FLAG = Rule("True or False", lambda v: isinstance(v, bool))
TEXT = Rule("a string", lambda v: isinstance(v, str))

declare("", seed=key(0, NATURAL, "seed of the parameters, the order of the data, and all noise"))
declare("", steps=key(100_000, POSITIVE, "optimizer steps of the whole run"))
declare(
    "",
    init_from=key("", TEXT, "work directory of the run whose EMA weights to start from", free=True),
)
declare("", batch_size=key(64, POSITIVE, "clips per step, over all devices"))


def defaults() -> ConfigDict:
    """A config with the default of every declared key."""
    return unflatten({name: declared.default for name, declared in KEYS.items()})


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Flattens a nested config to {"data.frames": 16, …}."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, ConfigDict | dict):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def unflatten(flat: Mapping[str, Any]) -> ConfigDict:
    """The inverse of `flatten`."""
    config = ConfigDict()
    for name, value in flat.items():
        *sections, last = name.split(".")
        part = config
        for section in sections:
            if section not in part:
                part[section] = ConfigDict()
            part = part[section]
        part[last] = value
    return config


def complete(old: Mapping[str, Any]) -> ConfigDict:
    """Converts the config of an older run: renames its keys, and adds those that did not exist.

    Raises InputError for a key that is not declared.
    """
    renamed = {declared.was: name for name, declared in KEYS.items() if declared.was}
    flat = {name: declared.before for name, declared in KEYS.items()}
    for name, value in flatten(old).items():
        name = renamed.get(name, name)
        if name not in KEYS:
            raise InputError(
                f"the run's config has the unknown key {name}: give the --plugins that it was "
                "trained with, or use the version of jaxvid that trained it"
            )
        flat[name] = tuple(value) if isinstance(value, list) else value
    return unflatten(flat)


def check_name(name: str) -> None:
    """Raises InputError, with the nearest key that exists, if there is no key `name`."""
    if name in KEYS:
        return
    renamed = [new for new, declared in KEYS.items() if declared.was == name]
    nearest = renamed or difflib.get_close_matches(name, KEYS, 1)
    if not nearest:  # perhaps the right name in another section
        last = {full.rpartition(".")[2]: full for full in KEYS}
        nearest = [last[n] for n in difflib.get_close_matches(name.rpartition(".")[2], last, 1)]
    if renamed:
        hint = f"it is called config.{renamed[0]} now"
    elif nearest:
        hint = f"did you mean config.{nearest[0]}?"
    else:
        hint = "docs/keys.md lists all keys"
    raise InputError(f"config.{name}: there is no such key; {hint}")


def check(config: ConfigDict) -> None:
    """Raises InputError, which names the key, for a key that is unknown, missing or invalid."""
    flat = flatten(config)
    for name, value in flat.items():
        check_name(name)
        if not KEYS[name].rule.holds(value):
            raise InputError(f"config.{name}={value!r}: it must be {KEYS[name].rule}")
    for name in KEYS:
        if name not in flat:
            raise InputError(
                f"config.{name} is missing: start from default_config() of jaxvid.build, or from "
                "get_config() of another config file"
            )
    for function in _REQUIREMENTS:
        function(config)


def differences(old: ConfigDict, new: ConfigDict) -> dict[str, tuple[Any, Any]]:
    """Keys whose values differ, with the old and the new value. Free keys are left out."""
    a, b = ({k: _plain(v) for k, v in flatten(config).items()} for config in (old, new))
    return {
        name: (a.get(name), b.get(name))
        for name in sorted(a.keys() | b.keys())
        if a.get(name) != b.get(name) and not (name in KEYS and KEYS[name].free)
    }


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def describe(free: bool = False) -> str:
    """Lists keys with default, meaning and rule, for `--help`: all, or those that are free."""
    lines = []
    for name, declared in sorted_keys():
        if free and not declared.free:
            continue
        lines += [f"  --config.{name}={declared.default}", f"      {declared.doc}: {declared.rule}"]
    return "\n".join(lines)


def document() -> str:
    """The text of docs/keys.md: a table of keys for each section, in Markdown."""
    out = [
        "# Keys",
        "",
        "Every key of a config, with its default. A config file starts from these and sets only",
        "what differs. The command line can change any key, as in `--config.model.width=256`.",
        "Keys marked * may change when a run is resumed. This page is generated:",
        "`python -m jaxvid.build > docs/keys.md`.",
    ]
    section = None
    for name, declared in sorted_keys():
        if name.rpartition(".")[0] != section:
            section = name.rpartition(".")[0]
            out += ["", f"## {section or 'The run'}", ""]
            out += ["| key | default | meaning | it must be |", "|---|---|---|---|"]
        rule = str(declared.rule).replace("|", "\\|")
        star = " *" if declared.free else ""
        out.append(f"| `{name}`{star} | `{declared.default!r}` | {declared.doc} | {rule} |")
    return "\n".join(out) + "\n"


def sorted_keys() -> list[tuple[str, Key]]:
    """Keys by section, the top level first; within a section in the order of declaration."""
    sections = sorted({name.rpartition(".")[0] for name in KEYS})
    order = {section: i for i, section in enumerate(sections)}
    return sorted(KEYS.items(), key=lambda item: order[item[0].rpartition(".")[0]])


class _ConfigFile(flags.ArgumentParser):
    """Loads the file of --config; config_flags' own parser does not say which line fails."""

    def parse(self, argument: str) -> ConfigDict:
        return config_file.load(argument).lock()

    def flag_type(self) -> str:
        return "config file"


def parse_flags(argv: Sequence[str], of_a_run: bool = False) -> list[str]:
    """Parses the arguments of a command: first `--plugins` and `--help`, then the rest with absl.

    `of_a_run`: the command takes new values of free keys for an existing run.

    Raises InputError for a wrong plugin, config file, key or value, and `flags.Error` for other
    flags. Returns the arguments that are not flags.
    """
    import_plugins(argv)
    if _HELP & set(argv[1:]):
        print(_help(of_a_run), flush=True)
        sys.exit(0)

    for argument in argv:
        name = argument.lstrip("-").partition("=")[0].removeprefix("no")
        if argument.startswith("-") and name.startswith("config."):
            check_name(name.removeprefix("config."))
    if "config" in flags.FLAGS:
        flags.FLAGS["config"].parser = _ConfigFile()
    try:
        return flags.FLAGS(argv)
    except flags.UnrecognizedFlagError as error:
        name = error.flagname
        keys = [name] if name in KEYS else [key for key in KEYS if key.endswith(f".{name}")]
        if len(keys) != 1 or "config" not in flags.FLAGS:
            raise
        raise InputError(
            f"--{name}: there is no such option; did you mean --config.{keys[0]}?"
        ) from error
    except flags.IllegalFlagValueError as error:
        if isinstance(error.__context__, InputError):
            raise error.__context__ from None
        override = re.match(r"flag --config\.([\w.]+)=(.*?): ", str(error))
        if not override:
            raise
        name, value = override.groups()
        raise InputError(f"config.{name}={value}: it must be {KEYS[name].rule}") from error
    except AttributeError as error:  # from config_flags, for an override
        name = str(error).strip('"')
        raise InputError(
            f"--config: the file's config lacks {name}: start from default_config() of "
            "jaxvid.build, or from get_config() of another config file"
        ) from error


OVERRIDES: dict[str, str] = {}  # new values of keys, for the config of an existing run


def parse_overrides(argv: Sequence[str]) -> list[str]:
    """Parses as `parse_flags`, and stores `--config.KEY=VALUE` in `OVERRIDES` for a run's config.

    Raises InputError and `flags.Error` for wrong arguments.
    """
    import_plugins(argv)
    words = [word for word in argv if word.startswith("--config.")]
    for word in words:
        name, _, value = word.removeprefix("--config.").partition("=")
        check_name(name)
        OVERRIDES[name] = value
    return parse_flags([word for word in argv if word not in words], of_a_run=True)


_HELP = {"--help", "-help", "-h", "-?"}


def import_plugins(argv: Sequence[str]) -> None:
    """Imports the modules in `--plugins`. Call it before anything uses the registered names.

    Raises InputError for a module that cannot be imported.
    """
    if "plugins" not in flags.FLAGS:
        flags.DEFINE_list(
            "plugins", [], "Modules, separated by commas, that register mixers, sources and so on."
        )
    early = flags.FlagValues()
    flags.DEFINE_list("plugins", [], "", flag_values=early)
    early([argument for argument in argv if argument not in _HELP], known_only=True)
    for name in early.plugins:
        _import_plugin(name)


def _import_plugin(name: str) -> None:
    # `python -P` and installed scripts do not search the current directory.
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.insert(0, os.getcwd())
    try:
        importlib.import_module(name)
    except Exception as error:
        raise InputError(f"--plugins={name} cannot be imported: {one_line(error)}") from error


def _help(of_a_run: bool) -> str:
    """The command's docstring, its flags, and the keys that it takes."""
    command = flags.FLAGS.get_key_flags_for_module(sys.argv[0]) + [flags.FLAGS["plugins"]]
    lines = [sys.modules["__main__"].__doc__ or "", "Flags:"]
    for flag in command:
        default = "" if flag.default is None else flag.default_as_str.strip("'")
        lines += [f"  --{flag.name}={default}", f"      {flag.help}"]
    if any(flag.name == "config" for flag in command):
        lines += ["", "Keys of the config, with their defaults; a config file may set others:"]
        lines += [describe()]
    elif of_a_run:
        lines += ["", "Keys of a run that may be changed here, with their defaults:"]
        lines += [describe(free=True)]
    return "\n".join(lines)


def from_flag(flag: Any) -> ConfigDict:
    """The value of a `config_flags.DEFINE_config_file` flag, checked; raises InputError."""
    if flag.value is None:
        raise InputError("give --config=FILE.py, such as --config=configs/base.py")
    check(flag.value)
    return flag.value


def override(config: ConfigDict, name: str, text: str) -> None:
    """Sets a key to a value from the command line.

    Raises InputError, which names the key, for a value that breaks its rule.
    """
    check_name(name)
    declared = KEYS[name]
    value: Any = text
    if not isinstance(declared.default, str):
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            value = None
        if isinstance(declared.default, float) and is_int(value):
            value = float(value)
    if not declared.rule.holds(value):
        raise InputError(f"config.{name}={text}: it must be {declared.rule}")
    section, _, last = name.rpartition(".")
    part = config
    for word in section.split("."):
        part = part[word] if word else part
    with config.ignore_type():
        part[last] = value
