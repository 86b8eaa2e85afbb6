"""A procedural world: bodies, glyphs, layers or flow. No data, no network.

    python -m jaxvid.train --config=configs/worlds.py:bodies

    bodies   balls and boxes under gravity, which collide and bounce
    glyphs   digits that drift, bounce off the edges and hide one another
    layers   patterns at several depths under a camera that pans, zooms or rolls
    flow     a pattern in which waves run, ripples spread or a swirl turns

docs/data.md shows and describes them; --config.data.NAME.… and --config.data.palette change them.

Needs: two CPU cores, 2 GiB of memory and about ten minutes.
"""

from ml_collections import ConfigDict

from configs import base
from jaxvid.data.sources import make_source
from jaxvid.data.worlds import WORLDS
from jaxvid.errors import InputError


def get_config(name: str = "") -> ConfigDict:
    if name not in WORLDS:
        raise InputError(
            f"configs/worlds.py:{name}: give a world, as in configs/worlds.py:bodies: one of "
            f"{', '.join(WORLDS)}"
        )
    c = base.get_config()
    c.data.update(source=name, size=32)
    c.model.patch = (1, 4, 4)
    c.conditions.label.classes = len(make_source(c.data).labels)
    return c
