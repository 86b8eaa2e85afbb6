"""How much arithmetic a network does, counted by hand.

Matrix products only, 2 FLOPs per multiply-add, as is usual for model FLOPs utilisation (Chowdhery
et al. 2022, arXiv 2204.02311, appendix B): layers with a kernel, attention scores and the sums they
weight. Norms, softmax, activations, rotary positions, biases and look-ups are left out.
"""

import math
from collections.abc import Callable

from jaxvid.models import grammar
from jaxvid.models.conditioning import NOISE_FREQUENCIES
from jaxvid.models.convolution import Convolution
from jaxvid.models.mixers import MIXERS
from jaxvid.models.mlp import swiglu_width
from jaxvid.models.transformer import SpaceTimeTransformer, stacks

# FLOPs of a word per token, from the network and its tokens: t moments of h rows and w columns.
# `text` is counted without the length of the text, which adds 4 D a token and letter.
WORDS: dict[str, Callable[[SpaceTimeTransformer, int, int, int], int | float]] = {
    "space": lambda net, t, h, w: _attention(net.width, h * w),
    "time": lambda net, t, h, w: _attention(net.width, t),
    "joint": lambda net, t, h, w: _attention(net.width, t * h * w),
    "window": lambda net, t, h, w: _attention(net.width, _window(net, (t, h, w))),
    "recur": lambda net, t, h, w: 2 * ((4 if net.causal else 6) + 1) * net.width**2,
    "conv": lambda net, t, h, w: 2 * (Convolution.size + net.width) * net.width,
    "text": lambda net, t, h, w: 2 * 2 * net.width**2,
    "mlp": lambda net, t, h, w: 2 * 2 * net.mlp_ratio * net.width**2,
    "swiglu": lambda net, t, h, w: 2 * 3 * swiglu_width(net.width, net.mlp_ratio) * net.width,
}


def forward_flops(
    net: SpaceTimeTransformer, shape: tuple[int, int, int, int, int]
) -> dict[str, int | float]:
    """FLOPs of one forward pass on a video of `shape` (B, T, H, W, C), which the patches divide.

    Returns:
      For each word of `net.blocks` what its mixers cost, over the whole depth; `modulation`, the
      adaLN layers; `embedding`, the layers from patches and noise levels and to pixels. What a
      condition costs is left out.
    """
    B, T, H, W, C = shape
    p, q, r = net.patch
    t, h, w, D = T // p, H // q, W // r, net.width
    moments, tokens = B * t, B * t * h * w
    counts, modulated = {}, 0
    for line, depth in stacks(net.blocks, net.depth):
        words = [word for group in grammar.parse(line, MIXERS) for word in group]
        modulated += len(words) * (1 if net.adaln == "shared" else depth)
        for word in words:
            cost = tokens * depth * WORDS[word](net, t, h, w)
            counts[word] = counts.get(word, 0) + cost
    # Shift, scale and gate of every word, shift and scale before the pixels: once per moment.
    counts["modulation"] = 2 * moments * D * (3 * modulated + 2) * D
    noise = moments * (p * 2 * len(NOISE_FREQUENCIES) + D) * D
    patches = pixels = tokens * (p * q * r * C) * D
    counts["embedding"] = 2 * (noise + patches + pixels)
    return dict(sorted(counts.items()))


def train_flops(
    net: SpaceTimeTransformer, shape: tuple[int, int, int, int, int]
) -> dict[str, int | float]:
    """FLOPs of one training step: three times `forward_flops`.

    The backward pass has two products for each of the forward's, so a weight costs 6 FLOPs a token.
    What is computed again under `net.remat`, and the optimizer, are not counted.
    """
    return {name: 3 * count for name, count in forward_flops(net, shape).items()}


def _attention(width: int, length: int | float) -> int | float:
    """Per token: query, key, value and output projections; scores and weighted sum of `length`."""
    return 2 * 4 * width**2 + 2 * 2 * length * width


def _window(net: SpaceTimeTransformer, size: tuple[int, int, int]) -> float:
    """Keys that a token meets in its window, those of the padding's queries shared out among all.

    Causal windows are cut out of all frames by a mask, which spares no arithmetic.
    """
    window = [min(side, n) for side, n in zip(net.window, size, strict=True)]
    if net.causal:
        window[0] = size[0]
    padded = [-(-n // side) * side for n, side in zip(size, window, strict=True)]
    return math.prod(window) * math.prod(padded) / math.prod(size)
