"""What a run would be, as text: shapes, parameters, FLOPs, memory and mesh, without a step."""

from collections import Counter
from typing import Any

import jax

from jaxvid.build import Run, least_memory
from jaxvid.data.clips import frame_shape
from jaxvid.data.sources import Source
from jaxvid.models.flops import part_of, train_flops
from jaxvid.parallel import rules
from jaxvid.pods.tables import amount


def summary(run: Run, source: Source, held_out: Source) -> str:
    """The shapes, sizes and costs of a run that can train. Nothing is compiled."""
    config, net, clips = run.config, run.denoiser.net, run.config.batch_size
    tokens = net.tokens(config.data.frames, frame_shape(config.data))
    patch = "x".join(map(str, net.patch))
    sizes = {axis: size for axis, size in run.mesh.shape.items() if size > 1}
    mesh = " ".join(f"{axis}={size}" for axis, size in sizes.items()) or "one device"
    state = {
        "parameters": run.state.params,
        "averages": (run.state.ema, run.state.profiles),
        "optimizer": run.state.opt_state,
    }
    held = ", ".join(f"{k} {amount(rules.bytes_of_part(x), 'B')}" for k, x in state.items())
    parameters, flops = _parameters(run), train_flops(*run.network_call(1))
    per_clip = sum(flops.values())
    lines = [
        f"data     {len(source):,} clips to train on, {len(held_out):,} held out",
        f"batch    {', '.join(_arrays(run.batch(clips)))}",
        f"tokens   {tokens:,} of {net.width} features in a clip, from patches of {patch}",
        f"mesh     {mesh}: {run.mesh.size} x {run.mesh.devices.flat[0].device_kind}",
        f"memory   at least {amount(least_memory(run), 'B')} of a device: {held}; the rest are "
        "gradients and activations",
        f"step     {amount(clips * per_clip, 'FLOP')}: {clips} clips of "
        f"{amount(per_clip, 'FLOP')}, forwards and backwards",
        f"network  {amount(sum(parameters.values()), '')} parameters",
    ]
    for part, count in parameters.most_common():
        share = flops.get(part, 0) / per_clip
        lines.append(f"  {part:<12}{amount(count, ''):>9} {share:6.1%} of the FLOPs")
    return "\n".join(lines)


def _parameters(run: Run) -> Counter[str]:
    """How many parameters each part of the network has."""
    counts: Counter[str] = Counter()
    for path, x in jax.tree_util.tree_leaves_with_path(run.params):
        counts[part_of("/".join(key.key for key in path))] += x.size
    return counts


def _arrays(batch: Any) -> list[str]:
    """The name, dtype and shape of each array of a batch."""
    return [
        f"{'.'.join(key.key for key in path)} {x.dtype} {list(x.shape)}"
        for path, x in jax.tree_util.tree_leaves_with_path(batch)
    ]
