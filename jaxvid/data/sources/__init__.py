"""The sources of clips, one file each."""

from ml_collections import ConfigDict

from jaxvid.config import declare, key, one_of, requirement
from jaxvid.data import worlds
from jaxvid.data.sources import clips, images, mixture, synthetic, tfds, videos  # noqa: F401
from jaxvid.data.sources.mixture import Mixture, parts
from jaxvid.data.sources.per_video import PerVideo
from jaxvid.data.sources.registry import SOURCES, Source, make_source, source
from jaxvid.errors import InputError

__all__ = ["SOURCES", "Mixture", "PerVideo", "Source", "make_source", "parts", "source"]

declare("data", source=key("synthetic", one_of(SOURCES), "source of the clips"))


@requirement
def _check_square(config: ConfigDict) -> None:
    drawn = [name for name in parts(config.data) if name in (*worlds.WORLDS, "synthetic")]
    if drawn and config.data.width not in (0, config.data.size):
        raise InputError(
            f"config.data.width={config.data.width}: the world {drawn[0]} is square: set it to 0"
        )
