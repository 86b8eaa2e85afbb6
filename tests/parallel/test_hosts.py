import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxvid.parallel.hosts import Share, joined, put, put_whole, share_of, to_hosts


@pytest.mark.parametrize(
    ("mine", "of", "share"),
    [
        ({0, 1, 2, 3}, 16, Share((0,), 4)),
        ({4, 5}, 8, Share((2,), 4)),
        (set(range(8)), 8, Share((0,), 1)),
        ({0, 1, 4, 5}, 8, Share((0, 2), 4)),
        ({1, 6}, 8, Share((1, 6), 8)),
        ({2, 3, 4, 5}, 8, Share((1, 2), 4)),
    ],
)
def test_neighbouring_parts_are_read_as_one(mine, of, share):
    assert joined(mine, of) == share


def test_a_single_host_has_all_rows_in_any_order_of_its_devices():
    devices = np.array(jax.devices())[[3, 1, 0, 2, 7, 5, 6, 4]].reshape(4, 2)
    sharding = NamedSharding(Mesh(devices, ("data", "tensor")), PartitionSpec("data"))
    assert share_of(sharding, 4) == Share((0,), 1)
    x = {"a": np.arange(24).reshape(8, 3), "b": np.arange(8, dtype=np.uint8)}
    placed = put(x, sharding, share_of(sharding, 4))
    jax.tree.map(np.testing.assert_array_equal, jax.tree.map(to_hosts, placed), x)
    assert placed["b"].dtype == np.uint8
    assert placed["a"].sharding == sharding


def test_rows_keep_their_values_on_one_device():
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    placed = put_whole(np.arange(6).reshape(2, 3), sharding)
    np.testing.assert_array_equal(placed, np.arange(6).reshape(2, 3))
