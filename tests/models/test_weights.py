"""Weights from packages that these tests write; importing one fails."""

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest

from jaxvid.errors import InputError
from jaxvid.models.weights import INSTALL, read_weights

ARRAYS = {"layer": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3).T, "bias": np.ones(2)}}


@pytest.fixture
def read(tmp_path, monkeypatch):
    """Writes a package with the file `weights.pkl`, and reads that."""
    package = tmp_path / "carrier_of_weights"
    package.mkdir()
    (package / "__init__.py").write_text("raise AssertionError('it must not be imported')")
    monkeypatch.syspath_prepend(tmp_path)

    def read(content, sha256=None):
        (package / "weights.pkl").write_bytes(content)
        expected = sha256 or hashlib.sha256(content).hexdigest()
        return read_weights("carrier_of_weights", "weights.pkl", expected)

    return read


class Call:
    """Pickled, it is a call that Python's own reader would make."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("core", [b"numpy._core", b"numpy.core"])
def test_arrays_are_read_as_either_numpy_wrote_them(read, core):
    tree = read(pickle.dumps(ARRAYS, protocol=3).replace(b"numpy._core", core))
    assert tree["layer"].keys() == {"kernel", "bias"}
    for name, array in ARRAYS["layer"].items():
        assert tree["layer"][name].dtype == array.dtype
        np.testing.assert_array_equal(tree["layer"][name], array)


@pytest.mark.parametrize("function", [Path.touch, open])
def test_a_pickle_that_calls_a_function_is_refused_and_the_call_not_made(read, tmp_path, function):
    made = tmp_path / "made"
    args = (made,) if function is Path.touch else (str(made), "w")
    content = pickle.dumps(ARRAYS | {"more": Call(function, *args)})
    with pytest.raises(InputError, match=r"weights\.pkl: refers to .*arrays only"):
        read(content)
    assert not made.exists()
    pickle.loads(content)["more"]
    assert made.exists()


def test_a_changed_file_is_refused_before_it_is_parsed(read):
    content = pickle.dumps(ARRAYS)
    for changed in (content + b"\0", content[:-1], b"not a pickle"):
        with pytest.raises(InputError, match=rf"weights\.pkl: damaged.*{INSTALL}"):
            read(changed, hashlib.sha256(content).hexdigest())


def test_a_missing_package_or_file_says_how_to_install_it(read):
    with pytest.raises(InputError, match=f"no_such_package/weights.pkl: .*{INSTALL}"):
        read_weights("no_such_package", "weights.pkl", "")
    with pytest.raises(InputError, match=rf"other\.pkl: No such file.*{INSTALL}"):
        read_weights("carrier_of_weights", "other.pkl", "")
