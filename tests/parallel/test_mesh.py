import jax
import pytest

from jaxvid.errors import InputError
from jaxvid.parallel.mesh import AXES, make_mesh

ONES = dict.fromkeys(AXES, 1)


def test_minus_one_takes_the_devices_that_are_left():
    mesh = make_mesh(ONES | {"data": -1, "fsdp": 2})
    assert dict(mesh.shape) == ONES | {"data": 4, "fsdp": 2}
    assert mesh.size == len(jax.devices()) == 8


@pytest.mark.parametrize(
    "sizes",
    [{"data": 3}, {"data": 4}, {"data": -1, "fsdp": 3}, {"data": -1, "fsdp": -1}, {"data": 0}],
)
def test_a_mesh_that_does_not_fit_names_its_sizes(sizes):
    axis, size = next(iter(sizes.items()))
    with pytest.raises(InputError, match=f"mesh.{axis}={size}"):
        make_mesh(ONES | sizes)
