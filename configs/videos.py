"""Train on your own videos, from a folder of clips that `python -m jaxvid.prepare` made.

    python -m jaxvid.prepare --input=VIDEOS --output=DIR --size=32 --fps=8 --frames=16
    python -m jaxvid.train --config=configs/videos.py:DIR

Size, frame rate, length, classes and captions are taken from DIR. If it has clips of several shapes
(--size=36x64,48x48,64x36), each shape is a bucket. Flips, crops and small changes of light and
colour augment a small data set; clips are never reversed.

Needs: two CPU cores and 2 GiB of memory. 2000 steps take half an hour, at 0.9 s per step on two
busy cores, which is enough for a first result on a few dozen clips.
Measured after 500 steps (9 minutes) on nine clips of three videos, 2026-11-24: loss 0.58 to 0.089.
Of four continued videos, two keep their scene but lose details, and two become mosaics; generated
clips are still mosaics.

With thousands of clips and an accelerator, prepare at --size=64 and set

    --config.steps=100000 --config.batch_size=64
    --config.model.width=384 --config.model.heads=6 --config.model.depth=6 --config.model.unroll=6
    --config.optimizer.name=adamw --config.optimizer.lr=1e-4 --config.optimizer.warmup=1000
    --config.optimizer.decay=constant --config.ema.decay=0.9999 --config.checkpoint.every=2000
    --config.model.dtype=bfloat16 --config.data.workers=8

A token is a patch of 4x4 pixels at any size: raise model.patch if memory or time is short.
"""

from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from configs import base
from jaxvid.data import manifest
from jaxvid.data.curation.settings import Settings
from jaxvid.files import to_path


def get_config(arg: str = "") -> ConfigDict:
    """The config for the folder `arg`; raises InputError if prepare did not make the folder."""
    c = base.get_config()
    # Replaces all settings of base.py that depend on its tiny clips.
    c.steps, c.batch_size = 2000, 4
    c.data.update(source="clips", path=arg, frames=16, size=32, fps=8.0, strides=(1, 2))
    c.data.augment = ("flip", "crop(least=0.8)", "colour")
    c.tasks.update(generate=0.5, predict=0.4, interpolate=0.05, random=0.05)
    c.model.update(blocks="space mlp time mlp", depth=4, unroll=4)
    c.model.update(width=96, heads=3, patch=(1, 4, 4))
    c.conditions.label.classes = 0
    c.diffusion.update(prediction="x0", noise_mean=0.5, max_observed_noise=0.3)
    c.optimizer.update(name="muon", lr=4e-3, warmup=50, decay="linear", b2=0.99)
    c.ema.update(decay=0.99, snapshot_every=500)
    c.checkpoint.update(every=250, keep=2)
    c.log.update(every=25, sample_every=250)
    c.sampler.update(name="euler", cfg_scale=1.5, observed_noise=0.2)
    if arg:
        folder = to_path(arg, "the folder")
        shapes = [manifest.read(folder / name) for name in manifest.shapes(folder) or [""]]
        _take_over(c, [made for made in shapes if made["shards"]] or shapes)
    return c


def _take_over(c: ConfigDict, shapes: Sequence[dict[str, Any]]) -> None:
    """Those of a folder, or of its subfolders, of which each has a bucket."""
    made = max(shapes, key=lambda made: sum(s["clips"] for s in made["shards"].values()))
    sides = [Settings.from_json(each).shape for each in shapes]
    (height, width), frames = Settings.from_json(made).shape, min(c.data.frames, made["frames"])
    c.data.update(size=height, frames=frames, fps=float(made["fps"]))
    c.data.width = width if width != height else 0
    if len(shapes) > 1:
        c.data.by_aspect = True
        c.data.buckets = tuple(f"h{H}w{W}(size={H}, width={W if W != H else 0})" for H, W in sides)
    patch = next(n for n in (4, 2, 1) if all(H % n == W % n == 0 for H, W in sides))
    c.model.patch = (1, patch, patch)
    c.conditions.label.classes = len({label for each in shapes for label in each["labels"]})
    c.conditions.text.length = min(max(each["caption"] for each in shapes), 128)
