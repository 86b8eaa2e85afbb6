"""Count parameters and FLOPs of the published sizes: a table in Markdown.

    python -m benchmarks.sizes

Nothing is computed: parameters come from shapes, FLOPs of one forward pass on one clip of 16 frames
of 32x32x3 from `jaxvid.models.flops`.
"""

import math

import jax

from configs import latte
from jaxvid.models.flops import forward_flops
from jaxvid.parallel.mesh import make_mesh
from jaxvid.training.optimizer import make_optimizer
from jaxvid.training.state import blank_inputs, make_init, make_network


def main() -> None:
    print("| size | layers | width | heads | patch | tokens | parameters | GFLOP, forward |")
    print("|---|---|---|---|---|---|---|---|")
    for size, (layers, width, heads) in latte.SIZES.items():
        for patch in latte.PATCHES:
            config = latte.get_config(f"{size}/{patch}")
            net = make_network(config)
            _, state = make_init(config, net, make_optimizer(config), make_mesh(config.mesh))
            parameters = sum(math.prod(x.shape) for x in jax.tree.leaves(state.params))
            T, S = config.data.frames, config.data.size
            inputs = {"params": state.params}, *blank_inputs(config, 1)
            flops = sum(forward_flops(net.apply, *inputs).values())
            print(
                f"| {size}/{patch} | {layers} | {width} | {heads} | {patch} "
                f"| {T * (S // patch) ** 2:,} | {parameters / 1e6:.1f} M | {flops / 1e9:.1f} |"
            )


if __name__ == "__main__":
    main()
