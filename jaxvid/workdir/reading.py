"""Reads the arrays of one saved step, and checks that they are the wanted ones and undamaged.

A part has the name with which it was saved, such as "ema"; "train/params" is a tree within the part
"train".
"""

import contextlib
import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from jaxvid.errors import InputError
from jaxvid.files import Path
from jaxvid.workdir.agree import Damaged
from jaxvid.workdir.migrations import saved_name

LONGEST = 160  # most characters of a library's error in a message
LISTED = 4  # most arrays in a message
DAMAGE = FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError
# TensorStore raises ValueErrors that begin with a status. These mean missing or wrong bytes:
DAMAGE_STATUS = re.compile("DATA_LOSS|NOT_FOUND|OUT_OF_RANGE")


def read(step: Path, wanted: Mapping[str, Any], cast: bool = False) -> dict[str, Any]:
    """Reads parts of the step in the folder `step`. Each process reads on its own.

    Args:
      step: the folder.
      wanted: for each part, a tree with the wanted shapes, dtypes and shardings.
      cast: convert arrays that were saved with another dtype, in place of an error.

    Raises:
      Damaged: the content of the folder is certainly not what was written.
      InputError: the saved arrays are not the wanted ones, or memory or the file system failed.
    """
    with _explained(step):
        for part in wanted:
            _check_there(step, part)
        saved = _metadata(step)
        # One by one: if one of several failed, Orbax would not wait for the others.
        return {
            part: _read_part(step, part, saved.get(part.partition("/")[0]), tree, cast)
            for part, tree in wanted.items()
        }


@dataclasses.dataclass(frozen=True)
class Taken:
    """The arrays that `read_fitting` took.

    Attributes:
      taken: names of the arrays that were read.
      left: names of the other arrays, each with the reason why it kept its value.
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
    """Replaces each array of `params` that `part` has with the same name and shape.

    Raises InputError if no array fits, and as `read` does.
    """
    with _explained(step):
        _check_there(step, part)
        outer, prefix = _split(part)
        saved = _metadata(step).get(outer)
        if saved is None:
            raise Damaged("the description of its arrays is missing or unreadable")
        shapes = {name: leaf.shape for name, leaf in leaves(saved).items()}
        fits, left = fitting(step, shapes, params, prefix)
        like = {source: _abstract(leaves(params)[name]) for name, source in fits.items()}
        loaded = _load(step, outer, saved, like)

    def choose(path: Any, leaf: Any) -> Any:
        name = name_of(path)
        return loaded[fits[name]] if name in fits else leaf

    return jax.tree_util.tree_map_with_path(choose, params), Taken(list(fits), left)


def fitting(
    where: Path, shapes: Mapping[str, tuple[int, ...]], params: Any, prefix: str = ""
) -> tuple[dict[str, str], dict[str, str]]:
    """Which arrays of `params` are saved with the same name, after `prefix`, and shape.

    Returns the names of those with the names they were saved with, and of the others with the
    reason. Raises InputError, which names `where`, if there are none.
    """
    fits, left = {}, {}
    for name, leaf in leaves(params).items():
        source = saved_name(prefix + name, shapes)
        if source not in shapes:
            left[name] = "not saved"
        elif shapes[source] != leaf.shape:
            left[name] = f"saved {shapes[source]}, needed {leaf.shape}"
        else:
            fits[name] = source
    if not fits:
        raise InputError(
            f"{where}: none of its arrays fits the network: {_some(list(left))} are needed, but "
            f"it has {_some(list(shapes))}; give a run with a more similar network"
        )
    return fits, left


def first_line(error: Exception) -> str:
    """One line of the original error: Orbax's own errors only state the consequence."""
    error = _root(error)
    line = str(error).splitlines()[0] if str(error) else type(error).__name__
    line = re.split(r" \[\w+(?:\[\d+\])?='", line)[0]  # TensorStore appends its long request
    return line if len(line) <= LONGEST else f"…{line[-LONGEST:]}"


@contextlib.contextmanager
def _explained(step: Path) -> Iterator[None]:
    """Converts errors to Damaged or InputError. Inside, no process waits for another."""
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
            f"{step} cannot be read ({first_line(error)}). It was not changed: fix the cause, then "
            "run the same command again"
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
    # Orbax treats a folder without read permission as missing.
    (step / _split(part)[0] / "_METADATA").stat()


def _split(part: str) -> tuple[str, str]:
    """The name of the saved part, and the prefix of the wanted names in it."""
    outer, _, inner = part.partition("/")
    return outer, f"{inner}/" if inner else ""


def _metadata(step: Path) -> dict[str, Any]:
    """For each part, a tree of shapes and dtypes, or None if Orbax cannot read it."""
    return ocp.checkpointables_metadata(step).metadata


def _read_part(step: Path, part: str, saved: Any, wanted: Any, cast: bool) -> Any:
    outer, prefix = _split(part)
    if saved is None:
        # Reading the arrays shows the error, or works if only the description was lost.
        if prefix:
            raise Damaged("the description of its arrays is missing or unreadable")
        return ocp.load_checkpointables(step, {outer: wanted})[outer]
    arrays, needed = leaves(saved), leaves(wanted)
    source = {name: saved_name(prefix + name, arrays) for name in needed}
    _check_same(
        step,
        part,
        {name: arrays[name] for name in arrays if name.startswith(prefix)},
        {source[name]: leaf for name, leaf in needed.items()},
        cast,
    )
    loaded = _load(step, outer, saved, {source[name]: leaf for name, leaf in needed.items()})
    return jax.tree_util.tree_map_with_path(lambda path, _: loaded[source[name_of(path)]], wanted)


def _check_same(
    step: Path, part: str, saved: dict[str, Any], wanted: dict[str, Any], cast: bool
) -> None:
    both = [name for name in wanted if name in saved]
    wrong = [
        f"{name} (saved {_text(saved[name])}, needed {_text(wanted[name])})"
        for name in both
        if saved[name].shape != wanted[name].shape
        or (saved[name].dtype != wanted[name].dtype and not cast)
    ]
    groups = {
        "missing": [name for name in wanted if name not in saved],
        "unknown": [name for name in saved if name not in wanted],
        "of another shape or type": wrong,
    }
    if any(groups.values()):
        found = "; ".join(f"{len(g)} {what}: {_some(g)}" for what, g in groups.items() if g)
        raise InputError(
            f"the arrays of {part!r} in {step} are not those of this config and version ({found}). "
            "They were not changed: use the config and version that wrote them, or give another "
            "--workdir"
        )


def _load(step: Path, part: str, saved: Any, wanted: dict[str, Any]) -> dict[str, Any]:
    """Reads arrays by their saved names; those that are not in `wanted` are not read."""
    tree = jax.tree_util.tree_map_with_path(
        lambda path, _: wanted.get(name_of(path), ocp.PLACEHOLDER), saved
    )
    return leaves(ocp.load_checkpointables(step, {part: tree})[part])


def leaves(tree: Any) -> dict[str, Any]:
    """The arrays of a tree by name, such as "blocks_0/space_0/qkv/kernel"."""
    return {name_of(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def name_of(path: Any) -> str:
    """The name of an array from its path in a tree."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _abstract(x: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)


def _text(leaf: Any) -> str:
    return f"{leaf.dtype}{list(leaf.shape)}"


def _some(items: list[str]) -> str:
    return ", ".join(items[:LISTED]) + (", …" if len(items) > LISTED else "")
