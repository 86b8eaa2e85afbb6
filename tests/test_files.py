import os
import stat

import pytest

from jaxvid.errors import InputError
from jaxvid.files import make_folder, to_path


def test_the_home_is_expanded_and_object_stores_but_one_are_refused(monkeypatch):
    assert str(to_path("gs://bucket/run", "--workdir")) == "gs://bucket/run"
    with pytest.raises(InputError, match=r"--workdir=s3://bucket/run: object stores are not"):
        to_path("s3://bucket/run", "--workdir")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match="--input=gs://bucket/run: gcsfs is missing: pip install"):
        to_path("gs://bucket/run", "--input")
    monkeypatch.setenv("HOME", "/home/someone")
    assert str(to_path("~/run", "--workdir")) == "/home/someone/run"
    assert str(to_path("runs/base", "--workdir")) == "runs/base"


def test_a_folder_that_cannot_be_written_to_is_named_with_its_flag(tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.touch()
    make_folder(tmp_path / "new/deep", "--output")
    assert list((tmp_path / "new/deep").iterdir()) == []
    for path, reason in [
        (file, "it is a file"),
        (file / "below", "Not a directory"),
        (tmp_path / ("x" * 300), "File name too long"),
    ]:
        with pytest.raises(InputError, match=f"--output={path}: {reason}; choose another folder"):
            make_folder(path, "--output")
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    if not os.access(tmp_path, os.W_OK):  # the superuser may write everywhere
        with pytest.raises(InputError, match="Permission denied"):
            make_folder(tmp_path, "--output")
    tmp_path.chmod(stat.S_IRWXU)
