"""Weights that a Python package carries, read without running any of its code."""

import hashlib
import importlib.util
import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from jaxvid.errors import InputError

INSTALL = "pip install -r requirements-eval.txt"

_reconstruct = np.empty(0).__reduce__()[0]
# All that a pickle of dicts of numeric arrays refers to; numpy 2 has renamed its core.
_ADMITTED = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
}


def read_weights(package: str, file: str, sha256: str) -> dict[str, Any]:
    """The nested dict of NumPy arrays in a pickle that an installed package carries.

    The package is not imported. The file is parsed only if it is the expected one, and then
    without calling anything but the constructors of arrays.

    Args:
      package: the name under which Python would import it.
      file: path of the pickle inside the package.
      sha256: of the file, in hexadecimal digits.

    Raises:
      InputError: the package or the file is missing, the file is another one, or it holds more than
        dicts of arrays.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise InputError(f"{package}/{file}: these weights are not installed; {INSTALL}")
    path, again = Path(spec.origin).parent / file, f"pip uninstall {package}, then {INSTALL}"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; {again}") from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise InputError(f"{path}: damaged, or another version than this code is made for; {again}")
    return _Arrays(io.BytesIO(content), path).load()


class _Arrays(pickle.Unpickler):
    """Reads arrays and nothing else: a pickle may otherwise name any function, and call it."""

    def __init__(self, file: io.BytesIO, path: Path):
        super().__init__(file)
        self.path = path

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ADMITTED:
            raise InputError(f"{self.path}: refers to {module}.{name}, but weights are arrays only")
        return _ADMITTED[module, name]
