"""Time the training step of a config against the same network and step in PyTorch.

    python -m benchmarks.peer_torch --config=configs/base.py --config.optimizer.name=adamw
        [--config.KEY=VALUE …] [--rounds=3] [--repeats=20] [--compiled]

Run it from the repository's root, with `pip install torch`. It first gives the PyTorch module
random parameters of ours, and stops unless both predict the same. Then, in each round, it times our
step (`benchmarks.train_step`), the step in PyTorch, and with `--compiled` the step under
`torch.compile`. Each runs in a process of its own, one after another, on one device: a GPU if
PyTorch sees one and JAX_PLATFORMS is not "cpu", else the CPU.

The PyTorch side is written to be fast: fused query, key and value, fused AdamW, one table of
complex rotations per step, a squared ReLU that saves one array, and whichever form of attention is
fastest for the shapes at hand. On a CPU its allocator keeps freed memory, and huge pages are on for
both (JAXVID_HUGE_PAGES=0 turns them off for both). On a GPU its float32 products use TF32, as JAX's
do. Its step leaves out our metrics, the tasks and stratified noise levels, which take little time.

Progress goes to stderr, one line of JSON to stdout. For each side it has the median over rounds of
the median step (`step_s`), the fastest step (`step_s_min`), `clips_per_s`, `tflop_per_s` with our
count of FLOPs, and `first_s`, our compile time or PyTorch's first step. `ratio` is the median over
rounds of a PyTorch step divided by our step of the same round: above 1, ours is faster.
`difference` is the largest difference of the predictions, relative to the largest prediction.
"""

from jaxvid import start

if __name__ == "__main__":
    start.begin()

import contextlib
import functools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import flags
from ml_collections import ConfigDict, config_flags

from benchmarks import train_step
from benchmarks.train_step import CONFIG, REPEATS, WARMUP, say
from jaxvid import config as configs
from jaxvid import errors
from jaxvid.build import Run, build
from jaxvid.conditions.condition import make_conditions
from jaxvid.diffusion import process
from jaxvid.errors import InputError
from jaxvid.models import embeddings, grammar
from jaxvid.models.conditioning import NOISE_FREQUENCIES
from jaxvid.models.transformer import stacks
from jaxvid.sampling.draw import time_shift
from jaxvid.training import ema
from jaxvid.training.optimizer import make_schedule

try:
    import torch
    import torch.nn.functional as F
    from torch import Tensor, nn
    from torch.autograd import Function
    from torch.nn import Module
except ImportError:  # main says so
    torch, Tensor, Module, Function = None, Any, object, object

SIDES = ("check", "torch", "torch_compiled")
WORDS = ("space", "time", "mlp")
PREDICTIONS = ("x0", "eps", "v", "velocity")
TOLERANCE = 1e-4
EPSILON = 1e-6  # of the norms, Flax's default

# glibc returns large arrays to the system when they are freed, and PyTorch allocates them again in
# every step. Its users replace glibc's allocator for that reason; these thresholds do the same.
KEEP_MEMORY = f"glibc.malloc.mmap_threshold={2**33}:glibc.malloc.trim_threshold={2**36}"

# Explicit attention keeps all scores; it can only be faster for short sequences.
SHORT = 64

ROUNDS = flags.DEFINE_integer("rounds", 3, "Timings of each side.", lower_bound=1)
COMPILED = flags.DEFINE_bool("compiled", False, "Also time torch.compile.")
SIDE = flags.DEFINE_enum("side", None, SIDES, "Internal: what this process does.")
DEVICE = flags.DEFINE_enum("device", "cpu", ("cpu", "cuda"), "Internal: PyTorch's device.")


def main(_: Sequence[str]) -> None:
    config = configs.from_flag(CONFIG)
    if torch is None:
        raise InputError("benchmarks.peer_torch needs PyTorch: pip install torch")
    check_supported(config)
    if SIDE.value is None:
        result = compare(config, ROUNDS.value, COMPILED.value)
    elif SIDE.value == "check":
        result = {"difference": difference(config, DEVICE.value)}
    else:
        compiled = SIDE.value == "torch_compiled"
        result = measure(config, REPEATS.value, DEVICE.value, compiled)
    print(json.dumps(result), flush=True)


def check_supported(config: ConfigDict) -> None:
    """Raises InputError for a config whose network or step is not written in PyTorch here."""
    model, d = config.model, config.diffusion
    lines = [line for line, _ in stacks(model.blocks, model.depth)]
    words = {word for line in lines for group in line for word in group}
    needs = {
        f"model.blocks of the words {', '.join(WORDS)}": {w.name for w in words} <= {*WORDS},
        "model.adaln=block": model.adaln == "block",
        "model.positions=rotary": model.positions == "rotary",
        "model.causal=False": not model.causal,
        "no condition but label": {c.name for c in make_conditions(config)} <= {"label"},
        "optimizer.name=adamw": config.optimizer.name == "adamw",
        "optimizer.accumulate=1": config.optimizer.accumulate == 1,
        "diffusion.process=rectified_flow": d.process == "rectified_flow",
        f"diffusion.prediction of {', '.join(PREDICTIONS)}": d.prediction in PREDICTIONS,
        "diffusion.loss_space=velocity": d.loss_space == "velocity",
        "diffusion.weighting=uniform": d.weighting == "uniform",
        "diffusion.noise_distribution=logit_normal": d.noise_distribution == "logit_normal",
    }
    lacking = [need for need, met in needs.items() if not met]
    if lacking:
        raise InputError(
            f"this config breaks {'; '.join(lacking)}. The network and step in PyTorch support "
            f"only {'; '.join(needs)}"
        )


def compare(config: ConfigDict, rounds: int, compiled: bool) -> dict[str, Any]:
    """Checks the two networks, and times the sides in turn, each in a process of its own."""
    gpu = torch.cuda.is_available() and os.environ.get("JAX_PLATFORMS") != "cpu"
    device = "cuda" if gpu else "cpu"
    checked = peer("check", device)
    say(f"largest difference of the predictions: {checked['difference']:.1e} of the largest")
    sides = {
        "ours": functools.partial(child, "benchmarks.train_step", arguments(), os.environ),
        "torch": functools.partial(peer, "torch", device),
    }
    if compiled:
        sides["torch_compiled"] = functools.partial(peer, "torch_compiled", device)
    lines: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
    for i in range(rounds):
        for side, measured in sides.items():
            lines[side].append(measured())
            say(f"round {i + 1} of {rounds}, {side}: {lines[side][-1]['step_s_median']:.4f} s")
            ours = lines["ours"][0]
            if ours["device_count"] != 1 or (ours["platform"] == "cpu") != (device == "cpu"):
                raise InputError(
                    f"JAX has {ours['device_count']} devices of platform {ours['platform']}, and "
                    f"PyTorch one of type {device}: make one device of one kind visible to both"
                )
    ours, torch_line = lines["ours"][0], lines["torch"][0]
    if ours["parameters"] != torch_line["parameters"]:
        raise InputError(
            f"{ours['parameters']} parameters, but {torch_line['parameters']} in PyTorch"
        )
    flops = ours["flops_per_step"]
    result = {
        "config": config_flags.get_config_filename(flags.FLAGS["config"]),
        "overrides": config_flags.get_override_values(flags.FLAGS["config"]),
        "device": torch_line["device_kind"] if gpu else ours["device_kind"],
        "jax": ours["jax"],
        "torch": torch_line["torch"],
        "threads": torch_line["threads"],
        "huge_pages": start.huge_pages_on(),
        "parameters": ours["parameters"],
        "flops_per_step": flops,
        "attention": torch_line["attention"],
        "rounds": rounds,
        "repeats": REPEATS.value,
        "difference": checked["difference"],
        "sides": {},
    }
    for side, found in lines.items():
        step_s = statistics.median(line["step_s_median"] for line in found)
        result["sides"][side] = {
            "step_s": step_s,
            "step_s_min": min(line["step_s_min"] for line in found),
            "step_s_rounds": [line["step_s_median"] for line in found],
            "clips_per_s": config.batch_size / step_s,
            "tflop_per_s": flops / step_s / 1e12,
            "first_s": statistics.median(
                line.get("compile_s", line.get("first_s")) for line in found
            ),
        }
        if side != "ours":
            pairs = zip(found, lines["ours"], strict=True)
            result["sides"][side]["ratio"] = statistics.median(
                theirs["step_s_median"] / ours["step_s_median"] for theirs, ours in pairs
            )
    return result


def arguments() -> list[str]:
    """The arguments of this command that `benchmarks.train_step` also takes."""
    own = flags.FlagValues()
    for flag in (ROUNDS, COMPILED):
        own[flag.name] = flags.FLAGS[flag.name]
    return own(sys.argv, known_only=True)[1:]


def peer(side: str, device: str) -> dict[str, Any]:
    """Runs a side of this file. It uses JAX for shapes and the check only, so not on the GPU."""
    environment = dict(os.environ, JAX_PLATFORMS="cpu")
    if sys.platform == "linux":
        tunables = filter(None, (os.environ.get("GLIBC_TUNABLES"), KEEP_MEMORY))
        environment["GLIBC_TUNABLES"] = ":".join(tunables)
    if not start.huge_pages_on():
        environment["JAXVID_HUGE_PAGES"] = "0"
    own = [f"--side={side}", f"--device={device}"]
    return child("benchmarks.peer_torch", [*arguments(), *own], environment)


def child(module: str, arguments: Sequence[str], environment: Mapping[str, str]) -> dict[str, Any]:
    """The line of JSON that a command prints; raises InputError if it fails."""
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=dict(environment))
    if done.returncode:
        raise InputError(f"{module} ended with exit code {done.returncode}, see above")
    return json.loads(done.stdout.splitlines()[-1])


class Attention(Module):
    """Self-attention among the tokens of a frame (`space`) or of a place (`time`).

    Query, key and value of a head are neighbours, so that heads and tokens can form one axis
    without a copy.
    """

    def __init__(self, width: int, heads: int, attend: Callable[..., Tensor], rotation: "Rotation"):
        super().__init__()
        self.heads, self.attend, self.rotation = heads, attend, rotation
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.scale = nn.Parameter(torch.ones(2, width // heads))  # of query and key
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, turn: Tensor) -> Tensor:
        both, value = self.qkv(x).unflatten(-1, (self.heads, 3, -1)).split([2, 1], dim=-2)
        with torch.autocast(x.device.type, enabled=False):
            both = self.rotation.rotate(rms_norm(both.float(), self.scale), turn)
        query, key = both.to(value.dtype).unbind(-2)
        return self.out(self.attend(query, key, value.squeeze(-2)))


class Rotation:
    """Rotary positions as a product of complex numbers, whose pairs of features are neighbours.

    torch.compile does not compile complex numbers; with `halves` the pairs are (i, i + F), as in
    our network, and the numbers real.
    """

    def __init__(self, halves: bool):
        self.halves = halves

    def table(self, angle: Tensor) -> Tensor:
        """The table for `rotate` from the angles [B,T,N,F] of all pairs of a head."""
        angle = angle[..., None, None, :]
        if self.halves:
            return torch.stack([angle.cos(), angle.sin()])
        return torch.polar(torch.ones_like(angle), angle)

    def rotate(self, x: Tensor, turn: Tensor) -> Tensor:
        """Rotates x, [B,T,N,K,2,d]."""
        if not self.halves:
            pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)))
            return torch.view_as_real(pairs * turn).flatten(-2)
        (cos, sin), (first, second) = turn, x.chunk(2, dim=-1)
        return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)

    def order(self, head_dim: int) -> np.ndarray:
        """The feature of our heads that each feature of these heads is."""
        index = np.arange(head_dim)
        return index if self.halves else index.reshape(2, -1).T.reshape(-1)


def rms_norm(x: Tensor, scale: Tensor) -> Tensor:
    """Normalises x, float32 [...,2,d]. PyTorch has one kernel for it, but not on a CPU."""
    if x.is_cuda or torch.compiler.is_compiling():
        return F.rms_norm(x, x.shape[-1:], None, EPSILON) * scale
    square = torch.linalg.vecdot(x, x) / x.shape[-1]
    return x * (torch.rsqrt(square + EPSILON)[..., None] * scale)


class SquaredRelu(Function):
    """relu(x)^2, which keeps one array for the backward pass and makes no other there."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        positive = x.relu()
        ctx.save_for_backward(positive)
        return positive * positive

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (positive,) = ctx.saved_tensors
        return (gradient * positive).mul_(2)


class Mlp(Module):
    """Two layers with squared ReLU between."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.up = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor, turn: Tensor) -> Tensor:
        h = self.up(x)
        if torch.compiler.is_compiling():  # it fuses these
            return self.down(F.relu(h).square())
        return self.down(SquaredRelu.apply(h))


def layer_norm(x: Tensor) -> Tensor:
    """Layer normalisation without parameters; autocast would return float32."""
    with torch.autocast(x.device.type, enabled=False):
        return F.layer_norm(x, x.shape[-1:], eps=EPSILON)


class Block(Module):
    """One line of the grammar, whose words share one layer for their modulations."""

    def __init__(
        self, line: grammar.Line, width: int, make: Callable[[grammar.Word], Module]
    ) -> None:
        super().__init__()
        self.groups = [len(words) for words in line]
        self.modulation = nn.Linear(width, 3 * width * sum(self.groups))
        self.mixers = nn.ModuleList(make(word) for words in line for word in words)

    def forward(self, x: Tensor, frame: Tensor, turn: Tensor) -> Tensor:
        parts = iter(self.modulation(frame)[:, :, None].chunk(3 * sum(self.groups), dim=-1))
        mixers = iter(self.mixers)
        for words in self.groups:
            h = layer_norm(x)
            for _ in range(words):
                shift, scale, gate = next(parts), next(parts), next(parts)
                y = next(mixers)(torch.addcmul(shift, h, 1 + scale), turn)
                x = torch.addcmul(x, gate, y)
        return x


class Peer(Module):
    """The network of a config, as `models.transformer.SpaceTimeTransformer`.

    Args:
      config: of the run.
      attends: the form of attention of each word; see `forms`.
      compiled: whether it is for torch.compile.
    """

    def __init__(
        self,
        config: ConfigDict,
        attends: Mapping[str, Callable[..., Tensor]],
        compiled: bool = False,
    ):
        super().__init__()
        model, classes = config.model, config.conditions.label.classes
        D, K = model.width, model.heads
        self.patch, self.head_dim, self.remat = tuple(model.patch), D // K, model.remat
        self.rotation = Rotation(halves=compiled)
        per_patch, rows, columns = self.patch
        pixels = per_patch * rows * columns * 3
        self.patches, self.pixels = nn.Linear(pixels, D), nn.Linear(D, pixels)
        self.noise_in = nn.Linear(per_patch * 2 * len(NOISE_FREQUENCIES), D)
        self.noise_out = nn.Linear(D, D)
        self.label = nn.Embedding(classes + 1, D) if classes else None
        self.modulation = nn.Linear(D, 2 * D)

        def make(word: grammar.Word) -> Module:
            if word.name == "mlp":
                return Mlp(D, (dict(word.arguments).get("ratio") or model.mlp_ratio) * D)
            return Attention(D, K, attends[word.name], self.rotation)

        self.stacks = nn.ModuleList(
            nn.ModuleList(Block(line, D, make) for _ in range(depth))
            for line, depth in stacks(model.blocks, model.depth)
        )
        place = embeddings.grid(config.data.size // rows, config.data.size // columns)
        constants = {
            "place": place,
            "positions": embeddings.sincos(D, place),
            "noise_frequencies": NOISE_FREQUENCIES,
        }
        for name, value in constants.items():
            self.register_buffer(name, torch.tensor(np.asarray(value)), persistent=False)
        pairs = self.head_dim // 2
        limits = (embeddings.TIME_FREQUENCIES, *2 * [embeddings.GRID_FREQUENCIES])
        for i, limit in enumerate(limits):
            value = embeddings.frequencies(*limit, pairs // 3 + (i < pairs % 3))
            self.register_buffer(f"frequencies_{i}", torch.tensor(value), persistent=False)
        self.reset()

    def reset(self) -> None:
        """Initial parameters: variance 1 / fan-in; modulations, biases and the output are 0."""
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                zero = name.endswith("modulation") or name == "pixels"
                nn.init.normal_(module.weight, std=0 if zero else module.in_features**-0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)

    def forward(self, video: Tensor, noise: Tensor, seconds: Tensor, label: Tensor) -> Tensor:
        """The prediction [B,T,H,W,3] in float32 for `video` [B,T,H,W,3], noise levels and times
        [B,T], and classes [B]."""
        B, T, H, W, C = video.shape
        p, q, r = self.patch
        t, h, w = T // p, H // q, W // r
        x = video.view(B, t, p, h, q, w, r, C).permute(0, 1, 3, 5, 2, 4, 6, 7)
        x = self.patches(x.reshape(B, t, h * w, -1))
        x = x + self.positions.to(x.dtype)
        turn = self.rotation.table(self.angles(seconds.view(B, t, p).mean(-1)))

        angle = noise[..., None] * self.noise_frequencies
        levels = torch.cat([angle.cos(), angle.sin()], dim=-1).view(B, t, -1)
        frame = self.noise_out(F.silu(self.noise_in(levels)))
        if self.label is not None:
            null = self.label.num_embeddings - 1
            frame = frame + self.label(torch.where(label < 0, null, label))[:, None]
        frame = F.silu(frame).to(x.dtype)
        for blocks in self.stacks:
            for block in blocks:
                x = self.apply_block(block, x, frame, turn)

        shift, scale = self.modulation(frame)[:, :, None].chunk(2, dim=-1)
        x = self.pixels(torch.addcmul(shift, layer_norm(x), 1 + scale)).float()
        x = x.view(B, t, h, w, p, q, r, C).permute(0, 1, 4, 2, 5, 3, 6, 7)
        return x.reshape(B, T, H, W, C)

    def apply_block(self, block: Block, *inputs: Tensor) -> Tensor:
        """Applies a block; the backward pass recomputes what `model.remat` says."""
        if self.remat == "none" or not torch.is_grad_enabled():
            return block(*inputs)
        options = {"context_fn": keep_products} if self.remat == "dots" else {}
        return torch.utils.checkpoint.checkpoint(
            block, *inputs, use_reentrant=False, preserve_rng_state=False, **options
        )

    def angles(self, seconds: Tensor) -> Tensor:
        """The angles [B,T,N,F] of `embeddings.rotary`."""
        coordinates = (seconds[:, :, None], self.place[:, 0], self.place[:, 1])
        shape = (*seconds.shape, len(self.place), -1)
        tables = [
            (x[..., None] * getattr(self, f"frequencies_{i}")).expand(shape)
            for i, x in enumerate(coordinates)
        ]
        return torch.cat(tables, dim=-1)


def keep_products() -> Any:
    """Contexts of a checkpoint that keeps the products of layers, as our `remat="dots"` does."""
    from torch.utils.checkpoint import create_selective_checkpoint_contexts

    return create_selective_checkpoint_contexts(
        [torch.ops.aten.mm.default, torch.ops.aten.addmm.default]
    )


def sdpa(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """PyTorch's attention; [G,K,L,d]."""
    return F.scaled_dot_product_attention(query, key, value)


def explicit(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention in three products; PyTorch's kernel for CPUs is slower for a few tokens."""
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    return scores.softmax(-1, dtype=torch.float32).to(value.dtype) @ value


def space(function: Callable[..., Tensor], *qkv: Tensor) -> Tensor:
    """Attention within frames; query, key and value are [B,T,N,K,d], the result [B,T,N,D]."""
    B, T, N, K, d = qkv[0].shape
    y = function(*(a.flatten(0, 1).transpose(1, 2) for a in qkv))
    return y.transpose(1, 2).reshape(B, T, N, K * d)


def time_as_heads(function: Callable[..., Tensor], *qkv: Tensor) -> Tensor:
    """Attention within places, each of which counts as further heads: no copy."""
    B, T, N, K, d = qkv[0].shape
    y = function(*(a.flatten(2, 3).transpose(1, 2) for a in qkv))
    return y.transpose(1, 2).reshape(B, T, N, K * d)


def time_as_batch(function: Callable[..., Tensor], *qkv: Tensor) -> Tensor:
    """Attention within places, each of which counts as a clip: copies the arrays."""
    B, T, N, K, d = qkv[0].shape
    y = function(*(a.permute(0, 2, 3, 1, 4).reshape(B * N, K, T, d) for a in qkv))
    return y.view(B, N, K, T, d).permute(0, 3, 1, 2, 4).reshape(B, T, N, K * d)


def forms(config: ConfigDict) -> dict[str, dict[str, Callable[..., Tensor]]]:
    """The possible forms of attention of each word, by name; the first works for all shapes."""
    per_patch, rows, columns = config.model.patch
    lengths = {
        "space": config.data.size // rows * (config.data.size // columns),
        "time": config.data.frames // per_patch,
    }
    layouts = {"space": (space,), "time": (time_as_heads, time_as_batch)}
    return {
        word: {
            f"{function.__name__}, {layout.__name__}": functools.partial(layout, function)
            for function in ((sdpa, explicit) if length <= SHORT else (sdpa,))
            for layout in layouts[word]
        }
        for word, length in lengths.items()
    }


def fastest(config: ConfigDict, device: str, repeats: int = 7) -> dict[str, str]:
    """The name of the fastest form of attention of each word, forward and backward."""
    model, data = config.model, config.data
    per_patch, rows, columns = model.patch
    N = data.size // rows * (data.size // columns)
    shape = (config.batch_size, data.frames // per_patch, N, model.heads)
    d, dtype = model.width // model.heads, getattr(torch, model.dtype)
    both = torch.randn(*shape, 2, d, device=device, dtype=dtype, requires_grad=True)
    value = torch.randn(*shape, 3, d, device=device, dtype=dtype)[..., 2, :].requires_grad_()
    gradient = torch.randn(*shape[:3], model.width, device=device, dtype=dtype)
    chosen = {}
    for word, candidates in forms(config).items():
        seconds = {}
        for name, attend in candidates.items():
            times = []
            for _ in range(WARMUP + repeats):
                started = time.perf_counter()
                y = attend(*both.unbind(-2), value)
                torch.autograd.grad(y, (both, value), gradient)
                synchronize(device)
                times.append(time.perf_counter() - started)
            seconds[name] = statistics.median(times[WARMUP:])
            say(f"{word} as {name}: {seconds[name]:.4f} s")
        chosen[word] = min(seconds, key=seconds.get)
    return chosen


def load(net: Peer, params: Mapping[str, Any], config: ConfigDict) -> None:
    """Copies our parameters, a tree of NumPy arrays, into the module."""
    D, order = config.model.width, net.rotation.order(net.head_dim)

    def fill(to: Tensor, value: np.ndarray) -> None:
        with torch.no_grad():
            to.copy_(torch.tensor(value))

    def fill_layer(layer: nn.Linear, entry: Mapping[str, np.ndarray]) -> None:
        fill(layer.weight, entry["kernel"].reshape(layer.in_features, layer.out_features).T)
        if layer.bias is not None:
            fill(layer.bias, entry["bias"].reshape(-1))

    for name in ("patches", "pixels", "noise_in", "noise_out", "modulation"):
        fill_layer(getattr(net, name), params[name])
    if net.label is not None:
        fill(net.label.weight, params["label"]["classes"]["embedding"])
    for i, (line, _) in enumerate(stacks(config.model.blocks, config.model.depth)):
        names = [f"{word.name}_{n}" for n, word in enumerate(w for words in line for w in words)]
        for repeat, block in enumerate(net.stacks[i]):
            entry = jax.tree.map(lambda x: x[repeat], params[f"blocks_{i}"])  # noqa: B023
            modulations = [entry[f"{name}_modulation"] for name in names]
            fill_layer(
                block.modulation,
                {
                    "kernel": np.concatenate([m["kernel"].reshape(D, -1) for m in modulations], 1),
                    "bias": np.concatenate([m["bias"].reshape(-1) for m in modulations]),
                },
            )
            for name, mixer in zip(names, block.mixers, strict=True):
                if isinstance(mixer, Mlp):
                    fill_layer(mixer.up, entry[name]["up"])
                    fill_layer(mixer.down, entry[name]["down"])
                    continue
                query, key, value = np.moveaxis(entry[name]["qkv"]["kernel"], 1, 0)  # [D,K,d]
                kernel = np.stack([query[..., order], key[..., order], value], axis=2)
                fill_layer(mixer.qkv, {"kernel": kernel})
                scales = [entry[name][f"{which}_norm"]["scale"] for which in ("query", "key")]
                fill(mixer.scale, np.stack(scales)[:, order])
                fill_layer(mixer.out, entry[name]["out"])


def difference(config: ConfigDict, device: str) -> float:
    """The largest difference of the two predictions, relative to the largest, in float32.

    Every form of attention and of rotary positions is checked, with random parameters: those of
    step 0 are partly 0. Raises InputError if a difference is above `TOLERANCE`.
    """
    config = config.copy_and_resolve_references()
    config.model.dtype, config.batch_size = "float32", min(config.batch_size, 2)
    run, rng = build(config, jax.devices()[:1]), np.random.default_rng(config.seed)
    params = jax.tree.map(
        lambda x: x + config.model.width**-0.5 * rng.normal(size=x.shape).astype(x.dtype),
        jax.device_get(run.init().params),
    )
    batch = train_step.random_batch(run)
    video = rng.normal(size=batch["video"].shape).astype(np.float32)
    noise = rng.uniform(size=video.shape[:2]).astype(np.float32)
    with jax.set_mesh(run.mesh):
        predict = jax.jit(run.denoiser.predict)
        expected = np.asarray(
            predict({"params": params}, video, noise, batch["time"], batch["given"])
        )

    arrays = (video, noise, batch["time"], label_of(run, batch))
    inputs = [torch.tensor(x, device=device) for x in arrays]
    candidates = forms(config)
    worst = 0.0
    for i in range(max(map(len, candidates.values()))):
        names = {word: list(known)[min(i, len(known) - 1)] for word, known in candidates.items()}
        attends = {word: candidates[word][name] for word, name in names.items()}
        for halves in (False, True):
            net = Peer(config, attends, compiled=halves).to(device)
            load(net, params, config)
            with torch.no_grad():
                found = net(*inputs).cpu().numpy()
            relative = float(np.abs(found - expected).max() / np.abs(expected).max())
            if not relative <= TOLERANCE:
                raise InputError(
                    f"the network in PyTorch ({names}, halves={halves}) differs from ours by "
                    f"{relative:.1e} of the largest prediction; at most {TOLERANCE:.0e} is rounding"
                )
            worst = max(worst, relative)
    return worst


def label_of(run: Run, batch: Mapping[str, Any]) -> np.ndarray:
    """The classes of a batch; null for a network without them."""
    null = np.full(len(batch["video"]), -1, np.int32)
    return batch["given"].get("label", null).astype(np.int64)


def velocity_of(output: Tensor, x_t: Tensor, t: Tensor, prediction: str) -> Tensor:
    """The velocity eps - x0 of rectified flow, from a prediction at noise levels `t`."""
    match prediction:
        case "velocity":
            return output
        case "x0":
            return (x_t - output) / t.clamp(min=process.FLOOR)
        case "eps":
            return (output - x_t) / (1 - t).clamp(min=process.FLOOR)
        case "v":
            return (output + (2 * t - 1) * x_t) / (t**2 + (1 - t) ** 2)
    raise ValueError(prediction)


def make_loss(config: ConfigDict, net: Peer, batch: Mapping[str, Tensor]) -> Callable[[], Tensor]:
    """A function without arguments: the loss of a batch, with new random draws at each call."""
    d, dropout = config.diffusion, config.conditions.dropout
    kept = (1 - dropout) * (1 - config.conditions.label.dropout)
    shift, dtype = time_shift(config), getattr(torch, config.model.dtype)
    # torch.compile reads numbers from a closure, but not from a config.
    mean, std, low = float(d.noise_mean), float(d.noise_std), float(d.noise_low)
    per_frame, prediction = d.per_frame, d.prediction
    B, T = batch["video"].shape[:2]
    device = batch["video"].device

    def loss() -> Tensor:
        x0 = batch["video"].float() / 127.5 - 1
        logit = mean + std * torch.randn(B, T if per_frame else 1, device=device)
        level = low + (1 - low) * torch.sigmoid(logit)
        level = (level / (level + (1 - level) / shift)).expand(B, T)
        eps = torch.randn_like(x0)
        t = level[..., None, None, None]
        x_t = torch.lerp(x0, eps, t)
        label = torch.where(torch.rand(B, device=device) < kept, batch["label"], -1)
        with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
            output = net(x_t, level, batch["time"], label)
        return F.mse_loss(velocity_of(output, x_t, t, prediction), eps - x0)

    return loss


def make_step(
    config: ConfigDict, net: Peer, loss: Callable[[], Tensor]
) -> Callable[[int, float], Tensor]:
    """The step: a function of its number, from 0, and the learning rate; returns the loss."""
    c, params = config.optimizer, list(net.parameters())
    layers = [m.weight for m in net.modules() if isinstance(m, nn.Linear)]
    kernels = {id(x) for x in layers}
    optimizer = torch.optim.AdamW(
        [
            {"params": layers, "weight_decay": c.weight_decay},
            {"params": [p for p in params if id(p) not in kernels], "weight_decay": 0.0},
        ],
        lr=c.lr, betas=(0.9, c.b2), fused=True,
    )  # fmt: skip
    averages = [[p.detach().clone() for p in params] for _ in (0.0, *config.ema.widths)]
    gammas = [ema.gamma_of(width) for width in config.ema.widths]

    def step(number: int, rate: float) -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        value = loss()
        value.backward()
        if c.clip:
            nn.utils.clip_grad_norm_(params, c.clip)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        decay = min(config.ema.decay, (1 + number) / (10 + number))
        shares = [1 - decay, *(1 - (number / (number + 1)) ** (g + 1) for g in gammas)]
        with torch.no_grad():
            for average, share in zip(averages, shares, strict=True):
                torch._foreach_lerp_(average, params, share)
        return value

    return step


def measure(config: ConfigDict, repeats: int, device: str, compiled: bool) -> dict[str, Any]:
    """Builds and times the step in PyTorch."""
    threads = set_threads()
    # JAX's products of float32 on a GPU use TF32 unless told otherwise.
    torch.set_float32_matmul_precision("high" if device == "cuda" else "highest")
    torch.manual_seed(config.seed)
    run = build(config, jax.devices()[:1])
    schedule, steps = make_schedule(config), WARMUP + repeats
    rates = [float(schedule(i)) for i in range(steps)]
    arrays = train_step.random_batch(run)
    batch = {
        "video": torch.tensor(arrays["video"], device=device),
        "time": torch.tensor(arrays["time"], device=device),
        "label": torch.tensor(label_of(run, arrays), device=device),
    }
    chosen = fastest(config, device)
    attends = {word: forms(config)[word][name] for word, name in chosen.items()}
    net = Peer(config, attends, compiled).to(device)
    loss = make_loss(config, net, batch)
    step = make_step(config, net, torch.compile(loss) if compiled else loss)
    seconds = []
    for i in range(steps):
        started = time.perf_counter()
        step(i, rates[i])
        synchronize(device)
        seconds.append(time.perf_counter() - started)
        say(f"step {i + 1} of {steps}: {seconds[-1]:.4f} s")
    return {
        "device_kind": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "torch": torch.__version__,
        "threads": threads,
        "attention": chosen,
        "parameters": sum(p.numel() for p in net.parameters()),
        "first_s": seconds[0],
        "step_s_median": statistics.median(seconds[WARMUP:]),
        "step_s_min": min(seconds[WARMUP:]),
    }


def set_threads() -> int:
    """Gives PyTorch all CPUs that this process may use, like JAX; OMP_NUM_THREADS has priority."""
    if "OMP_NUM_THREADS" not in os.environ:
        with contextlib.suppress(AttributeError):  # not on every system
            torch.set_num_threads(len(os.sched_getaffinity(0)))
    return torch.get_num_threads()


def synchronize(device: str) -> None:
    """Waits until the device has done its work."""
    if device == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    errors.run(main, configs.parse_flags)
