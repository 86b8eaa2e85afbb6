"""The block grammar: the depth of a network is written down, not coded.

A block is a line of words read from left to right, `space mlp time mlp`. Each word is a residual
sub-layer; `+` between words runs them side by side on the same input, `space+time mlp`.
"""

import difflib
import re
from collections.abc import Collection

from jaxvid.errors import InputError


def parse(line: str, known: Collection[str]) -> tuple[tuple[str, ...], ...]:
    """Reads a line of the grammar.

    Args:
      line: for example `"space+time mlp"`.
      known: the words that exist.

    Returns:
      One tuple per residual sub-layer, of the words that run side by side in it:
      `(("space", "time"), ("mlp",))`.

    Raises:
      InputError: on an empty line, an unknown word, or a `+` without a word on either side; the
        message points at the place and lists what is known.
    """
    groups: list[list[str]] = []
    joining = False
    tokens = list(re.finditer(r"\+|[^\s+]+", line))
    for token in tokens:
        word = token.group()
        if word == "+":
            if joining or not groups:
                raise _mistake(line, token.start(), 1, "'+' needs a word on either side", known)
            joining = True
            continue
        if word not in known:
            near = difflib.get_close_matches(word, known, 1)
            hint = f", did you mean '{near[0]}'?" if near else ""
            raise _mistake(line, token.start(), len(word), f"unknown word '{word}'{hint}", known)
        if joining:
            groups[-1].append(word)
        else:
            groups.append([word])
        joining = False
    if not groups:
        raise _mistake(line, 0, 1, "an empty line", known)
    if joining:
        raise _mistake(line, tokens[-1].start(), 1, "'+' needs a word on either side", known)
    return tuple(map(tuple, groups))


def _mistake(line: str, at: int, length: int, what: str, known: Collection[str]) -> InputError:
    return InputError(
        f"model.blocks: {what}; known: {', '.join(sorted(known))}, and '+' between words "
        f"that run side by side\n  {line}\n  {' ' * at}{'^' * length}"
    )
