"""Shared by the tests of data: the corpus of broken and odd files."""

import pytest

from tests.data import corpus


@pytest.fixture(scope="session")
def odd_files(tmp_path_factory):
    """A folder with all files of `corpus.CORPUS`."""
    folder = tmp_path_factory.mktemp("corpus")
    corpus.make(folder)
    return folder
