"""Reading the arrays of one saved step: are they the ones wanted, and are they whole?

A part is named as it was saved, "ema"; "train/params" is a tree within the part "train".
"""

import contextlib
import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from jaxvid.errors import InputError
from jaxvid.workdir.agree import Damaged
from jaxvid.workdir.migrations import saved_name

LONGEST = 160  # characters of another library's error that are shown
LISTED = 4  # arrays that a message names
DAMAGE = FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError
# TensorStore raises ValueErrors that begin with a status. Of bytes that are missing or wrong:
DAMAGE_STATUS = re.compile("DATA_LOSS|NOT_FOUND|OUT_OF_RANGE")


def read(step: Path, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Reads parts of the step saved in the folder `step`. Each process reads by itself.

    Args:
      step: the folder.
      wanted: by part, a tree with the shapes, dtypes and shardings wanted.

    Raises:
      Damaged: what is in the folder proves that it is not what was written.
      InputError: other arrays were saved than are wanted, or memory or the file system failed.
    """
    with _explained(step):
        for part in wanted:
            _check_there(step, part)
        saved = _metadata(step)
        # One by one: if one failed, Orbax would leave the others begun and not awaited.
        return {
            part: _read_part(step, part, saved.get(part.partition("/")[0]), tree)
            for part, tree in wanted.items()
        }


@dataclasses.dataclass(frozen=True)
class Taken:
    """Which arrays `read_fitting` took.

    Attributes:
      taken: names of those that were read.
      left: by name, why an array kept its value.
    """

    taken: list[str]
    left: dict[str, str]

    def __str__(self) -> str:
        text = f"took {len(self.taken)} of {len(self.taken) + len(self.left)} arrays"
        if self.left:
            left = [f"{name} ({why})" for name, why in self.left.items()]
            text += f"; {len(left)} keep their initial values: {_some(left)}"
        return text


def read_fitting(step: Path, part: str, params: Any) -> tuple[Any, Taken]:
    """`params` with every array replaced that was saved in `part` with the same name and shape.

    Raises InputError if nothing fits, and as `read` does.
    """
    with _explained(step):
        _check_there(step, part)
        outer, prefix = _split(part)
        saved = _metadata(step).get(outer)
        if saved is None:
            raise Damaged("the description of its arrays is missing or not readable")
        shapes = {name: leaf.shape for name, leaf in _leaves(saved).items()}
        fits, left = {}, {}
        for name, leaf in _leaves(params).items():
            source = saved_name(prefix + name, shapes)
            if source not in shapes:
                left[name] = "not there"
            elif shapes[source] != leaf.shape:
                left[name] = f"{shapes[source]} there, {leaf.shape} here"
            else:
                fits[name] = source
        if not fits:
            raise InputError(
                f"{step}: none of its arrays fits the network: {_some(list(left))} are needed, and "
                f"{_some(list(shapes))} are there; give a run whose network is more alike"
            )
        like = {source: _abstract(_leaves(params)[name]) for name, source in fits.items()}
        loaded = _load(step, outer, saved, like)

    def choose(path: Any, leaf: Any) -> Any:
        name = _name(path)
        return loaded[fits[name]] if name in fits else leaf

    return jax.tree_util.tree_map_with_path(choose, params), Taken(list(fits), left)


def first_line(error: Exception) -> str:
    """The end of what went wrong first: Orbax's own errors only state the consequence."""
    error = _root(error)
    line = str(error).splitlines()[0] if str(error) else type(error).__name__
    line = re.split(r" \[\w+(?:\[\d+\])?='", line)[0]  # TensorStore appends pages of its request
    return line if len(line) <= LONGEST else f"…{line[-LONGEST:]}"


@contextlib.contextmanager
def _explained(step: Path) -> Iterator[None]:
    """Says of any error inside whether it proves damage. Inside, no process waits for another."""
    context = ocp.Context()
    context.multiprocessing.active_processes = {jax.process_index()}
    context.multiprocessing.primary_host = jax.process_index()
    try:
        with context:
            yield
    except InputError:
        raise
    except Exception as error:
        if _proves_damage(_root(error)):
            raise Damaged(first_line(error)) from error
        raise InputError(
            f"{step} cannot be read ({first_line(error)}). It stays as it is: mend that, then run "
            "the same command again"
        ) from error


def _proves_damage(error: BaseException) -> bool:
    return isinstance(error, DAMAGE) or (
        isinstance(error, ValueError) and bool(DAMAGE_STATUS.match(str(error)))
    )


def _root(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _check_there(step: Path, part: str) -> None:
    # Orbax takes a folder that may not be read for one that is not there.
    (step / _split(part)[0] / "_METADATA").stat()


def _split(part: str) -> tuple[str, str]:
    """What was saved, and the prefix of the names wanted of it."""
    outer, _, inner = part.partition("/")
    return outer, f"{inner}/" if inner else ""


def _metadata(step: Path) -> dict[str, Any]:
    """By part, a tree of shapes and dtypes; None where Orbax finds that it cannot be read."""
    return ocp.checkpointables_metadata(step).metadata


def _read_part(step: Path, part: str, saved: Any, wanted: Any) -> Any:
    outer, prefix = _split(part)
    if saved is None:
        # Reading the arrays says what is wrong; or works, if only the description was lost.
        if prefix:
            raise Damaged("the description of its arrays is missing or not readable")
        return ocp.load_checkpointables(step, {outer: wanted})[outer]
    arrays, leaves = _leaves(saved), _leaves(wanted)
    source = {name: saved_name(prefix + name, arrays) for name in leaves}
    _check_same(
        step,
        part,
        {name: arrays[name] for name in arrays if name.startswith(prefix)},
        {source[name]: leaf for name, leaf in leaves.items()},
    )
    loaded = _load(step, outer, saved, {source[name]: leaf for name, leaf in leaves.items()})
    return jax.tree_util.tree_map_with_path(lambda path, _: loaded[source[_name(path)]], wanted)


def _check_same(step: Path, part: str, saved: dict[str, Any], wanted: dict[str, Any]) -> None:
    both = [name for name in wanted if name in saved]
    wrong = [
        f"{name} ({_text(saved[name])} there, {_text(wanted[name])} here)"
        for name in both
        if _text(saved[name]) != _text(wanted[name])
    ]
    groups = {
        "missing": [name for name in wanted if name not in saved],
        "not known here": [name for name in saved if name not in wanted],
        "of another shape or type": wrong,
    }
    if any(groups.values()):
        found = "; ".join(f"{len(g)} {what}: {_some(g)}" for what, g in groups.items() if g)
        raise InputError(
            f"the arrays of {part!r} in {step} are not those of this config and version ({found}). "
            "They stay as they are: go on with the config and version that wrote them, or give "
            "another --workdir"
        )


def _load(step: Path, part: str, saved: Any, wanted: dict[str, Any]) -> dict[str, Any]:
    """Arrays by their saved names; those that are not in `wanted` are not read."""
    tree = jax.tree_util.tree_map_with_path(
        lambda path, _: wanted.get(_name(path), ocp.PLACEHOLDER), saved
    )
    return _leaves(ocp.load_checkpointables(step, {part: tree})[part])


def _leaves(tree: Any) -> dict[str, Any]:
    return {_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _abstract(x: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)


def _text(leaf: Any) -> str:
    return f"{leaf.dtype}{list(leaf.shape)}"


def _some(items: list[str]) -> str:
    return ", ".join(items[:LISTED]) + (", …" if len(items) > LISTED else "")
