"""The block grammar: a line of text defines the layers of a network.

A block is a line of words, read from left to right: `space mlp time mlp`. Each word is a residual
sub-layer. `+` runs words in parallel on the same input: `space+time mlp`. A word may take
arguments, as in `window(4,4,4)` or `conv(size=5)`. `8*(space mlp) 8*(time mlp)` repeats each line
eight times.
"""

import ast
import dataclasses
import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jaxvid.config import FLAG, NUMBER, TEXT, Rule, is_int
from jaxvid.errors import InputError


@dataclasses.dataclass(frozen=True)
class Word:
    """A word of a line, with its arguments as (name, value) pairs."""

    name: str
    arguments: tuple[tuple[str, Any], ...] = ()


# For each residual sub-layer, the words that run in parallel in it.
Line = tuple[tuple[Word, ...], ...]


class Argument(NamedTuple):
    """The default of a word's argument, and the rule for its value."""

    default: Any
    rule: Rule


_RULES = {bool: FLAG, int: Rule("an integer", is_int), float: NUMBER, str: TEXT}
_REPEAT = re.compile(r"(\d+)\s*\*\s*\(")
_NAME = re.compile(r"[^\s+*()]+")


def argument(default: Any, rule: Rule) -> Any:
    """Declares a field of a word's class as an argument of the word that must obey `rule`."""
    return dataclasses.field(default=default, metadata={"rule": rule})


def arguments(word: type) -> dict[str, Argument]:
    """The arguments of a word: the fields of its dataclass except `config` and those of Flax.

    A field that is not declared with `argument` takes any value of its default's type. Raises
    TypeError for such a field without a default, or with one that is not a bool, int, float or str.
    """
    found = {}
    for field in dataclasses.fields(word):
        if field.name in ("config", "parent", "name"):
            continue
        rule = field.metadata.get("rule") or _RULES.get(type(field.default))
        if rule is None:
            raise TypeError(
                f"{word.__qualname__}.{field.name}: an argument of a word needs a default that is "
                "a number, a string or a flag; declare any other with argument(default, rule)"
            )
        found[field.name] = Argument(field.default, rule)
    return found


def parse(text: str, known: Mapping[str, type]) -> tuple[tuple[Line, int | None], ...]:
    """Reads the architecture of a network.

    Args:
      text: for example `"space+time mlp"` or `"8*(space mlp) 8*(time mlp)"`.
      known: the words that exist, and the dataclass of each; see `arguments`.

    Returns:
      Each line with its number of repeats; None for words outside of repeats, which form one line
      up to the next repeat.

    Raises:
      InputError: the text is empty, a word or an argument does not exist or has a wrong value, a
        `+` or a parenthesis lacks its partner, or repeats are nested. The message marks the place.
    """
    text, at = re.sub(r"\s", " ", text), 0
    stacks: list[tuple[Line, int | None]] = []
    while repeat := _REPEAT.search(text, at):
        if text[at : repeat.start()].strip():
            stacks.append((_line(text, at, repeat.start(), known), None))
        end, count = _closing(text, repeat.end() - 1), int(repeat[1])
        if inner := _REPEAT.search(text, repeat.end(), end):
            raise _mistake(text, *inner.span(), "repeats cannot be nested")
        if not count:
            raise _mistake(text, *repeat.span(), "a line is repeated at least once")
        stacks.append((_line(text, repeat.end(), end, known), count))
        at = end + 1
    if text[at:].strip() or not stacks:
        stacks.append((_line(text, at, len(text), known), None))
    return tuple(stacks)


def with_window(blocks: str, window: Sequence[int]) -> str:
    """Converts the blocks of an older run, whose words `window` had the size `model.window`."""
    return re.sub(r"\bwindow\b(?! *\()", f"window({','.join(map(str, window))})", blocks)


def from_stacks(stacks: Sequence[Sequence[Any]]) -> str:
    """Converts the blocks of an older run, which were a list of (line, repeats)."""
    return " ".join(f"{repeats}*({line})" for line, repeats in stacks)


def _line(text: str, start: int, end: int, known: Mapping[str, type]) -> Line:
    groups: list[list[Word]] = []
    joining, at = None, start
    while at < end:
        if text[at] == "+":
            if joining is not None or not groups:
                raise _mistake(text, at, at + 1, "'+' needs a word on either side", known)
            joining = at
            at += 1
        elif text[at] != " ":
            word, at = _word(text, at, end, known)
            if joining is None:
                groups.append([word])
            else:
                groups[-1].append(word)
            joining = None
        else:
            at += 1
    if joining is not None:
        raise _mistake(text, joining, joining + 1, "'+' needs a word on either side", known)
    if not groups:
        raise _mistake(text, start, end, "an empty line", known)
    return tuple(map(tuple, groups))


def _word(text: str, start: int, end: int, known: Mapping[str, type]) -> tuple[Word, int]:
    """The word that starts at `start`, and the index of its end."""
    found = _NAME.match(text, start, end)
    if not found:
        what = f"'{text[start]}' is out of place: write window(4,4,4), or 8*(space mlp)"
        raise _mistake(text, start, start + 1, what, known)
    name, after = found.group(), found.end()
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        hint = f", did you mean '{near[0]}'?" if near else ""
        raise _mistake(text, start, after, f"unknown word '{name}'{hint}", known)
    if text[after:end][:1] != "(":
        return Word(name), after
    close = _closing(text, after)
    return Word(name, _arguments(text, after + 1, close, name, arguments(known[name]))), close + 1


def _closing(text: str, opening: int) -> int:
    """The index at which the parenthesis at `opening` is closed."""
    depth = 0
    for i in range(opening, len(text)):
        depth += (text[i] == "(") - (text[i] == ")")
        if not depth:
            return i
    raise _mistake(text, opening, opening + 1, "'(' is never closed")


def _arguments(
    text: str, start: int, end: int, word: str, takes: Mapping[str, Argument]
) -> tuple[tuple[str, Any], ...]:
    """Reads the arguments in the parentheses after a word; values are Python literals."""
    listed = [f"{name}={a.default} ({a.rule})" for name, a in takes.items()]
    signature = f"'{word}' takes {', '.join(listed) or 'no arguments'}"
    try:
        call = ast.parse(f"f({text[start:end]})", mode="eval").body
    except (SyntaxError, ValueError) as error:
        raise _mistake(text, start, end, f"arguments cannot be read; {signature}") from error
    values: dict[str, Any] = {}
    if len(call.args) > len(takes):
        raise _mistake(text, start, end, f"too many arguments; {signature}")
    given = [(name, value, value) for name, value in zip(takes, call.args, strict=False)]
    for name, value, node in given + [(k.arg, k.value, k) for k in call.keywords]:
        place = (start + node.col_offset - 2, start + node.end_col_offset - 2)
        if name not in takes:
            near = difflib.get_close_matches(name or "", takes, 1)
            hint = f", did you mean '{near[0]}'?" if near else ""
            raise _mistake(text, *place, f"unknown argument '{name}'{hint}; {signature}")
        if name in values:
            raise _mistake(text, *place, f"'{name}' is given twice; {signature}")
        try:
            values[name] = ast.literal_eval(value)
            fits = takes[name].rule.holds(values[name])
        except (TypeError, ValueError):
            fits = False
        if not fits:
            raise _mistake(text, *place, f"'{name}' must be {takes[name].rule}; {signature}")
    return tuple(values.items())


def _mistake(
    text: str, start: int, end: int, what: str, known: Mapping[str, type] | None = None
) -> InputError:
    if known is not None:
        what += f"; known: {', '.join(sorted(known))}, and '+' between words that run in parallel"
    marks = " " * start + "^" * max(1, end - start)
    return InputError(f"config.model.blocks: {what}\n  {text}\n  {marks}")
