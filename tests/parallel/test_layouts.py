"""Every axis of the mesh, alone and with others, under every word of the grammar."""

import collections
import math
import re

import jax
import numpy as np
import pytest

from jaxvid.build import build, check_training
from jaxvid.data import pipeline
from jaxvid.errors import InputError
from jaxvid.models.mixers import MIXERS
from jaxvid.parallel import rules
from jaxvid.parallel.hosts import put_whole
from jaxvid.training.step import draw_examples, loss_by_noise
from tests import tiny

WORDS = (
    "1*(space mlp) 1*(time swiglu) 1*(joint) 1*(window(2,2,2)) 1*(conv text) 1*(recur space+time)"
)
LAYOUTS = (
    {"data": 8},
    {"fsdp": 8},
    {"tensor": 8},
    {"context": 4},
    {"replica": 2, "data": 2, "fsdp": 2},
    {"data": 2, "fsdp": 2, "tensor": 2},
    {"data": 2, "context": 4},
    {"fsdp": 2, "context": 4},
    {"fsdp": 2, "context": 2, "tensor": 2},
    {"replica": 2, "context": 2, "tensor": 2},
)


def make(blocks, mesh, **model):
    """A run on as many devices as the mesh has, with 8 clips of 4 frames of 64 tokens."""
    config = tiny.get_config()
    config.data.update(frames=4, size=32)
    config.model.update(blocks=blocks, depth=1, width=32, heads=8, patch=(1, 4, 4))
    config.model.update(**model)
    config.conditions.text.length = 8
    config.mesh.update({"data": 1} | mesh)
    return build(config, jax.devices()[: math.prod(mesh.values())])


def compiled(run):
    """The program of the gradient on a mesh, and its arguments."""
    config, rng = run.config, np.random.default_rng(0)
    blank = pipeline.blank_batch(config.data, run.encode, config.batch_size)
    batch = {name: blank[name] for name in ("time", "given")}
    batch["video"] = rng.integers(0, 256, blank["video"].shape).astype(np.uint8)
    batch["given"]["text"] = jax.tree.map(
        lambda x: rng.integers(1, 8, x.shape).astype(x.dtype), batch["given"]["text"]
    )

    def place(x):  # larger weights would enlarge what rounding changes
        return jax.device_put(rng.normal(scale=0.05, size=x.shape).astype(x.dtype), x.sharding)

    def loss(params, batch):
        examples = draw_examples(config, run.denoiser, batch, jax.random.key(0))
        return loss_by_noise(config, run.denoiser, params, examples)[0].sum()

    with jax.set_mesh(run.mesh):
        arguments = (
            jax.tree.map(place, run.params),
            put_whole(batch, rules.batch_sharding(run.mesh)),
        )
        of_params = jax.tree.map(lambda x: x.sharding, run.params)
        step = jax.jit(jax.value_and_grad(loss), out_shardings=(None, of_params))
        return step.lower(*arguments).compile(), arguments


@pytest.fixture(scope="module")
def alone():
    step, arguments = compiled(make(WORDS, {"data": 1}))
    return jax.device_get(step(*arguments))


def test_the_words_are_all_words():
    assert set(re.findall(r"[a-z]+", WORDS)) == set(MIXERS)


@pytest.mark.parametrize("mesh", LAYOUTS, ids=lambda m: "-".join(f"{k}{n}" for k, n in m.items()))
def test_loss_and_gradients_are_those_of_one_device(mesh, alone):
    run = make(WORDS, mesh)
    check_training(run)
    step, arguments = compiled(run)
    loss, gradients = jax.device_get(step(*arguments))
    np.testing.assert_allclose(loss, alone[0], rtol=1e-5)
    largest = max(map(np.linalg.norm, jax.tree.leaves(alone[1])))
    for a, b in zip(*map(jax.tree.leaves, (gradients, alone[1])), strict=True):
        assert np.linalg.norm(a - b) <= 1e-5 * max(np.linalg.norm(b), 1e-3 * largest)


def moved(step):
    """How many numbers a device gets by each collective of one run."""
    found = collections.defaultdict(list)
    for line in step.as_text().splitlines():
        line = re.sub(r"/\*index=\d+\*/", "", line)
        match = re.search(r"= (.*?) ((?:all|reduce|collective)-[a-z-]+?)(?:-start)?\(", line)
        if match:
            shapes = re.findall(r"\w+\[([\d,]*)\]", match[1])
            found[match[2]].append(sum(math.prod(map(int, s.split(","))) for s in shapes if s))
    return found


B, T, N, D = 8, 4, 64, 32


@pytest.mark.parametrize(
    ("blocks", "times"),
    [
        ("space mlp time mlp", 2),
        ("1*(space text) 1*(conv recur)", 2),
        ("joint", 4),
        ("space+time", 2),
    ],
)
def test_context_moves_tokens_by_all_to_alls_only_and_as_often_as_words_need(blocks, times):
    """To the words that need it and back, and the same for the gradient."""
    run = make(blocks, {"context": 4})
    by_kind = moved(compiled(run)[0])
    tokens = B * T * N * D // 4
    moves = [size for size in by_kind.pop("all-to-all") if size > B * T * D]
    assert moves == [tokens] * (2 * times)
    parameters = sum(x.size for x in jax.tree.leaves(run.params))
    assert sum(map(sum, by_kind.values())) < parameters + tokens


def test_fsdp_gathers_parameters_and_moves_no_tokens():
    run = make("space mlp time mlp", {"fsdp": 8})
    by_kind = moved(compiled(run)[0])
    parameters = sum(x.size for x in jax.tree.leaves(run.params))
    vectors = 2 * B * T * D  # of the conditions
    assert sum(by_kind.pop("all-reduce")) < parameters + vectors
    gathered = by_kind.pop("all-gather")
    assert sum(gathered) < 2 * parameters + vectors
    largest = max(x.size for x in jax.tree.leaves(run.params))
    assert max(gathered) <= largest < 2 * B * T * N * D // 8  # of tokens, two devices' are more
    assert sum(map(sum, by_kind.values())) < vectors


@pytest.mark.parametrize(
    ("mesh", "changes", "message"),
    [
        ({"context": 8}, {}, "config.mesh.context=8: it must divide the 4 frames"),
        ({"context": 4}, {"patch": (2, 4, 4)}, "the 2 frames of tokens of 2x4x4 pixels"),
        ({"context": 4, "tensor": 2}, {"heads": 8, "blocks": "space mlp"}, ""),
        ({"context": 2, "tensor": 4}, {"heads": 4}, "the 1 heads on a device, for 'joint'"),
        ({"context": 2}, {"patch": (1, 32, 32)}, "the 1 places of a frame, for 'time'"),
    ],
)
def test_a_mesh_that_cannot_divide_a_clip_is_refused_by_name(mesh, changes, message):
    run = make(changes.pop("blocks", "time joint"), mesh, **changes)
    if not message:
        return check_training(run)
    with pytest.raises(InputError, match=message):
        check_training(run)
