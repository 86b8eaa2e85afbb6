"""Hold the implementations of attention against the plain one, on the first device, and time them.

    python -m benchmarks.attention --config=configs/latte.py:XL/2 [--config.KEY=VALUE …]
        [--repeats=20]

Run it from the repository's root. Progress goes to stderr, one line of JSON to stdout:

- `differences`: for each implementation of this device, mask and number of tokens, the largest
  difference of the output and of the three gradients from the plain implementation in float32 with
  the same inputs, each relative to the largest value there. "refused" where it cannot run.
- `seconds`: of attention and its gradient for the groups that a word of the config forms in one
  batch, in the config's dtype; the median of `repeats`.
"""

from jaxvid import start

if __name__ == "__main__":
    start.begin()

import functools
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from absl import flags
from ml_collections import ConfigDict, config_flags

from benchmarks.train_step import CONFIG, REPEATS, say
from jaxvid import config as configs
from jaxvid import errors
from jaxvid.models.attention import Causal, Dense, Implementation, Lengths, Mask, attention

GROUPS, HEADS, SIZE = 4, 2, 72
TOKENS = (1, 15, 16, 130)


def masks(tokens: int) -> dict[str, Mask]:
    """A mask of each kind for groups of `tokens` tokens."""
    counts = jnp.array([tokens, 1, (tokens + 1) // 2, tokens])
    seen = jnp.tril(jnp.ones((tokens, tokens), bool))[None, None]
    found = {
        "none": None,
        "causal": Causal(),
        "reach": Causal(reach=min(2, tokens)),
        "lengths": Lengths(counts),
        "dense": Dense(seen),
    }
    return found | ({"frames": Causal(tokens=tokens // 2)} if tokens % 2 == 0 else {})


def main(_: Sequence[str]) -> None:
    config = configs.from_flag(CONFIG)
    device = jax.devices()[0]
    names = ["einsum", "cudnn"] if device.platform == "gpu" else ["einsum"]
    result = {
        "config": config_flags.get_config_filename(flags.FLAGS["config"]),
        "overrides": config_flags.get_override_values(flags.FLAGS["config"]),
        "device_kind": device.device_kind,
        "jax": jax.__version__,
        "differences": {name: differences(name) for name in names},
        "seconds": {name: seconds(config, name) for name in names},
    }
    print(json.dumps(result), flush=True)


def with_gradients(name: str, masks: Mapping[str, Mask]) -> Callable[..., Any]:
    """Output and gradients of query, key and value under each mask, for a gradient of the output.

    A mask that the implementation refuses is left out."""
    implementation = Implementation(name, forced=True)

    @jax.jit
    def run(query: Any, key: Any, value: Any, gradient: Any) -> dict[str, tuple[jax.Array, ...]]:
        found = {}
        for kind, mask in masks.items():
            if implementation.refuses(query, key, mask):
                continue
            attend = functools.partial(attention, mask=mask, implementation=implementation)
            y, back = jax.vjp(attend, query, key, value)
            found[kind] = y, *back(gradient.astype(y.dtype))
        return found

    return run


def differences(name: str) -> dict[str, Any]:
    """The largest differences by number of tokens and mask, in bfloat16."""
    found: dict[str, Any] = {}
    for tokens in TOKENS:
        shape, kinds = (4, GROUPS, tokens, HEADS, SIZE), masks(tokens)
        arrays = jax.random.normal(jax.random.key(tokens), shape, jnp.bfloat16)
        exact = with_gradients("einsum", kinds)(*arrays.astype(jnp.float32))
        ours = with_gradients(name, kinds)(*arrays)
        found[f"{tokens} tokens"] = {
            kind: [relative(a, b) for a, b in zip(ours[kind], exact[kind], strict=True)]
            if kind in ours
            else "refused"
            for kind in kinds
        }
        say(f"{name}: {tokens} tokens")
    return found


def relative(a: jax.Array, b: jax.Array) -> float:
    """The largest difference of a from b, relative to the largest of b; at least to 1e-3."""
    return float(f"{jnp.abs(a - b).max() / jnp.maximum(jnp.abs(b).max(), 1e-3):.2g}")


def seconds(config: ConfigDict, name: str) -> dict[str, float]:
    """Seconds by word of the grammar."""
    model, data = config.model, config.data
    p, q, r = model.patch
    B, T, N = config.batch_size, data.frames // p, data.size // q * (data.size // r)
    found = {}
    for word, (groups, tokens) in {"space": (B * T, N), "time": (B * N, T)}.items():
        shape = (4, groups, tokens, model.heads, model.width // model.heads)
        arrays = jax.random.normal(jax.random.key(0), shape, jnp.dtype(model.dtype))
        mask = Causal() if word == "time" and model.causal else None
        run = with_gradients(name, {word: mask})
        jax.block_until_ready(run(*arrays))
        taken = []
        for _ in range(REPEATS.value):
            started = time.perf_counter()
            jax.block_until_ready(run(*arrays))
            taken.append(time.perf_counter() - started)
        found[word] = statistics.median(taken)
        say(f"{name}, {word}: {found[word]:.6f} s")
    return found


if __name__ == "__main__":
    errors.run(main, configs.parse_flags)
