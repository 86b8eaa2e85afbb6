"""Text to video: the four procedural worlds and their captions, 16 frames of 96x96 pixels.

    python -m jaxvid.train --config=configs/text_to_video.py
    python -m jaxvid.sample --workdir=runs/text_to_video --caption="3 balls bouncing in a box"

Half of the clips show bodies, the others glyphs, layers and flow; docs/data.md describes them.

Needs: one GPU or TPU with 40 GB and 8 CPU cores; no data, no network.
Measured on one H100, 2026-11-27, for six of its minutes beside other programs: 18:56 minutes with
compilation, 315 clips/s, no data wait; loss 0.37 at step 50 to 0.032. That was with
conditions.text.reach=0: captions chose the world, and seldom the colours. With 3 they choose
colours in a small trial (docs/benchmarks.md); a whole run has not been made.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    c = base.get_config()
    c.steps, c.batch_size = 9000, 32
    c.data.update(source="mixture", mixture=("bodies(weight=3)", "glyphs", "layers", "flow"))
    c.data.update(frames=16, size=96, workers=8)
    c.model.update(blocks="space text time mlp", depth=8, unroll=8, patch=(1, 8, 8))
    c.model.update(width=512, heads=8, dtype="bfloat16")
    c.conditions.label.classes = 0
    c.conditions.text.update(length=96, depth=2)
    # The noise levels of base.py, for clips with 32 times as many pixels.
    c.diffusion.update(noise_mean=0.0, shift_reference=8 * 24 * 24)
    c.optimizer.update(lr=3e-3, warmup=100)
    c.ema.decay = 0.998
    c.checkpoint.every = 1000
    c.log.update(every=50, sample_every=3000)
    c.sampler.update(cfg_scale=2.0)
    return c
