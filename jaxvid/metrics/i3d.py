"""Distances of the features of I3D, a classifier of actions: the Fréchet video distance and others.

The features are the logits, as in Unterthiner et al. 2018 (arXiv 1812.01717), of clips at any size.
"""

import jax
import numpy as np
from jax.sharding import Mesh

from jaxvid.metrics.frechet import frechet_distance
from jaxvid.metrics.manifold import coverage, density, precision, recall
from jaxvid.metrics.metric import Clips, Extract, Features, feature, metric
from jaxvid.metrics.mmd import mmd
from jaxvid.models import i3d
from jaxvid.parallel import rules

EACH = 4  # clips on a device at once

metric("fvd", of="i3d", better="lower")(frechet_distance)
metric("kvd", of="i3d", better="lower")(mmd)
for name, compare in dict(
    precision=precision, recall=recall, density=density, coverage=coverage
).items():
    metric(name, of="i3d", better="higher")(compare)


@feature("i3d", version=i3d.SHA256[:16], frames=i3d.FEWEST)
def logits(mesh: Mesh, fps: float) -> Extract:
    """The 400 logits of clips, on all devices of a mesh."""
    params = jax.device_put(i3d.load_params(), rules.replicated(mesh))
    size, of_clips = EACH * rules.batch_parts(mesh), rules.batch_sharding(mesh)
    run = jax.jit(
        lambda params, clips: i3d.features(params, clips)[0], out_shardings=rules.replicated(mesh)
    )

    def extract(clips: Clips) -> Features:
        rows = []
        for start in range(0, len(clips), size):
            part = clips[start : start + size]
            whole = np.resize(part, (size, *part.shape[1:]))
            on_devices = jax.make_array_from_callback(whole.shape, of_clips, whole.__getitem__)
            rows.append(np.asarray(run(params, on_devices))[: len(part)])
        return np.concatenate(rows)

    return extract
