"""The base of every other config: bouncing shapes, on any machine, in under ten minutes.

    python -m jaxvid.train --config=configs/base.py

Needs: two CPU cores and 2 GiB of memory; no data, no network.
Gave, on two cores of an AMD EPYC, 2026-11-22: 6:19 minutes, 1.4 GB at most, 18 to 28 clips/s, no
waiting for data; loss 1.18 (mean of the first 20 steps) to 0.062 (of steps 1121 to 1140). Shapes
keep their form and move on smooth paths; three of eight change their colour on the way.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    c = ConfigDict()
    c.seed = 0
    c.steps = 1150
    c.batch_size = 8  # clips per step, over all devices

    c.data = ConfigDict()
    c.data.source = "synthetic"  # or "clips", made by jaxvid.prepare
    c.data.path = ""  # the folder of "clips"
    c.data.frames = 8  # per clip
    c.data.size = 16  # height and width in pixels
    c.data.fps = 8.0
    c.data.shapes = (1, 1)  # fewest and most, of the synthetic world
    c.data.spin = 0.0  # its fastest rotation in radians per second; 0 for none
    c.data.text_length = 0  # of captions, in bytes; 0 is off
    c.data.text_embeddings = ""  # name of those an outside encoder made, see jaxvid/data/text.py
    c.data.text_dim = 0  # their width
    c.data.action_dim = 0  # numbers in the action of a frame; 0 is off
    c.data.low_res = 0  # how many times smaller a given low-resolution video's sides are; 0 is off
    c.data.strides = (1,)  # of these, one is drawn for each clip
    c.data.flip = False
    c.data.crop = 1.0  # smallest side of the window, 1 is off
    c.data.reverse = False
    c.data.brightness = 0.0
    c.data.contrast = 0.0
    c.data.workers = 0  # processes; 0 reads in threads
    c.data.prefetch = 2  # batches made ahead, per worker
    c.data.max_bad = 100  # records that may be unreadable before the run stops

    # Shares of the training clips.
    c.tasks = ConfigDict()
    c.tasks.generate = 0.7
    c.tasks.predict = 0.2  # from the first frames
    c.tasks.interpolate = 0.05  # between both ends
    c.tasks.random = 0.05  # any frames given

    c.model = ConfigDict()
    c.model.blocks = "space mlp time mlp"  # the block grammar, see docs/architecture.md
    c.model.depth = 4  # repeats of the line; instead, blocks may be a tuple of (line, depth)
    c.model.width = 64
    c.model.heads = 2
    c.model.patch = (1, 2, 2)  # frames, rows, columns
    c.model.mlp_ratio = 4
    c.model.causal = False  # whether frames see only those before them
    c.model.window = (4, 4, 4)  # frames, rows and columns of the word `window`, in tokens
    c.model.positions = "rotary"  # or "sincos", "learned"
    c.model.adaln = "block"  # or "shared": one modulation for all blocks
    c.model.labels = 3  # classes; 0 is none
    c.model.text_depth = 2  # blocks of the encoder of captions
    # Shares of the clips that train without a condition, for classifier-free guidance.
    c.model.label_dropout = 0.1
    c.model.text_dropout = 0.1
    c.model.action_dropout = 0.1
    c.model.low_res_dropout = 0.1
    c.model.remat = "none"  # or "dots", "full": recompute instead of store
    c.model.unroll = 4  # repeats per loop iteration: a CPU is faster without a loop
    c.model.dtype = "float32"  # or "bfloat16": what is computed in

    c.diffusion = ConfigDict()
    c.diffusion.process = "rectified_flow"  # or "cosine", "vp_linear", "edm", … (see process.py)
    c.diffusion.prediction = "x0"  # or "eps", "v", "velocity", "edm": what the network says
    c.diffusion.loss = "velocity"  # the space in which its error is measured
    c.diffusion.weighting = "uniform"  # or "min_snr", "sigmoid", "edm", in place of a space
    c.diffusion.gamma = 5.0  # of "min_snr"
    c.diffusion.bias = 0.0  # of "sigmoid"
    c.diffusion.noise = "logit_normal"  # or "uniform", "edm": the noise levels it trains on
    c.diffusion.noise_mean = 0.5  # of the logit, or of the logarithm of sigma for "edm"
    c.diffusion.noise_std = 1.0
    c.diffusion.noise_low = 0.05  # the lowest level
    c.diffusion.stratified = False  # whether the levels of a batch are spread evenly
    c.diffusion.per_frame = False  # whether each frame has its own (diffusion forcing)
    c.diffusion.shift_reference = 0  # pixels of a clip whose levels are not shifted; 0 is off
    c.diffusion.observed_noise = 0.3  # the highest level of the noise on observed frames
    c.diffusion.low_res_noise = 0.3  # the highest level of the noise on low-resolution video

    c.optimizer = ConfigDict()
    c.optimizer.name = "muon"  # or "adamw"
    c.optimizer.lr = 8e-3
    c.optimizer.warmup = 20  # steps
    c.optimizer.decay = "linear"  # to 0 at the last step, or "cosine", "constant"
    c.optimizer.weight_decay = 0.0
    c.optimizer.b2 = 0.99
    c.optimizer.clip = 1.0  # norm of the gradient, 0 is off
    c.optimizer.accumulate = 1  # parts in which a batch goes through the network
    c.ema = ConfigDict()
    c.ema.decay = 0.99
    # Post-hoc EMA: with (0.05, 0.10), `sample --ema_width` can have any width after training. Each
    # is one more copy of the parameters in memory, and one on disk for every snapshot.
    c.ema.widths = ()
    c.ema.snapshot_every = 50  # steps

    # Sizes multiply to the number of devices; -1 is the rest.
    c.mesh = ConfigDict(dict(replica=1, data=-1, fsdp=1, context=1, tensor=1))
    c.checkpoint = ConfigDict(dict(every=200, keep=2))
    c.log = ConfigDict(dict(every=20, sample_every=0))  # samples at the end only
    c.sampler = ConfigDict()
    c.sampler.name = "euler"  # or "ddim", "ddpm", "heun", "dpmpp_2m", "unipc"
    c.sampler.steps = 32
    c.sampler.spacing = "uniform"  # or "logsnr", "karras": the noise levels between
    c.sampler.lag = 0  # steps by which a frame is behind the one before it; 0 is all together
    c.sampler.eta = 0.0  # noise that "ddim" adds on the way, up to 1
    c.sampler.cfg_scale = 1.5
    c.sampler.cfg_interval = (0.0, 1.0)  # noise levels at which there is guidance
    c.sampler.cfg_rescale = 0.0
    c.sampler.observed_noise = 0.2  # level of the noise on observed frames
    c.sampler.low_res_noise = 0.0  # level of the noise on low-resolution video
    c.sampler.num = 8  # clips
    return c
