"""Large models, each for a TPU pod; docs/scaling.md has what each takes of it.

    python -m jaxvid.aot --config=configs/pods.py:NAME --topology=… [--slices=2]

    NAME         parameters  clips                      for
    latte        0.7 B       16 frames of 32x32 pixels  v5e:4x4, 16 chips
    wide         2 B         64 frames of 64x64         v5p:4x4x8, 128 chips
    two_slices   13 B        16 frames of 64x64         two slices v6e:16x16, 512 chips
    joint        1.2 B       128 frames of 64x64        v5p:4x4x8, 128 chips

`latte` is Latte-XL/2 (Ma et al. 2024), whose latents of 16 frames of 256x256 pixels have as many
tokens. `joint` has attention among all 131,072 tokens of a clip, which 16 devices divide
(`mesh.context`); each mixes all of them for one head. The clips are those of the synthetic world:
set `data` to yours. Compiled for these pods, and not yet trained on them.
"""

from ml_collections import ConfigDict

from configs import latte
from jaxvid.errors import InputError

# By name: changes of the data, the network and the mesh; clips of a step. `fsdp` divides the width
# into multiples of 16: of other parts, XLA sums whole gradients in place of a reduce-scatter.
PODS = {
    "latte": ({}, {}, dict(data=2, fsdp=8), 64),
    "wide": (
        dict(frames=64, size=64),
        dict(width=2048, heads=16, depth=20, adaln="shared"),
        dict(data=8, fsdp=16),
        256,
    ),
    "two_slices": (
        dict(frames=16, size=64),
        dict(width=4096, heads=32, depth=32, adaln="shared"),
        dict(replica=2, data=4, fsdp=64),
        512,
    ),
    "joint": (
        dict(frames=128, size=64),
        dict(blocks="joint mlp", width=2048, heads=16, depth=24, adaln="shared"),
        dict(fsdp=8, context=16),
        8,
    ),
}


def get_config(arg: str = "latte") -> ConfigDict:
    """The config of a name; raises InputError for another."""
    if arg not in PODS:
        raise InputError(f"pods.py:{arg}: choose one of {', '.join(PODS)}")
    data, model, mesh, clips = PODS[arg]
    config = latte.get_config("XL/2")
    config.batch_size = clips
    config.data.update(data)
    config.model.update(unroll=1, remat="full")
    config.model.update(model)
    config.mesh.update({"data": 1} | mesh)
    return config
