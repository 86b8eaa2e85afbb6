"""What happens to one process of a run. `benchmarks.drills` has more, with four processes."""

import re

import numpy as np
import pytest
from PIL import Image

from benchmarks import drills
from tests.commands import run_alone

LIMIT = 300  # seconds: far more than they take, and less than JAX and Orbax would wait
GIVEN = "--config.steps=10", "--config.checkpoint.every=1"
GIVEN += "--config.mesh.data=1", "--config.mesh.fsdp=-1"


@pytest.fixture(scope="module")
def drilled(tmp_path_factory):
    """A run of which process 0 is killed, then process 1 interrupted, and that one alone ends."""
    workdir = tmp_path_factory.mktemp("run")
    ended, seen = [], [tmp_path_factory.mktemp("seen") for _ in range(2)]
    for fault, folder in zip(("0,5,kill", "1,3,interrupt"), seen, strict=True):
        run = drills.train(2, workdir, *GIVEN, FAULT=fault, SEEN=str(folder))
        ended.append(run.wait(LIMIT))
    written = drills.written(workdir)
    said = run_alone("train", *drills.CONFIG, f"--workdir={workdir}", *GIVEN)
    return workdir, ended, seen, written, said


@pytest.mark.thorough
def test_a_run_that_is_killed_interrupted_and_ended_by_one_is_as_if_nothing_had_happened(
    drilled, tmp_path
):
    workdir, ended, seen, _, said = drilled
    assert [e.codes for e in ended] == [[-9, 1], [143, 143]], ended
    assert ended[0].why[1].startswith("error: process 0 has ended without a word")
    assert ended[1].began > 0
    stopped = re.search(r"and saved at step (\d+)", ended[1].why[0])[1]
    assert f"resuming at step {stopped} of 10" in said

    whole = tmp_path / "whole"
    run_alone("train", *drills.CONFIG, f"--workdir={whole}", *GIVEN, SEEN=str(tmp_path))
    clips = drills.clips(tmp_path, 0, [0])
    for e, folder in zip(ended, seen, strict=True):
        there = drills.clips(folder, e.began, range(2))
        assert there == {step: clips[step] for step in there}
    a, b = drills.losses(whole), drills.losses(workdir)
    assert drills.largest_difference(a, b) < 1e-5


@pytest.mark.thorough
def test_no_two_processes_write_a_file_of_the_work_directory(drilled):
    workdir, _, seen, written, _ = drilled
    # Process 1 writes nothing but its parts of the arrays.
    others = [path for path, first in written.items() if not first]
    assert others
    assert all(any(p.endswith("process_1") for p in path.parts) for path in others), others
    for folder in seen:
        opened = [set((folder / f"{i}.files").read_text().splitlines()) for i in range(2)]
        both = {path for path in opened[0] & opened[1] if path.startswith(str(workdir))}
        assert not both


@pytest.mark.parametrize(
    ("fault", "first", "second"),
    [
        (
            "1,3,bug",
            "error: process 1 has ended: KeyError: 'clip'; run the same command to resume",
            "KeyError: 'clip'",
        ),
        pytest.param(
            "1,4,disk", "error: process 1 has ended: ", "error: ", marks=pytest.mark.thorough
        ),
    ],
    ids=["bug", "disk"],
)
def test_an_error_in_one_process_ends_all_with_a_line(tmp_path, fault, first, second):
    ended = drills.train(2, tmp_path, "--config.checkpoint.every=3", FAULT=fault).wait(LIMIT)
    assert ended.codes == [1, 1], ended
    assert ended.why[0].startswith(first), ended
    assert ended.why[1].startswith(second), ended
    if "disk" in fault:
        assert all("File too large" in line for line in ended.why)
    assert not drills.checkpoints(tmp_path) or drills.checkpoints(tmp_path) == [3]


@pytest.mark.thorough
def test_a_process_that_hangs_is_given_up(tmp_path):
    both = drills.train(2, tmp_path, "--config.checkpoint.every=3", FAULT="1,8,hang")
    assert both.each[0].wait(LIMIT) != 0
    assert both.wait(0).codes[1] is None  # it still hangs
    assert drills.checkpoints(tmp_path) in ([3], [3, 6])  # that of step 6 was being written


def test_bad_records_of_all_processes_are_counted_and_stop_all(tmp_path):
    ended = drills.train(2, tmp_path, "--config.data.max_bad=3", BAD="10").wait(LIMIT)
    assert ended.codes == [1, 1], ended
    assert ended.why[0] == ended.why[1]
    assert "records are bad, more than config.data.max_bad=3" in ended.why[0]
    assert "skipped bad record(s)" in ended.said[0]
    assert "skipped bad record(s)" not in ended.said[1]


@pytest.mark.thorough
def test_two_processes_draw_as_one_does_and_the_first_writes(drilled, tmp_path):
    given = f"--workdir={drilled[0]}", "--num=3", "--plugins=benchmarks.faults"
    run_alone("sample", *given, f"--output={tmp_path}/one")
    two = tmp_path / "two"
    ended = drills.Processes(2, *given, f"--output={two}", module="jaxvid.sample").wait(LIMIT)
    assert ended.codes == [0, 0], ended
    assert "3 clips of 4 frames" in ended.said[0]
    assert "clips of" not in ended.said[1]
    a, b = (np.asarray(Image.open(tmp_path / x / "sheet.png"), int) for x in ("one", "two"))
    assert np.abs(a - b).max() <= 1
    written = drills.written(two)
    assert len(written) == 4
    assert all(written.values())
