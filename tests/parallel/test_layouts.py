"""Every axis of the mesh, alone and with others, under every word of the grammar."""

import collections
import math
import re

import jax
import numpy as np
import pytest

from benchmarks.layouts import LAYOUTS, compiled, difference, make, name_of
from jaxvid.build import check_training
from jaxvid.errors import InputError
from jaxvid.models.mixers import MIXERS
from jaxvid.parallel import rules
from jaxvid.trained import TrainedModel

WORDS = (
    "1*(space mlp) 1*(time swiglu) 1*(joint) 1*(window(2,2,2)) 1*(conv text) 1*(recur space+time)"
)


@pytest.fixture(scope="module")
def alone():
    step, arguments = compiled(make(WORDS, {"data": 1}))
    return step(*arguments)


def test_the_words_are_all_words():
    assert set(re.findall(r"[a-z]+", WORDS)) == set(MIXERS)


USUAL = {"fsdp": 2, "context": 2, "tensor": 2}
EACH = [
    pytest.param(layout, id=name_of(layout), marks=[pytest.mark.thorough] * (layout != USUAL))
    for layout in LAYOUTS
]


@pytest.mark.parametrize("layout", EACH)
def test_loss_and_gradients_are_those_of_one_device(layout, alone):
    run = make(WORDS, layout)
    check_training(run)
    step, arguments = compiled(run)
    assert difference(step(*arguments), alone) < 1e-5


OF_LEVELS = {"patches": ((8, 8),), "detail": (0, 1), "frames": 8}


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("blocks", "skip"),
    [("1*(space text) 1*(time joint)", 0.0), ("1*(space mlp) 1*(time mlp) 1*(joint)", 0.5)],
)
def test_levels_of_detail_and_frames_that_skip_layers_too(blocks, skip):
    layout = {"fsdp": 2, "context": 2, "tensor": 2}
    runs = [make(blocks, each, skip=skip, **OF_LEVELS) for each in ({"data": 1}, layout)]
    check_training(runs[1])
    alone, divided = (step(*arguments) for step, arguments in map(compiled, runs))
    assert difference(divided, alone) < 1e-5


@pytest.mark.thorough
def test_a_causal_recurrence_streams_on_devices_that_divide_the_frames():
    def draw(layout):
        run = make("space recur mlp", layout, causal=True)
        rng = np.random.default_rng(0)
        params = jax.tree.map(
            lambda x: jax.device_put(rng.normal(0, 0.1, x.shape).astype(x.dtype), x.sharding),
            run.params,
        )
        return TrainedModel(run, lambda _: params).draw(2, frames=12, plan="streaming")

    alone = draw({"data": 1})
    assert alone.std() > 10
    np.testing.assert_allclose(draw({"context": 2}).astype(int), alone.astype(int), atol=1)


@pytest.mark.parametrize("layout", LAYOUTS, ids=name_of)
def test_a_device_holds_the_part_of_the_state_that_the_layout_says(layout):
    run = make("space mlp time joint", layout)
    sizes = collections.defaultdict(lambda: 1, layout)

    def part(box):
        along = sizes["fsdp"] ** ("embed" in box.names)
        along *= sizes["tensor"] ** bool({"heads", "mlp"} & {*box.names})
        return box.value.size // along

    boxes = jax.tree.leaves(run.boxed_params, is_leaf=lambda x: hasattr(x, "names"))
    # Parameters, their average, and the two moments of Adam; besides, the number of the step.
    assert 0 < rules.bytes_of_part(run.state) - 16 * sum(map(part, boxes)) < 32


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
ELSE = 2 * B * T * D  # numbers of the conditions


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


def test_context_moves_tokens_of_several_levels_by_all_to_alls_only():
    """And pixels, once, to the levels that they belong to."""
    by_kind = moved(compiled(make("joint", {"context": 2}, **OF_LEVELS))[0])
    frames = OF_LEVELS["frames"]
    tokens, pixels = B * frames // 2 * (64 + 16) * D // 2, B * frames * 32 * 32 * 3
    assert by_kind["all-to-all"].count(tokens) == 2 * 4
    others = [size for kind, each in by_kind.items() for size in each if kind != "all-to-all"]
    assert tokens not in others
    assert sum(others) < 4 * pixels


def test_context_moves_states_of_a_recurrence_and_no_tokens():
    run = make("space mlp recur mlp", {"context": 4})
    by_kind = moved(compiled(run)[0])
    assert max(by_kind.pop("all-to-all")) < B * T * D
    states = [size for size in by_kind.pop("collective-permute") if size > B * T]
    assert set(states) == {B * N * D}
    # Forward and backward in time, and the gradient of each: two rounds of what is left and what
    # is added, and the result; and for the gradient the neighbour's decay and state.
    assert len(states) <= 2 * (2 * 5 + 2)
    parameters = sum(x.size for x in jax.tree.leaves(run.params))
    assert sum(map(sum, by_kind.values())) < parameters + 2 * ELSE


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
        ({"context": 4}, {"patch": (1, 32, 32), "blocks": "recur"}, ""),
        (
            {"context": 2},
            {
                "patches": ((8, 8),),
                "detail": (0, 1),
                "skip": 0.5,
                "blocks": "2*(space) 2*(mlp) 1*(mlp)",
            },
            "the 1 frames that do not skip layers",
        ),
    ],
)
def test_a_mesh_that_cannot_divide_a_clip_is_refused_by_name(mesh, changes, message):
    run = make(changes.pop("blocks", "time joint"), mesh, **changes)
    if not message:
        return check_training(run)
    with pytest.raises(InputError, match=message):
        check_training(run)
