"""The sources of clips, one file each."""

from jaxvid.config import declare, key, one_of
from jaxvid.data import worlds  # noqa: F401
from jaxvid.data.sources import clips, mixture, synthetic, videos  # noqa: F401
from jaxvid.data.sources.mixture import parts
from jaxvid.data.sources.per_video import PerVideo
from jaxvid.data.sources.registry import SOURCES, Source, make_source, source

__all__ = ["SOURCES", "PerVideo", "Source", "make_source", "parts", "source"]

declare("data", source=key("synthetic", one_of(SOURCES), "source of the clips"))
