"""Conversion between the formats of a work directory.

`config.json` states its format, or has format 1. Checkpoints state none, because a run that began
in an old format and was resumed has checkpoints of both. Each array is looked up by its current
name, then by its former names. Keys that were only renamed are declared with `was`: see
`jaxvid.config.key`.
"""

from collections.abc import Collection, Mapping
from typing import Any

from jaxvid.errors import InputError
from jaxvid.models import grammar

FORMAT = 2

# For each format, the prefixes of parameter names that it renamed, old and new.
RENAMED_PARAMETERS = {
    2: {
        "condition/label": "label/classes",
        "condition/text": "text/mean",
        "condition/action_in": "action/in",
        "condition/action_out": "action/out",
        "condition/action_null": "action/null",
        "condition/low_res_in": "low_res/in",
        "condition/low_res_out": "low_res/out",
    }
}


def upgrade_config(saved: Mapping[str, Any]) -> dict[str, Any]:
    """Converts the content of a `config.json` of any format to a config of the current format.

    Raises InputError for a format that is newer than this code.
    """
    version = saved.get("format", 1)
    if version > FORMAT:
        raise InputError(
            f"the work directory has format {version}, but this version of jaxvid reads formats up "
            f"to {FORMAT}: use a newer jaxvid"
        )
    config = dict(saved["config"] if version > 1 else saved)
    if version == 1 and "model" in config:
        config["model"] = _blocks_with_arguments(config["model"])
    if "data" in config:
        config["data"] = _augmentations_in_a_list(config["data"])
    return config


def _augmentations_in_a_list(data: Mapping[str, Any]) -> dict[str, Any]:
    """Writes augmentations, which once had keys of their own, as texts of `data.augment`."""
    data = dict(data)
    flip, crop, reverse = data.pop("flip", False), data.pop("crop", 1.0), data.pop("reverse", False)
    light = {name: data.pop(name, 0.0) for name in ("brightness", "contrast")}
    texts = ["flip"] * flip + [f"crop(least={crop})"] * (crop < 1) + ["reverse"] * reverse
    if any(light.values()):
        options = ", ".join(f"{name}={value}" for name, value in light.items())
        texts.append(f"colour({options}, saturation=0)")
    return data | {"augment": texts} if texts else data


def _blocks_with_arguments(model: Mapping[str, Any]) -> dict[str, Any]:
    """Moves the size of a window and the repeats of a line into `model.blocks`, as in format 2."""
    model = dict(model)
    window, blocks = model.pop("window", None), model["blocks"]
    if not isinstance(blocks, str):
        blocks = grammar.from_stacks(blocks)
    if window is not None:
        blocks = grammar.with_window(blocks, window)
    return model | {"blocks": blocks}


def saved_name(name: str, saved: Collection[str]) -> str:
    """The name under which the array `name` is `saved`; `name` itself if there is no such array.

    A name is the path of a leaf, its keys joined by "/": `opt_state/0/mu/label/classes/embedding`.
    It may lead through other trees to a copy of the parameters.
    """
    former = name
    for version in sorted(RENAMED_PARAMETERS, reverse=True):
        if former in saved:
            break
        former = _undo(former, RENAMED_PARAMETERS[version])
    return former if former in saved else name


def _undo(name: str, renamed: Mapping[str, str]) -> str:
    keys = name.split("/")
    for start in range(len(keys)):
        rest = "/".join(keys[start:])
        for old, new in renamed.items():
            if f"{rest}/".startswith(f"{new}/"):
                return "/".join([*keys[:start], old + rest.removeprefix(new)])
    return name
