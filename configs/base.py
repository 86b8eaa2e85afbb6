"""Base."""

from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict()
    c.seed = 0
    c.steps = 1000
    c.batch_size = 32
    c.data = ConfigDict(
        dict(
            source="synthetic",
            path="",
            frames=8,
            size=32,
            fps=8.0,
            shapes=(1, 2),
            strides=(1,),
            flip=False,
            crop=1.0,
            reverse=False,
            brightness=0.0,
            contrast=0.0,
            workers=0,
            prefetch=2,
            max_bad=100,
        )
    )
    c.tasks = ConfigDict(dict(generate=0.6, predict=0.2, interpolate=0.1, random=0.1))
    c.model = ConfigDict(
        dict(
            blocks="space mlp time mlp",
            depth=4,
            width=128,
            heads=4,
            patch=(1, 8, 8),
            mlp_ratio=4,
            labels=3,
            label_dropout=0.1,
            remat="none",
            unroll=4,
            dtype="float32",
        )
    )
    c.diffusion = ConfigDict(
        dict(
            process="rectified_flow",
            prediction="x0",
            loss="velocity",
            noise="logit_normal",
            noise_mean=0.0,
            noise_std=1.0,
            noise_low=0.05,
        )
    )
    c.optimizer = ConfigDict(
        dict(
            name="muon",
            lr=2e-3,
            warmup=50,
            decay="linear",
            weight_decay=0.0,
            b2=0.99,
            clip=1.0,
            accumulate=1,
        )
    )
    c.ema = ConfigDict(dict(decay=0.99))
    c.mesh = ConfigDict(dict(replica=1, data=-1, fsdp=1, context=1, tensor=1))
    c.checkpoint = ConfigDict(dict(every=500, keep=2))
    c.log = ConfigDict(dict(every=20, sample_every=500))
    c.sampler = ConfigDict(dict(name="euler", steps=32, cfg_scale=1.5, num=8))
    return c
