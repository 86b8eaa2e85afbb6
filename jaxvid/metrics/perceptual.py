"""LPIPS of predicted frames against the true ones, with AlexNet as in most papers, or VGG16."""

import functools
from collections.abc import Callable
from typing import Any

from jax.sharding import Mesh

from jaxvid.metrics.batches import on_devices
from jaxvid.metrics.metric import Clips, Features, paired
from jaxvid.models import lpips

EACH = 16  # clips on a device at once


@functools.lru_cache(maxsize=2)
def _on_devices(network: str, mesh: Mesh) -> Callable[[Clips, Clips], Features]:
    def distance(params: Any, drawn: Any, real: Any) -> Any:
        return lpips.lpips(params, drawn, real, network)

    return on_devices(distance, lpips.load_params(network), mesh, EACH)


for name, network in (("lpips", "alexnet"), ("lpips_vgg", "vgg16")):
    found = lpips.NETWORKS[network]
    register = paired(name, version=found.sha256[:16], better="lower", size=found.smallest)
    register(functools.partial(_on_devices, network))
