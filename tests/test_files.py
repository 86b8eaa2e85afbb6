import errno
import os
import stat

import pytest

from jaxvid.errors import InputError
from jaxvid.files import make_folder, to_path, whole


def test_the_home_is_expanded_and_an_object_store_is_refused(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    assert str(to_path("~/run", "--workdir")) == "/home/someone/run"
    assert str(to_path("runs/base", "--workdir")) == "runs/base"
    with pytest.raises(InputError, match=r"--workdir=gs://bucket/run: object stores are not"):
        to_path("gs://bucket/run", "--workdir")


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


def test_a_file_gets_its_name_only_when_it_is_whole(tmp_path):
    path = tmp_path / "clip.mp4"
    path.write_text("old")

    def write_half(error):
        with whole(path) as partial:
            assert partial.suffix == ".mp4"
            partial.write_text("half")
            raise error

    with pytest.raises(InputError, match=f"{path} cannot be written: No space left"):
        write_half(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    with pytest.raises(KeyboardInterrupt):
        write_half(KeyboardInterrupt())
    assert path.read_text() == "old"
    with whole(path) as partial:
        partial.write_text("new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]
