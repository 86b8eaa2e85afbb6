"""Train on your own videos: what `python -m jaxvid.prepare` has made in a folder.

python -m jaxvid.prepare --input=VIDEOS --output=DIR --size=32 --fps=8 --frames=16
python -m jaxvid.train --config=configs/videos.py:DIR
"""

import json
from pathlib import Path

from ml_collections import ConfigDict

from configs import base


def get_config(arg: str = "") -> ConfigDict:
    """`arg`: the folder; its picture size, frame rate and classes are taken over."""
    config = base.get_config()
    config.data.source = "clips"
    config.data.path = arg
    config.data.update(flip=True, crop=0.8, reverse=True, brightness=0.1, contrast=0.1)
    config.data.strides = (1, 2)
    config.model.patch = (1, 4, 4)
    config.tasks.update(generate=0.5, predict=0.4, interpolate=0.05, random=0.05)
    manifest = Path(arg, "manifest.json")
    if arg and manifest.is_file():
        made = json.loads(manifest.read_text())
        config.data.size, config.data.fps = made["size"], float(made["fps"])
        config.conditions.label.classes = len(made["labels"])
    return config
