"""Count the parameters and FLOPs of the published sizes, and print a Markdown table.

    python -m benchmarks.sizes

No network runs: the parameters come from shapes, and `jaxvid.models.flops` counts the FLOPs of one
forward pass on one clip of 16 frames of 32x32x3.
"""

import math

import jax

from configs import latte
from jaxvid.build import build
from jaxvid.models.flops import forward_flops


def main() -> None:
    print("| size | layers | width | heads | patch | tokens | parameters | GFLOP, forward |")
    print("|---|---|---|---|---|---|---|---|")
    for size, (layers, width, heads) in latte.SIZES.items():
        for patch in latte.PATCHES:
            config = latte.get_config(f"{size}/{patch}")
            run = build(config)
            parameters = sum(math.prod(x.shape) for x in jax.tree.leaves(run.params))
            T, S = config.data.frames, config.data.size
            flops = sum(forward_flops(*run.network_call(1)).values())
            print(
                f"| {size}/{patch} | {layers} | {width} | {heads} | {patch} "
                f"| {T * (S // patch) ** 2:,} | {parameters / 1e6:.1f} M | {flops / 1e9:.1f} |"
            )


if __name__ == "__main__":
    main()
