"""LPIPS of predicted frames against the true ones, with AlexNet as in most papers, or VGG16."""

import functools
from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import Mesh

from jaxvid.metrics.metric import Clips, Features, paired
from jaxvid.models import lpips
from jaxvid.parallel import rules


@functools.lru_cache(maxsize=2)
def _on_devices(network: str, mesh: Mesh) -> Callable[[Clips, Clips], Features]:
    params = jax.device_put(lpips.load_params(network), rules.replicated(mesh))

    def distance(drawn: Clips, real: Clips) -> Features:
        return np.asarray(lpips.lpips(params, drawn, real, network))

    return distance


for name, network in (("lpips", "alexnet"), ("lpips_vgg", "vgg16")):
    found = lpips.NETWORKS[network]
    register = paired(name, version=found.sha256[:16], better="lower", size=found.smallest)
    register(functools.partial(_on_devices, network))
