"""Time the training step of a config against the same network and step in plain PyTorch.

    python -m benchmarks.peer_torch --config=configs/base.py --config.optimizer.name=adamw
        [--config.KEY=VALUE …] [--rounds=3] [--repeats=20] [--sides=torch]

Run it from the repository's root, with `pip install torch`. It first gives the PyTorch module
random parameters of ours, and stops unless both predict the same. Then, in each round, it times our
step (`benchmarks.train_step`), the step in PyTorch, and with `--compiled` that with each block
under `torch.compile`. Each runs in a process of its own, one after another, with the same
environment, on one device: a GPU if PyTorch sees one and JAX_PLATFORMS is not "cpu", else the CPU.

The PyTorch side is written as published models are. It leaves out what takes little time: our
metrics, the tasks, stratified noise levels, and that only kernels have weight decay.

Progress goes to stderr, one line of JSON to stdout. For each side it has the median over rounds of
the median step (`step_s`), the fastest step, `clips_per_s`, and `first_s`, our compile time or
PyTorch's first step. `ratio` is the median over rounds of a step divided by our step of the same
round: above 1, ours is faster. `difference` is relative to the largest prediction.
"""

from jaxvid import start

if __name__ == "__main__":
    start.begin()

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from operator import attrgetter, itemgetter
from pathlib import Path
from statistics import median
from typing import Any

import jax
import numpy as np
from absl import flags
from einops import rearrange
from ml_collections import ConfigDict, config_flags

try:
    import torch
    import torch.nn.functional as F
    from torch import Tensor, nn
    from torch.utils.checkpoint import checkpoint
except ImportError:
    sys.exit("error: benchmarks.peer_torch needs PyTorch: pip install torch")

from benchmarks import train_step
from benchmarks.train_step import CONFIG, REPEATS, WARMUP, say
from jaxvid import config as configs
from jaxvid import errors
from jaxvid.build import build
from jaxvid.conditions.condition import make_conditions
from jaxvid.diffusion.process import FLOOR
from jaxvid.models import embeddings, grammar
from jaxvid.models.conditioning import NOISE_FREQUENCIES
from jaxvid.models.transformer import stacks
from jaxvid.sampling.draw import time_shift
from jaxvid.training.optimizer import make_schedule

# The velocity eps - x0 of rectified flow, from each prediction y at x_t and noise levels t.
VELOCITY = {
    "velocity": lambda y, x_t, t: y,
    "x0": lambda y, x_t, t: (x_t - y) / t.clamp(min=FLOOR),
    "eps": lambda y, x_t, t: (y - x_t) / (1 - t).clamp(min=FLOOR),
    "v": lambda y, x_t, t: (y + (2 * t - 1) * x_t) / (t**2 + (1 - t) ** 2),
}
SUPPORTED = {
    "model.adaln": ["block"],
    "model.positions": ["rotary"],
    "model.causal": [False],
    "optimizer.name": ["adamw"],
    "optimizer.accumulate": [1],
    "ema.widths": [()],
    "diffusion.process": ["rectified_flow"],
    "diffusion.prediction": VELOCITY,
    "diffusion.loss_space": ["velocity"],
    "diffusion.weighting": ["uniform"],
    "diffusion.noise_distribution": ["logit_normal"],
}

# Query, key and value as PyTorch's attention takes them: (batch, heads, length, features). Places
# count as heads in `time`, because this needs no copy of query and key.
GROUPS = {"space": "(b t) k n d", "time": "b (n k) t d"}

VIDEO, PATCHES = "b (t p) (h q) (w r) c", "b t (h w) (p q r c)"
TOLERANCE = 1e-4  # of the predictions, relative to the largest; more is not rounding
EPSILON = 1e-6  # of the norms, Flax's default

GPU = torch.cuda.is_available() and os.environ.get("JAX_PLATFORMS") != "cpu"
DEVICE = "cuda" if GPU else "cpu"

ROUNDS = flags.DEFINE_integer("rounds", 3, "Timings of each side.", lower_bound=1)
SIDES = flags.DEFINE_multi_enum(
    "sides", ["torch"], ["torch", "torch_compiled"], "What to compare with; repeat for several."
)
SIDE = flags.DEFINE_string("side", None, "Internal: what this process does.")


def main(_: Sequence[str]) -> None:
    config = configs.from_flag(CONFIG)
    check_supported(config)
    # Here JAX makes inputs and the expected predictions; the GPU is for PyTorch and for our step.
    jax.config.update("jax_platforms", "cpu")
    if SIDE.value is None:
        result = compare(config)
    elif SIDE.value == "check":
        result = {"difference": difference(config)}
    else:
        result = measure(config, compiled=SIDE.value == "torch_compiled")
    print(json.dumps(result), flush=True)


def check_supported(config: ConfigDict) -> None:
    """Raises InputError for a config whose network or step is not written in PyTorch here."""
    lines = stacks(config.model.blocks, config.model.depth)
    words = {"+".join(w.name for w in group) for line, _ in lines for group in line}
    found = [f"word {word}" for word in words - {*GROUPS, "mlp"}]
    found += [f"condition {c.name}" for c in make_conditions(config) if c.name != "label"]
    values = {key: attrgetter(key)(config) for key in SUPPORTED}
    found += [f"{key}={value}" for key, value in values.items() if value not in SUPPORTED[key]]
    if found:
        raise errors.InputError(f"not written in PyTorch: {', '.join(found)}")


def compare(config: ConfigDict) -> dict[str, Any]:
    """Checks the two networks, then times all sides in turn."""
    checked = child("check")["difference"]
    say(f"largest difference of the predictions: {checked:.1e} of the largest")
    lines: dict[str, list[dict[str, Any]]] = {side: [] for side in ("ours", *SIDES.value)}
    for i in range(ROUNDS.value):
        for side, found in lines.items():
            found.append(child(side))
            say(f"round {i + 1} of {ROUNDS.value}, {side}: {found[-1]['step_s_median']:.4f} s")
            ours = lines["ours"][0]
            if (ours["device_count"], ours["platform"] != "cpu") != (1, GPU):
                raise errors.InputError("JAX and PyTorch must both see one device, of one kind")
    sides = {}
    for side, found in lines.items():
        steps = [line["step_s_median"] for line in found]
        pairs = zip(steps, lines["ours"], strict=True)
        sides[side] = {
            "step_s": median(steps),
            "step_s_min": min(line["step_s_min"] for line in found),
            "step_s_rounds": steps,
            "clips_per_s": config.batch_size / median(steps),
            "first_s": median(line["compile_s"] for line in found),
            "ratio": median(step / line["step_s_median"] for step, line in pairs),
        }
    return {
        "config": config_flags.get_config_filename(flags.FLAGS["config"]),
        "overrides": config_flags.get_override_values(flags.FLAGS["config"]),
        **{key: ours[key] for key in ("device_kind", "jax", "parameters", "flops_per_step")},
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "huge_pages": start.huge_pages_on(),
        "repeats": REPEATS.value,
        "difference": checked,
        "sides": sides,
    }


def child(side: str) -> dict[str, Any]:
    """Runs a side in a process of its own, and returns its line of JSON."""
    if side == "ours":
        return train_step.in_own_process(Path(), "rounds", "sides")
    command = [sys.executable, "-m", "benchmarks.peer_torch", *sys.argv[1:], f"--side={side}"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise errors.InputError(f"side {side} ended with exit code {done.returncode}, see above")
    return json.loads(done.stdout.splitlines()[-1])


class Attention(nn.Module):
    """Self-attention among the tokens of a frame (`space`) or of a place (`time`)."""

    def __init__(self, width: int, heads: int, group: str):
        super().__init__()
        self.heads, self.group = heads, group
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.query_norm = nn.RMSNorm(width // heads, eps=EPSILON)
        self.key_norm = nn.RMSNorm(width // heads, eps=EPSILON)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, turn: Tensor) -> Tensor:
        qkv = rearrange(self.qkv(x), "b t n (p k d) -> p b t n k d", p=3, k=self.heads)
        query = rotate(self.query_norm(qkv[0].float()), turn)
        key = rotate(self.key_norm(qkv[1].float()), turn)
        parts = (rearrange(a, f"b t n k d -> {self.group}") for a in (query, key, qkv[2]))
        y = F.scaled_dot_product_attention(*parts)
        sizes = {"b": x.shape[0], "t": x.shape[1], "k": self.heads}
        return self.out(rearrange(y, f"{self.group} -> b t n (k d)", **sizes))


def rotate(x: Tensor, turn: Tensor) -> Tensor:
    """Rotates the pairs (i, i + F) of the features of x, [B,T,N,K,2F]."""
    (cos, sin), (first, second) = turn, x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


class Mlp(nn.Module):
    """Two layers with squared ReLU between."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.up = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor, turn: Tensor) -> Tensor:
        return self.down(F.relu(self.up(x)).square())


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Layer normalisation, shifted and scaled."""
    return F.layer_norm(x, x.shape[-1:], eps=EPSILON) * (1 + scale) + shift


class Block(nn.ModuleDict):
    """One repeat of a line of the grammar. Its modules have the names of ours; see `load`."""

    def __init__(self, line: grammar.Line, model: ConfigDict):
        super().__init__()
        D, self.words = model.width, [f"{word.name}_{i}" for i, (word,) in enumerate(line)]
        for name, (word,) in zip(self.words, line, strict=True):
            if word.name == "mlp":
                self[name] = Mlp(D, D * (dict(word.arguments).get("ratio") or model.mlp_ratio))
            else:
                self[name] = Attention(D, model.heads, GROUPS[word.name])
            self[f"{name}_modulation"] = nn.Linear(D, 3 * D)

    def forward(self, x: Tensor, frame: Tensor, turn: Tensor) -> Tensor:
        for name in self.words:
            shift, scale, gate = self[f"{name}_modulation"](frame)[:, :, None].chunk(3, dim=-1)
            x = x + gate * self[name](modulate(x, shift, scale), turn)
        return x


class Peer(nn.Module):
    """The network of a config, with PyTorch's initial values: they do not change the time."""

    def __init__(self, config: ConfigDict):
        super().__init__()
        model, classes = config.model, config.conditions.label.classes
        D, pairs = model.width, model.width // model.heads // 2
        p, q, r = model.patch
        rows, columns = config.data.size // q, config.data.size // r
        self.sizes, self.remat = {"p": p, "q": q, "r": r, "h": rows}, model.remat != "none"
        self.patches, self.pixels = nn.Linear(3 * p * q * r, D), nn.Linear(D, 3 * p * q * r)
        self.noise_in = nn.Linear(2 * p * len(NOISE_FREQUENCIES), D)
        self.noise_out = nn.Linear(D, D)
        self.label = nn.Embedding(classes + 1, D) if classes else None
        self.modulation = nn.Linear(D, 2 * D)
        lines = stacks(model.blocks, model.depth)
        self.blocks = nn.ModuleList(Block(line, model) for line, n in lines for _ in range(n))
        # A pair of features rotates with one of three coordinates: seconds, row and column.
        counts = [pairs // 3 + (i < pairs % 3) for i in range(3)]
        limits = (embeddings.TIME_FREQUENCIES, *2 * [embeddings.GRID_FREQUENCIES])
        frequencies = [embeddings.frequencies(*x, n) for x, n in zip(limits, counts, strict=True)]
        place = embeddings.grid(rows, columns)
        constants = {
            "noise_frequencies": NOISE_FREQUENCIES,
            "place": place,
            "positions": embeddings.sincos(D, place),
            "coordinate": np.repeat(np.arange(3), counts),
            "frequencies": np.concatenate(frequencies),
        }
        for name, value in constants.items():
            self.register_buffer(name, torch.tensor(np.asarray(value)), persistent=False)

    def forward(self, video: Tensor, noise: Tensor, seconds: Tensor, label: Tensor) -> Tensor:
        """The prediction, like `video` [B,T,H,W,3]; the others are [B,T], [B,T] and [B]."""
        x = self.patches(rearrange(video, f"{VIDEO} -> {PATCHES}", **self.sizes))
        x = x + self.positions.to(x.dtype)
        turn = self.turn(seconds.view(*x.shape[:2], -1).mean(-1))
        angle = noise[..., None] * self.noise_frequencies
        levels = torch.cat([angle.cos(), angle.sin()], dim=-1).view(*x.shape[:2], -1)
        frame = self.noise_out(F.silu(self.noise_in(levels)))
        if self.label is not None:  # -1, null, is the last class
            frame = frame + self.label(label % self.label.num_embeddings)[:, None]
        frame = F.silu(frame)
        for block in self.blocks:
            inputs = (x, frame, turn)
            x = checkpoint(block, *inputs, use_reentrant=False) if self.remat else block(*inputs)
        shift, scale = self.modulation(frame)[:, :, None].chunk(2, dim=-1)
        x = self.pixels(modulate(x, shift, scale)).float()
        return rearrange(x, f"{PATCHES} -> {VIDEO}", **self.sizes)

    def turn(self, seconds: Tensor) -> Tensor:
        """Cosines and sines [2,B,T,N,1,F] of the angles of all pairs of a head."""
        shape = (*seconds.shape, len(self.place), -1)
        parts = (seconds[:, :, None, None].expand(shape), self.place.expand(shape))
        angle = torch.cat(parts, dim=-1)[..., self.coordinate] * self.frequencies
        return torch.stack([angle.cos(), angle.sin()])[..., None, :]


def load(net: Peer, params: Mapping[str, Any], model: ConfigDict) -> None:
    """Copies our parameters, a tree of NumPy arrays, into the module.

    The modules have our names, but ours stack the repeats of a line, and our kernels are transposed
    weights, whose axes may be split."""
    tree = {name: x for name, x in params.items() if not name.startswith("blocks_")}
    tree["blocks"] = [
        jax.tree.map(itemgetter(repeat), params[f"blocks_{i}"])
        for i, (_, depth) in enumerate(stacks(model.blocks, model.depth))
        for repeat in range(depth)
    ]
    tree |= {"label": tree["label"]["classes"]} if "label" in tree else {}
    known, found = net.state_dict(), {}
    for path, value in jax.tree_util.tree_leaves_with_path(tree):
        module, _, kind = jax.tree_util.keystr(path, simple=True, separator=".").rpartition(".")
        name = f"{module}.{'bias' if kind == 'bias' else 'weight'}"
        shape = known[name].shape
        value = value.reshape(shape[::-1]).T if kind == "kernel" else value.reshape(shape)
        found[name] = torch.tensor(value)
    net.load_state_dict(found)


def difference(config: ConfigDict) -> float:
    """The largest difference of the predictions, relative to the largest, in float32. Raises
    InputError if it is too large. Parameters are random, because ours begin with some at 0."""
    config = config.copy_and_resolve_references()
    config.model.dtype, config.batch_size = "float32", min(config.batch_size, 2)
    config.model.unroll = 1  # compiles sooner
    run, rng = build(config, jax.devices()[:1]), np.random.default_rng(config.seed)
    std, params = config.model.width**-0.5, jax.device_get(run.init().params)
    params = jax.tree.map(lambda x: x + rng.normal(0, std, x.shape).astype(x.dtype), params)
    batch = train_step.random_batch(run)
    _, seconds, label = arrays_of(batch)
    video = rng.normal(size=batch["video"].shape).astype(np.float32)
    noise = rng.uniform(size=video.shape[:2]).astype(np.float32)
    with jax.set_mesh(run.mesh):
        predict = jax.jit(run.denoiser.predict)
        expected = predict({"params": params}, video, noise, seconds, batch["given"])
    net = Peer(config).to(DEVICE)
    load(net, params, config.model)
    with torch.no_grad():
        found = net(*(torch.tensor(x, device=DEVICE) for x in (video, noise, seconds, label)))
    result = float(np.abs(found.cpu().numpy() - expected).max() / np.abs(expected).max())
    if not result <= TOLERANCE:
        raise errors.InputError(f"the predictions differ by {result:.1e} of the largest")
    return result


def arrays_of(batch: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels, times and classes of a batch; null for a network without classes."""
    label = batch["given"].get("label", np.full(len(batch["video"]), -1))
    return batch["video"], batch["time"], label


def loss_of(config: ConfigDict, net: Peer, batch: Sequence[Tensor]) -> Tensor:
    """The loss of a batch, with new random draws."""
    d, shift, dtype = config.diffusion, time_shift(config), getattr(torch, config.model.dtype)
    video, seconds, label = batch
    x0, (B, T) = video.float() / 127.5 - 1, video.shape[:2]
    logit = d.noise_mean + d.noise_std * torch.randn(B, T if d.per_frame else 1, device=DEVICE)
    level = d.noise_low + (1 - d.noise_low) * torch.sigmoid(logit)
    level = (level / (level + (1 - level) / shift)).expand(B, T)
    t, eps = level[..., None, None, None], torch.randn_like(x0)
    x_t = torch.lerp(x0, eps, t)
    kept = (1 - config.conditions.dropout) * (1 - config.conditions.label.dropout)
    label = torch.where(torch.rand(B, device=DEVICE) < kept, label, -1)
    with torch.autocast(DEVICE, dtype, enabled=dtype != torch.float32):
        output = net(x_t, level, seconds, label)
    return F.mse_loss(VELOCITY[d.prediction](output, x_t, t), eps - x0)


def measure(config: ConfigDict, compiled: bool) -> dict[str, Any]:
    """Builds and times the step in PyTorch."""
    if GPU:  # where JAX uses TF32 too
        torch.set_float32_matmul_precision("high")
    torch.manual_seed(config.seed)
    arrays = arrays_of(train_step.random_batch(build(config, jax.devices()[:1])))
    batch = [torch.tensor(x, device=DEVICE) for x in arrays]
    net = Peer(config).to(DEVICE)
    if compiled:
        for block in net.blocks:  # the whole network takes several times as long to compile
            block.compile()
    c, params = config.optimizer, list(net.parameters())
    adamw = torch.optim.AdamW(params, betas=(0.9, c.b2), weight_decay=c.weight_decay, fused=True)
    averages, schedule = [p.detach().clone() for p in params], make_schedule(config)
    seconds = []
    for i in range(WARMUP + REPEATS.value):
        rate, decay = float(schedule(i)), min(config.ema.decay, (1 + i) / (10 + i))
        started = time.perf_counter()
        adamw.zero_grad()
        loss_of(config, net, batch).backward()
        if c.clip:
            nn.utils.clip_grad_norm_(params, c.clip)
        adamw.param_groups[0]["lr"] = rate
        adamw.step()
        with torch.no_grad():
            torch._foreach_lerp_(averages, params, 1 - decay)
        if GPU:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
        say(f"step {i + 1} of {WARMUP + REPEATS.value}: {seconds[-1]:.4f} s")
    timed = seconds[WARMUP:]
    return {"compile_s": seconds[0], "step_s_median": median(timed), "step_s_min": min(timed)}


if __name__ == "__main__":
    errors.run(main, configs.parse_flags)
