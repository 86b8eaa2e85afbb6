"""A table of captions and labels: a CSV file with a header, or JSON Lines.

Its columns are `path`, below the input folder and with or without the ending, and `caption` or
`label`, or both. Other columns are left alone.
"""

import csv
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from jaxvid.errors import InputError
from jaxvid.files import Path, local

Row = Mapping[str, str]


def read_table(path: Path, names: Sequence[str]) -> dict[str, Row]:
    """The `caption` and `label` of each file in the table; those that are empty are left out.

    Args:
      path: the table.
      names: the files; a row for no file is left out.

    Raises:
      InputError: the table cannot be read, a column is missing, or no row is for a file.
    """
    by_path = {os.path.splitext(name)[0]: name for name in reversed(names)}
    by_path |= {name: name for name in names}
    rows: dict[str, Row] = {}
    number, example = 0, ""
    try:
        with local(path) as here, here.open(encoding="utf-8-sig", newline="") as file:
            for number, row in enumerate(_rows(path, file), start=1):
                if "path" not in row or not row.keys() & {"caption", "label"}:
                    raise InputError(
                        f"{path}: row {number} has {', '.join(map(str, row))}, but needs path and "
                        "caption or label"
                    )
                example = str(row["path"])
                name = by_path.get(example)
                if name is not None:
                    given = {k: " ".join(str(row.get(k) or "").split()) for k in _COLUMNS}
                    rows[name] = {k: text for k, text in given.items() if text}
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read after row {number}: {error}") from error
    if not rows:
        raise InputError(
            f"{path}: none of its {number} rows is for a file of the input; a path is one below "
            f"the input folder, not {example!r}"
        )
    return rows


_COLUMNS = ("caption", "label")


def _rows(path: Path, file: Iterable[str]) -> Iterator[Mapping[str, Any]]:
    if path.suffix.lower() == ".csv":
        yield from csv.DictReader(file)
    elif path.suffix.lower() in (".jsonl", ".json", ".ndjson"):
        for line in filter(str.strip, file):
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError(f"{line[:40].strip()!r} is not an object")
            yield row
    else:
        raise InputError(f"{path}: end its name in .csv or .jsonl")
