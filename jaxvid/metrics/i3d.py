"""Distances of the features of I3D, a classifier of actions: the Fréchet video distance and others.

The features are the logits, as in Unterthiner et al. 2018 (arXiv 1812.01717), of clips at any size.
"""

import functools

from jax.sharding import Mesh

from jaxvid.metrics.batches import on_devices
from jaxvid.metrics.frechet import frechet_distance
from jaxvid.metrics.manifold import coverage, density, precision, recall
from jaxvid.metrics.metric import Extract, feature, metric
from jaxvid.metrics.mmd import mmd
from jaxvid.models import i3d

EACH = 4  # clips on a device at once

metric("fvd", of="i3d", better="lower")(frechet_distance)
metric("kvd", of="i3d", better="lower")(mmd)
for name, compare in dict(
    precision=precision, recall=recall, density=density, coverage=coverage
).items():
    metric(name, of="i3d", better="higher")(compare)


@feature("i3d", version=i3d.SHA256[:16], frames=i3d.FEWEST)
@functools.lru_cache(maxsize=1)
def logits(mesh: Mesh, fps: float) -> Extract:
    """The 400 logits of clips, on all devices of a mesh."""
    return on_devices(lambda p, clips: i3d.features(p, clips)[0], i3d.load_params(), mesh, EACH)
