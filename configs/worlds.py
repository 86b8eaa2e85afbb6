"""A procedural world: bodies, glyphs, layers or flow. No data, no network.

    python -m jaxvid.train --config=configs/worlds.py:bodies

    bodies   balls and boxes under gravity, which collide and bounce
    glyphs   digits that drift, bounce off the edges and hide one another
    layers   patterns at several depths under a camera that pans, zooms or rolls
    flow     a pattern in which waves run, ripples spread or a swirl turns

docs/data.md shows and describes them; --config.data.NAME.… and --config.data.palette change them.

Needs: two CPU cores and 2 GiB of memory.
Measured with bodies on one core of an AMD EPYC, 2026-11-27: 18 clips/s, which makes 15 minutes, or
8 beside other programs; loss 0.68 at step 20 to 0.065. Bodies fall and meet, but in half of eight
clips one changes its colour, or comes from nowhere, and boxes are as round as balls: this world is
harder than that of base.py, and wants more steps, or fewer bodies (--config.data.bodies.count).
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
    # Of base.py before 2026-11-28, as measured above.
    c.model.update(width=64, heads=2)
    c.diffusion.noise_mean = 1.0
    c.conditions.label.classes = len(make_source(c.data).labels)
    return c
