"""How much arithmetic a network does, counted by hand.

Matrix products only, 2 FLOPs per multiply-add, as is usual for model FLOPs utilisation (Chowdhery
et al. 2022, arXiv 2204.02311, appendix B): layers with a kernel, attention scores and the sums they
weight. Norms, softmax, activations, rotary positions, biases and look-ups are left out.
"""

from collections.abc import Callable

from jaxvid.models import grammar
from jaxvid.models.mixers import MIXERS
from jaxvid.models.transformer import NOISE_FREQUENCIES, SpaceTimeTransformer

# FLOPs of a word per token, from the network and its tokens: t moments of n patches each.
WORDS: dict[str, Callable[[SpaceTimeTransformer, int, int], int]] = {
    "space": lambda net, t, n: _attention(net.width, n),
    "time": lambda net, t, n: _attention(net.width, t),
    "joint": lambda net, t, n: _attention(net.width, t * n),
    "mlp": lambda net, t, n: 2 * 2 * net.mlp_ratio * net.width**2,
}


def forward_flops(
    net: SpaceTimeTransformer, shape: tuple[int, int, int, int, int]
) -> dict[str, int]:
    """FLOPs of one forward pass on a video of `shape` (B, T, H, W, C), which the patches divide.

    Returns:
      For each word of `net.blocks` what its mixers cost, over the whole depth; `modulation`, the
      adaLN layers; `embedding`, the layers from patches and noise levels and to pixels.
    """
    B, T, H, W, C = shape
    p, q, r = net.patch
    t, n, D = T // p, (H // q) * (W // r), net.width
    moments, tokens = B * t, B * t * n
    words = [w for group in grammar.parse(net.blocks, MIXERS) for w in group] * net.depth

    counts = {word: words.count(word) * tokens * WORDS[word](net, t, n) for word in set(words)}
    # Shift, scale and gate of every word, shift and scale before the pixels: once per moment.
    counts["modulation"] = 2 * moments * D * (3 * len(words) + 2) * D
    noise = moments * (p * 2 * len(NOISE_FREQUENCIES) + D) * D
    patches = pixels = tokens * (p * q * r * C) * D
    counts["embedding"] = 2 * (noise + patches + pixels)
    return dict(sorted(counts.items()))


def train_flops(net: SpaceTimeTransformer, shape: tuple[int, int, int, int, int]) -> dict[str, int]:
    """FLOPs of one training step: three times `forward_flops`.

    The backward pass has two products for each of the forward's, so a weight costs 6 FLOPs a token.
    What is computed again under `net.remat`, and the optimizer, are not counted.
    """
    return {name: 3 * count for name, count in forward_flops(net, shape).items()}


def _attention(width: int, length: int) -> int:
    """Per token: query, key, value and output projections; scores and weighted sum of `length`."""
    return 2 * 4 * width**2 + 2 * 2 * length * width
