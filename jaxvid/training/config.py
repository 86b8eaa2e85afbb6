"""Configs: read from flags and work directories, and checked before any compile."""

import difflib
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict

from jaxvid.errors import InputError
from jaxvid.models import grammar
from jaxvid.models.mixers import MIXERS
from jaxvid.models.transformer import stacks
from jaxvid.training.keys import KEYS, RESUMABLE


def parse_flags(argv: Sequence[str]) -> list[str]:
    """absl's parsing, with our own line for a `--config.KEY=VALUE` whose key or type is wrong.

    Raises InputError for these, and `flags.Error` for other flags.
    """
    for argument in argv:
        name = argument.lstrip("-").partition("=")[0]
        if argument.startswith("-") and name.startswith("config."):
            _check_key(name.removeprefix("config."))
    try:
        return flags.FLAGS(argv)
    except flags.IllegalFlagValueError as error:
        if "Traceback" in str(error):  # of the config file: its last line says what is wrong
            raise InputError(str(error).strip().splitlines()[-1].partition(": ")[2]) from error
        override = re.match(r"flag --config\.([\w.]+)=(.*?): ", str(error))
        if not override:
            raise
        name, value = override.groups()
        raise InputError(f"config.{name}={value}: it must be {KEYS[name][0]}") from error


def _check_key(name: str) -> None:
    if name not in KEYS:
        nearest = difflib.get_close_matches(name, KEYS, 1)
        hint = f"did you mean config.{nearest[0]}?" if nearest else f"known: {', '.join(KEYS)}"
        raise InputError(f"config.{name}: there is no such key; {hint}")


def from_flag(flag: Any) -> ConfigDict:
    """The value of a `config_flags.DEFINE_config_file` flag, checked.

    Raises InputError for a file that does not load and for what `check` finds.
    """
    config = flag.value
    if config is None:
        raise InputError("give --config=FILE.py, such as --config=configs/base.py")
    try:
        config.keys()  # A file that failed to load says so at the first touch.
    except OSError as error:
        reason = " ".join(str(error).partition("failure to load: ")[2].split())
        raise InputError(f"--config does not load: {reason}") from error
    check(config)
    return config


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """A nested config as {"data.frames": 16, …}."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, ConfigDict | dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def check(config: ConfigDict) -> None:
    """Raises InputError, naming the key, for what is unknown, missing, mistyped or does not fit."""
    flat = flatten(config)
    for name, value in flat.items():
        _check_key(name)
        what, holds = KEYS[name]
        if not holds(value):
            raise InputError(f"config.{name}={value!r}: it must be {what}")
    for name in KEYS:
        if name not in flat:
            raise InputError(f"config.{name} is missing: start from configs/base.py's get_config()")

    c, model = config, config.model
    if c.sampler.lag > c.sampler.steps:
        raise InputError(
            f"config.sampler.lag={c.sampler.lag} is at most config.sampler.steps="
            f"{c.sampler.steps}, one frame at a time"
        )
    if c.sampler.eta and c.sampler.name != "ddim":
        raise InputError(f"config.sampler.eta={c.sampler.eta} is for the sampler 'ddim' only")
    words = set()
    for line, depth in stacks(model.blocks, model.depth):
        words.update(word for group in grammar.parse(line, MIXERS) for word in group)
        if depth % min(model.unroll, depth):
            raise InputError(f"config.model.unroll={model.unroll} must divide depth={depth}")
    if "text" in words and not c.data.text_length:
        raise InputError(
            "config.model.blocks: 'text' attends to captions, and there are none: set "
            "config.data.text_length"
        )
    if model.width % (2 * model.heads) or model.width % 4:
        raise InputError(
            f"config.model.width={model.width} must be a multiple of 4 and of "
            f"2 * model.heads = {2 * model.heads}: rotary positions turn pairs"
        )
    for name, size, patch in (
        ("frames", c.data.frames, model.patch[0]),
        ("size", c.data.size, model.patch[1]),
        ("size", c.data.size, model.patch[2]),
    ):
        if size % patch:
            raise InputError(
                f"config.data.{name}={size} does not divide into patches of {patch} "
                f"(config.model.patch={tuple(model.patch)}): choose a multiple or another patch"
            )
    if c.data.low_res and c.data.size % c.data.low_res:
        raise InputError(
            f"config.data.low_res={c.data.low_res} must divide config.data.size={c.data.size}: the "
            "low-resolution video is the mean over squares of so many pixels a side"
        )
    for name in ("observed_noise", "low_res_noise"):
        level, highest = c.sampler[name], c.diffusion[name]
        # A network of `per_frame` levels knows all of them at any frame.
        if level > highest and not (c.diffusion.per_frame and name == "observed_noise"):
            raise InputError(
                f"config.sampler.{name}={level} is at most config.diffusion.{name}={highest}, the "
                "highest level that is trained on"
            )
    if c.batch_size % c.optimizer.accumulate:
        raise InputError(
            f"config.batch_size={c.batch_size} does not divide into "
            f"config.optimizer.accumulate={c.optimizer.accumulate} parts"
        )
    if not any(c.tasks.values()):
        raise InputError("config.tasks: every share is 0; give one task a share above 0")
    if c.data.frames == 1 and not c.tasks.generate:
        raise InputError("config.data.frames=1 leaves only tasks.generate: give it a share above 0")
    if c.data.source == "clips" and not c.data.path:
        raise InputError("config.data.path is empty: name a folder that jaxvid.prepare has made")


def check_mesh(config: ConfigDict, parts: int, fsdp: int) -> None:
    """Raises InputError if the batch or the width does not divide over the mesh.

    Args:
      config: the whole config.
      parts: into how many parts the mesh splits a batch.
      fsdp: size of that axis, which splits the width of the parameters.
    """
    micro = config.batch_size // config.optimizer.accumulate
    if micro % parts:
        raise InputError(
            f"config.batch_size={config.batch_size} in config.optimizer.accumulate="
            f"{config.optimizer.accumulate} part(s) does not divide over the {parts} devices of "
            f"the mesh's replica, data and fsdp axes: make it a multiple of "
            f"{parts * config.optimizer.accumulate}"
        )
    if config.model.width % fsdp:
        raise InputError(
            f"config.model.width={config.model.width} does not divide over config.mesh.fsdp={fsdp}"
        )


def check_labels(config: ConfigDict, labels: Sequence[str]) -> None:
    """Raises InputError if the network's classes are not those of the data."""
    if config.model.labels and config.model.labels != len(labels):
        raise InputError(
            f"config.model.labels={config.model.labels}, but the data has {len(labels)} classes"
            f"{': ' + ', '.join(labels[:8]) if labels else ''}; set it to {len(labels)}, or to 0 "
            "to train without them"
        )


def claim(workdir: Path, config: ConfigDict, write: bool) -> None:
    """Makes `workdir` this config's, or raises InputError if it has results of another's.

    Keys under `RESUMABLE` may differ. `write`: whether this process writes `config.json`.
    """
    path = workdir / "config.json"
    saved = [*workdir.glob("checkpoints/*"), *workdir.glob("snapshots/*")]
    if any(folder.name.isdigit() for folder in saved):
        old, new = flatten(load(workdir)), flatten(json.loads(config.to_json()))
        changed = [
            f"{key}: {old.get(key, 'absent')} there, {new.get(key, 'absent')} now"
            for key in sorted(old.keys() | new.keys())
            if old.get(key) != new.get(key) and not key.startswith(RESUMABLE)
        ]
        if changed:
            raise InputError(
                f"{workdir} holds a run with another config ({'; '.join(changed)}): "
                "give another --workdir, or the config it was made with"
            )
    if write:
        workdir.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        temporary.write_text(config.to_json(indent=2, sort_keys=True) + "\n")
        os.replace(temporary, path)


def load(workdir: Path) -> ConfigDict:
    """The config of the run in `workdir`; raises InputError where there is none."""
    path = workdir / "config.json"
    try:
        return ConfigDict(json.loads(path.read_text()))
    except FileNotFoundError:
        raise InputError(f"{workdir}: no run is there ({path} is missing)") from None
    except ValueError as error:
        raise InputError(f"{path} is not readable as JSON: {error}") from None
