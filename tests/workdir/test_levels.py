import resource

import numpy as np
import pytest

from jaxvid.errors import InputError
from jaxvid.workdir.levels import claim, read_level, write_level


def test_frames_that_come_bit_by_bit_are_one_array_that_appears_whole(tmp_path):
    videos = np.random.default_rng(0).integers(0, 256, (2, 7, 4, 4, 3), np.uint8)
    path = tmp_path / "1-outline.npy"

    def parts():
        for start, end in (0, 0), (0, 3), (3, 7):
            yield videos[:, start:end]
            assert not path.exists()

    write_level(path, videos.shape, parts())
    np.testing.assert_array_equal(np.load(path, allow_pickle=False), videos)
    assert isinstance(read_level(path, videos.shape), np.memmap)
    with pytest.raises(InputError, match=r"has uint8 \[2, 7, 4, 4, 3\] instead of uint8 \[1, 7, "):
        read_level(path, (1, *videos.shape[1:]))
    np.save(path, np.array([{}]), allow_pickle=True)
    with pytest.raises(InputError, match=r"cannot be read .*Python objects.*: delete it"):
        read_level(path, videos.shape)


def test_a_disk_that_is_full_leaves_no_level(tmp_path):
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    videos = np.zeros((1, 9, 64, 64, 3), np.uint8)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limit[1]))
    try:
        with pytest.raises(InputError, match=r"cannot be written \(File too large.*make room"):
            write_level(tmp_path / "a.npy", videos.shape, [videos])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert not (tmp_path / "a.npy").exists()


def test_a_folder_belongs_to_its_settings(tmp_path):
    settings = {"a": {"seed": 0, "sampler": {"steps": 2, "interval": (0.0, 1.0)}}}
    claim(tmp_path / "new", settings)
    claim(tmp_path / "new", settings)
    other = {"a": {"seed": 0, "sampler": {"steps": 4, "interval": (0.0, 1.0)}}}
    with pytest.raises(InputError, match=r"\(a.sampler.steps: 2 then, 4 now\): give another --out"):
        claim(tmp_path / "new", other)
    (tmp_path / "new/cascade.json").write_text("{")
    with pytest.raises(InputError, match=r"cascade.json cannot be read .*: give another --output"):
        claim(tmp_path / "new", settings)
