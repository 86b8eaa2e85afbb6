"""The network sizes of Latte (Ma et al. 2024, arXiv 2401.03048), with another training setup.

    python -m jaxvid.train --config=configs/latte.py:XL/2

The argument is SIZE/PATCH: S, B, L or XL, and patches of 2, 4 or 8 pixels. SIZE-128, such as
XL-128/2, has fewer heads, of 128 features, which suit the matrix units of TPUs: a step of XL takes
an estimated 1% less, but fewer heads learned less in a small trial (docs/benchmarks.md). Latte
counts each space block and each time block as a layer, so the line is repeated half as often.
docs/benchmarks.md has the parameters and FLOPs of all sizes, from `python -m benchmarks.sizes`.

As published: layers, width and heads; alternating space and time blocks; adaLN-Zero; 16 frames;
AdamW at a constant 1e-4 without weight decay; an EMA with decay 0.9999.

Not as published, so its scores cannot be compared with Latte's:

                   Latte                                    here
    data           UCF-101, SkyTimelapse and others         the synthetic world
    output         VAE latents 32x32x4 of 256x256 pixels    pixels 32x32x3
    process        DDPM: 1000 steps, linear betas           rectified flow
    noise levels   uniform, one per clip                    logit-normal; observed frames have less
    prediction     eps and variance                         x0, with the loss on velocity
    tasks          generation                               prediction and interpolation too
    positions      sine and cosine tables, added            rotary, in seconds and patches
    attention      plain                                    normalised queries and keys
    learning rate  no warm-up                               1000 steps of warm-up
    clipping       at 0.1, from step 100,000 on             at 1, always
    batch          5 clips per GPU                          64 clips
    sampler        DDPM, 250 steps                          DPM-Solver++(2M), 32 steps

The depth is unrolled. A step of XL/2 then takes an estimated 0.72 (v6e) to 0.80 (v5p) of the time
that it takes with model.unroll=1 and model.remat=dots, and a third more memory for intermediate
results: 4.7 GiB per clip. It compiles in twice the time. On an H100 it takes 0.61 of the time with
model.unroll=1. If memory is short, see docs/troubleshooting.md.

For accelerators. No full training run has been made with it; a short one of S/2, 3,000 steps, is in
docs/benchmarks.md with its scores and samples.
"""

from ml_collections import ConfigDict

from configs import base
from jaxvid.errors import InputError

SIZES = {"S": (12, 384, 6), "B": (12, 768, 12), "L": (24, 1024, 16), "XL": (28, 1152, 16)}
PATCHES = (2, 4, 8)


def get_config(arg: str = "S/2") -> ConfigDict:
    """The config for `arg`, SIZE/PATCH; raises InputError for another form."""
    name, _, patch = arg.partition("/")
    size = name.removesuffix("-128")
    if size not in SIZES or patch not in map(str, PATCHES):
        raise InputError(
            f"latte.py:{arg}: give SIZE/PATCH, one of {', '.join(SIZES)} and one of "
            f"{', '.join(map(str, PATCHES))}, such as latte.py:S/2; or SIZE-128/PATCH"
        )
    layers, width, heads = SIZES[size]
    if name != size:
        heads = width // 128
    config = base.get_config()
    config.steps, config.batch_size = 100_000, 64
    config.data.update(frames=16, size=32, shapes=(2, 3), spin=1.0, workers=4)
    config.model.update(blocks="space mlp time mlp", depth=layers // 2)
    config.model.update(width=width, heads=heads, unroll=layers // 2, remat="none")
    config.model.update(patch=(1, int(patch), int(patch)), dtype="bfloat16")
    config.diffusion.noise_mean = 1.0  # as measured in docs/benchmarks.md
    config.optimizer.update(name="adamw", lr=1e-4, warmup=1000, decay="constant", b2=0.999)
    config.ema.update(decay=0.9999, widths=(0.05, 0.10), snapshot_every=2000)
    config.checkpoint.update(every=2000, keep=3)
    config.log.update(every=50, sample_every=5000)
    config.sampler.update(name="dpmpp_2m")
    return config
