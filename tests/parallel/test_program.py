"""What is read of a compiled program, held against programs whose work is known."""

import math
from unittest.mock import Mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxvid.errors import InputError
from jaxvid.parallel.collectives import collectives, groups_of
from jaxvid.parallel.mesh import AXES, make_mesh
from jaxvid.parallel.program import Program, flops, hbm_bytes, operations_of

SIZES = {"replica": 1, "data": 2, "fsdp": 4, "context": 1, "tensor": 1}
LAYERS, B, D = 5, 32, 64


def compiled(function, *arrays):
    """A function that is compiled for eight devices, and their mesh; arrays are (shape, spec)."""
    mesh = make_mesh(SIZES)
    given = [
        jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, P(*spec)))
        for shape, spec in arrays
    ]
    with jax.set_mesh(mesh):
        return jax.jit(function).lower(*given).compile(), mesh


def layers(weights, x):
    """A product with each of the weights, which are gathered when they are used."""

    def layer(x, w):
        return jnp.tanh(x @ jax.lax.with_sharding_constraint(w, P())), None

    return jax.lax.scan(layer, x, weights)[0].sum()


@pytest.fixture(scope="module")
def gradient():
    weights = (LAYERS, D, D), (None, "fsdp")
    return compiled(jax.grad(layers), weights, ((B, D), (("data", "fsdp"),)))


def test_collectives_count_as_often_as_they_run_by_axes_and_bytes(gradient):
    program, mesh = Program(gradient[0].as_text()), gradient[1]
    found = {(c.kind, c.axes): (c.times, c.bytes) for c in collectives(program, mesh)}
    # Each device sends its quarter of a layer to three others; the gradient is summed over all.
    assert found[("all-gather", "fsdp")] == (LAYERS, LAYERS * 3 * D * D / 4 * 4)
    assert found[("all-reduce", "data+fsdp")] == (LAYERS, LAYERS * 2 * 7 / 8 * D * D * 4)
    assert len(found) == 2


def test_flops_count_each_pass_of_a_loop(gradient):
    assert flops(Program(gradient[0].as_text())) == 3 * 2 * LAYERS * B / 8 * D * D


def test_without_loops_the_work_is_what_the_compiler_counts():
    weights, x = ((D, D), ("fsdp",)), ((B, D), (("data", "fsdp"),))
    program, _ = compiled(lambda w, x: jnp.tanh(x @ w).sum(), weights, x)
    counted, read = program.cost_analysis(), Program(program.as_text())
    assert hbm_bytes(read) == pytest.approx(counted["bytes accessed"], rel=0.02)
    assert flops(read) == pytest.approx(counted["flops"], rel=0.02)


def test_a_loop_that_updates_a_stack_moves_slices_of_it(gradient):
    moved = hbm_bytes(Program(gradient[0].as_text()))
    layer = 4 * (D * D * 20 + B / 8 * D * 20)
    assert LAYERS * 4 * D * D < moved < LAYERS * layer


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("replica_groups={{0,2},{1,3}}, dim", [[0, 2], [1, 3]]),
        ("replica_groups={}, to_apply", [[0, 1, 2, 3]]),
        ("replica_groups=[1,4]<=[4], dim", [[0, 1, 2, 3]]),
        ("replica_groups=[2,2]<=[2,2]T(1,0), dim", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['a'=2,'b'=2] {'a'}, dim", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'a'}", [[0, 1], [2, 3]]),
        ("replica_groups=mesh['a'=4] {'a':(2)2}, dim", [[0, 1], [2, 3]]),
        ("replica_groups=mesh['a'=4] {'a':(1)2}, dim", [[0, 2], [1, 3]]),
        ("source_target_pairs={{0,1},{2,3}}, dim", [[0, 1], [2, 3]]),
    ],
)
def test_groups_are_read_in_every_form_of_the_compiler(text, groups):
    np.testing.assert_array_equal(groups_of(f"%x), channel_id=1, {text}", 4), groups)


TPU = """
%fused_computation.1 (a: f32[2]) -> (f32[2], f32[8]) {
  %a = f32[2]{0:T(128)} parameter(0)
  %g = f32[8]{0:T(128)S(1)} all-gather(%a), channel_id=1, replica_groups={{0,1,2,3}}
  ROOT %s = (f32[2], f32[8]) custom-call(%g), custom_call_target="AsyncCollectiveStart"
}
%async_collective_fusion.2 (a: f32[2]) -> f32[8] {
  %a = f32[2]{0:T(128)} parameter(0)
  ROOT %g.1 = f32[8]{0:T(128)} all-gather(%a), channel_id=1, replica_groups={{0,1,2,3}}
}
%fused_computation.3 (a: f32[2]) -> f32[8] {
  %a = f32[2]{0:T(128)} parameter(0)
  %g.2 = f32[8]{0:T(128)} all-gather(%a), channel_id=1, replica_groups={{0,1,2,3}}
  ROOT %d = f32[8] custom-call(%g.2), custom_call_target="AsyncCollectiveDone"
}
%all-reduce-scatter.4 (a: f32[8]) -> f32[2] {
  %b = f32[8]{0:T(128)} parameter(0)
  %r = f32[8]{0:T(128)} all-reduce(%b), replica_groups=[2,2]<=[4], to_apply=%add
  ROOT %x = f32[4]{0:T(128)} dynamic-slice(%r), dynamic_slice_sizes={4}
}
ENTRY %main (a: f32[2]) -> f32[2] {
  %a = f32[2]{0:T(128)} parameter(0)
  %f.1 = (f32[2], f32[8]) fusion(%a), calls=%fused_computation.1
  %f.2 = f32[8]{0:T(128)} fusion(%a), calls=%async_collective_fusion.2
  %f.3 = f32[8]{0:T(128)} fusion(%a), calls=%fused_computation.3
  %f.4 = f32[4]{0:T(128)} fusion(%f.3), calls=%all-reduce-scatter.4
  %p = (f32[4]{0}, f32[4]{0}) collective-permute-start(%f.4), source_target_pairs={{0,0},{1,1}}
  %t = token[] after-all()
  %send = (f32[4]{0}, u32[], token[]) send(%f.4, %t), is_host_transfer=true, \
frontend_attributes={_xla_host_transfer_rendezvous="all-reduce.28_0"}
}
""".replace("\\\n", "")


def devices_of_two_slices():
    """Eight devices, in slices of 2x2 chips."""
    devices = [Mock(spec=jax.Device) for _ in range(8)]
    for i, device in enumerate(devices):
        device.slice_index, device.coords = i // 4, [i // 2 % 2, i % 2, 0]
    return devices


def test_transfers_of_tpus_count_once_and_go_over_the_network_that_they_span():
    mesh = Mock(spec=Mesh, size=8, axis_names=AXES)
    mesh.devices = np.array(devices_of_two_slices()).reshape(2, 1, 2, 1, 2)
    assert [tuple(c) for c in collectives(Program(TPU), mesh)] == [
        ("all-reduce", "replica", "DCN", 0, 1, 16.0),
        ("all-gather", "fsdp+tensor", "ICI", 2, 1, 24.0),
        ("reduce-scatter", "tensor", "ICI", 1, 1, 16.0),
    ]


def test_slices_lie_along_replica_alone():
    with pytest.raises(InputError, match=r"replica=1: the devices are in 2 slices"):
        make_mesh(SIZES, devices_of_two_slices())


def test_an_axis_may_have_a_part_of_a_side_of_the_torus():
    devices = [Mock(spec=jax.Device, platform="tpu", device_kind="TPU v5 lite") for _ in range(32)]
    for i, device in enumerate(devices):
        device.id, device.process_index, device.core_on_chip = i, i // 4, 0
        device.slice_index, device.coords = i // 16, [i // 4 % 4, i % 4, 0]
    mesh = make_mesh(SIZES | {"replica": 2, "data": 2, "fsdp": 8}, devices)
    for replica, parts in enumerate(mesh.devices[..., 0, 0]):
        assert {device.slice_index for device in parts.flat} == {replica}
        for part in parts:  # neighbours: 2x4 chips
            assert math.prod(len({d.coords[i] for d in part}) for i in range(2)) == 8


PROGRAM = """
%limit (a: s32[]) -> pred[] {
  %n = s32[]{:T(128)} constant(14)
  ROOT %lt = pred[] compare(%a, %n), direction=LT
}
%body (a: s32[]) -> s32[] {
  %fused = bf16[8,4]{1,0} fusion(%a), calls=%inner, backend_config={"estimated_cycles":"10"}
  %attention_forward.2 = bf16[4]{0} custom-call(%a), custom_call_target="tpu_custom_call"
}
%inner (a: s32[]) -> bf16[8,4] {
  ROOT %conv = bf16[8,4]{1,0} convolution(%a, %a)
}
ENTRY %main (a: s32[]) -> s32[] {
  %copy.1 = f32[2]{0} copy(%a), backend_config={"estimated_cycles":"3"}
  %loop = s32[] while(%a), condition=%limit, body=%body
}
"""


def test_the_body_of_a_loop_counts_as_often_as_it_runs():
    found = [(op.name, op.kind, op.times * op.cycles) for op in operations_of(Program(PROGRAM))]
    kernel = ("attention_forward.2", "kernel", 0)
    assert found == [("copy.1", "copy", 3), ("fused", "product", 140), kernel]
