import resource
import threading

import numpy as np
import pytest
from PIL import Image

from jaxvid.data.video import read_video
from jaxvid.errors import InputError
from jaxvid.workdir import pictures, samples
from jaxvid.workdir.samples import write_samples


def clips(count, frames, seed=0, size=16):
    return np.random.default_rng(seed).integers(0, 255, (count, frames, size, size, 3), np.uint8)


def write(folder, videos, observed=None):
    with write_samples(folder, 8, observed) as files:
        files.add(videos)


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_fewer_clips_leave_none_of_the_old_and_nothing_else(tmp_path):
    folder = tmp_path / "samples"
    for count in (3, 1):
        write(folder, clips(count, 4))
        assert names(folder) == [*(f"{i:03d}.mp4" for i in range(count)), "sheet.png"]
    assert names(tmp_path) == ["samples"]
    assert folder.stat().st_mode == (folder.parent / ".").stat().st_mode | 0o55


def test_frames_that_come_bit_by_bit_make_the_same_files(tmp_path):
    videos, observed = clips(2, 9), np.array([True, True, False])
    write(tmp_path / "whole", videos, observed)
    with write_samples(tmp_path / "parts", 8, observed) as files:
        for start, end in (0, 4), (4, 5), (5, 9):
            files.add(videos[:, start:end])
    for name in names(tmp_path / "whole"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()
    shown, _ = read_video(tmp_path / "parts/001.mp4", frames=9, size=16)
    assert np.abs(shown.astype(int) - videos[1]).mean() < 20
    sheet = np.asarray(Image.open(tmp_path / "parts/sheet.png"))
    border = np.pad(observed, (0, 6))
    np.testing.assert_array_equal(sheet, pictures.contact_sheet(videos, observed=border))


def test_the_sheet_of_a_long_clip_shows_some_of_its_frames(tmp_path, monkeypatch):
    monkeypatch.setattr(samples, "SHOWN", 4)
    videos = clips(1, 11)
    with write_samples(tmp_path / "a", 8) as files:
        for t in range(11):
            files.add(videos[:, t : t + 1])
    sheet = np.asarray(Image.open(tmp_path / "a/sheet.png"))
    np.testing.assert_array_equal(
        sheet, pictures.contact_sheet(videos[:, ::4], observed=np.zeros(3, bool))
    )


def test_what_fails_or_is_interrupted_leaves_the_old(tmp_path):
    write(tmp_path / "a", clips(2, 4))
    before = {p.name: p.read_bytes() for p in (tmp_path / "a").iterdir()}

    def interrupted():
        with write_samples(tmp_path / "a", 8) as files:
            files.add(clips(1, 4))
            files.add(clips(1, 4))
            raise KeyboardInterrupt

    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limit[1]))
    try:
        with pytest.raises(InputError, match=r"cannot be written \(File too large.*make room"):
            write(tmp_path / "a", clips(1, 20, size=64))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert {p.name: p.read_bytes() for p in (tmp_path / "a").iterdir()} == before
    assert names(tmp_path) == ["a"]


def test_a_folder_of_other_things_is_refused_at_once_and_kept(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/thesis.tex").touch()
    (tmp_path / "a/000.mp4").touch()
    refused = pytest.raises(InputError, match=r"has other files than samples \(thesis.tex\)")
    with refused, write_samples(tmp_path / "a", 8):
        pytest.fail("clips would be drawn")
    assert names(tmp_path / "a") == ["000.mp4", "thesis.tex"]
    for place in (tmp_path / "a/000.mp4", tmp_path / "a/000.mp4/b"):
        with pytest.raises(InputError, match="cannot be written"):
            write(place, clips(1, 2))


def test_of_several_at_once_one_stays_whole(tmp_path):
    counts = range(1, 7)
    threads = [
        threading.Thread(target=lambda n=n: [write(tmp_path / "a", clips(n, 2)) for _ in range(3)])
        for n in counts
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = names(tmp_path / "a")
    assert found[-1] == "sheet.png"
    shown = pictures.contact_sheet(clips(len(found) - 1, 2), observed=np.zeros(2, bool))
    assert Image.open(tmp_path / "a/sheet.png").size == shown.shape[1::-1]
    assert names(tmp_path) == ["a"]
