"""Broken and odd files: each is read whole or refused with its reason, in time, by every reader."""

import json
import multiprocessing
import re
import socket
import subprocess
import sys

import numpy as np
import pytest

from jaxvid.data.curation.settings import Settings
from jaxvid.data.video import duration, is_image, read_at, read_frames
from jaxvid.errors import InputError
from jaxvid.prepare import prepare
from tests.data.corpus import CORPUS, encode, hls

# With all that looks at frames, but without what drops clips.
SETTINGS = Settings(size=16, fps=8.0, frames=2, quality=95, cuts=3.0, letterbox=True)
SECONDS = 20  # for a file, beside other programs


def attempt(function, *arguments, **options):
    """What a function returns, and the error if it refuses."""
    try:
        return function(*arguments, **options), ""
    except InputError as error:
        return None, str(error)


def gather(frames, kept):
    for image, time in frames:
        kept.append((image, time))


def examine(path):
    """What each way to read a file gives."""
    frames, at_8_fps = [], []
    _, refused = attempt(gather, ((i.shape, t) for i, t in read_frames(path)), frames)
    attempt(gather, read_frames(path, size=16, fps=8), at_8_fps)
    _, untimed = attempt(duration, path)
    sought, last = [], max(0, len(at_8_fps) - 1)
    for index in {(last,), (0, last // 2, last)}:
        index = np.unique(index)
        found, reason = attempt(read_at, path, index / 8, size=16)
        expected = [at_8_fps[i][0] for i in index] if at_8_fps else None
        sought.append(reason or bool(np.array_equal(found[0], expected)))
    return frames, refused, untimed, sought


def test_each_is_read_or_refused_in_time(odd_files, capfd):
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        for name, odd in CORPUS.items():
            path = odd_files / name
            try:
                found = pool.apply_async(examine, (path,)).get(SECONDS)
            except multiprocessing.TimeoutError:
                pytest.fail(f"{name}: not read within {SECONDS} s")
            frames, refused, untimed, sought = found
            reason = refused.removeprefix(f"{path}: ")
            assert bool(reason) == bool(odd.refused), (name, reason)
            assert re.search(odd.refused, reason), (name, reason)
            assert "\n" not in reason, name
            count = len(frames)
            assert count == odd.frames or (odd.frames is None and 0 < count < 24), (name, count)
            assert {shape for shape, _ in frames} <= {(odd.side, odd.side, 3)}, name
            times = np.array([time for _, time in frames])
            assert (times[:1] == 0).all(), name
            assert (np.diff(times) > 0).all(), name
            assert ("does not say how long" in untimed) == odd.untimed, (name, untimed)
            for outcome in sought:  # True, or a reason
                assert outcome is True or (outcome and refused), (name, outcome)
    assert capfd.readouterr().err == ""


def test_a_turned_picture_is_upright(odd_files):
    plain, _ = next(read_frames(odd_files / "plain.mp4"))
    for turns in (1, 2, 3):
        image, _ = next(read_frames(odd_files / f"turned_{90 * turns}.mp4"))
        np.testing.assert_array_equal(image, np.rot90(plain, -turns))


def test_a_playlist_reaches_no_address(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        address = "http://{}:{}/a.ts".format(*server.getsockname())
        for text in (hls(address), f"ffconcat version 1.0\nfile {address}\n"):
            (tmp_path / "a.mp4").write_text(text)
            with pytest.raises(InputError, match="not a video"):
                list(read_frames(tmp_path / "a.mp4"))
        with pytest.raises(BlockingIOError):
            server.accept()


def test_prepare_counts_and_names_each(odd_files, tmp_path):
    command = [sys.executable, "-m", "jaxvid.prepare", f"--input={odd_files}", "--workers=1"]
    command += ["--size=16", "--frames=2", "--filters=", "--duplicates=-1"]
    done = subprocess.run(
        [*command, f"--output={tmp_path}/1"], capture_output=True, text=True, timeout=6 * SECONDS
    )
    assert (done.returncode, done.stderr) == (0, "")
    prepare(odd_files, tmp_path / "2", SETTINGS, workers=2)
    one, two = (
        {path.name: path.read_bytes() for path in (tmp_path / workers).iterdir()}
        for workers in "12"
    )
    assert one.pop("kept.png")
    assert one == two

    files = {}
    for name, content in one.items():
        files |= (
            json.loads(content)["files"] if name.startswith("clips-0") and ".json" in name else {}
        )
    listed = {name: odd for name, odd in CORPUS.items() if odd.listed}
    assert files.keys() == listed.keys()
    for name, odd in listed.items():
        entry, expected = files[name], odd.refused
        if not expected and is_image(odd_files / name):
            expected = "^an image, not a video"
        elif not expected and (odd.frames or 24) < 3:
            expected = "^shorter than a clip"
        assert entry["status"] == ("skipped" if expected else "done"), (name, entry)
        assert re.search(expected, entry.get("reason", "")), (name, entry)
    skipped = sum(entry["status"] == "skipped" for entry in files.values())
    assert f"from {len(files) - skipped} files ({skipped} skipped)" in done.stdout
    for name, odd in CORPUS.items():
        if not odd.listed and (odd_files / name).name not in (".hidden.mp4", "folder.mp4"):
            assert re.search(f"not read: (folder )?{name}: a ", done.stdout), name


def test_names_do_not_choose_how_a_file_is_read(tmp_path):
    assert len(list(read_frames(encode(tmp_path / "a%d*?.mp4")))) == 24
