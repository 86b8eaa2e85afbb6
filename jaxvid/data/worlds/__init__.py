"""Procedural worlds, one file each."""

from jaxvid.data.worlds import bodies, flow, glyphs, layers  # noqa: F401
from jaxvid.data.worlds.world import WORLDS, World, world

__all__ = ["WORLDS", "World", "world"]
