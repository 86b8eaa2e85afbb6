import io
import json
import math
import resource
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from PIL import Image

from jaxvid.errors import InputError
from jaxvid.workdir import log as log_module
from jaxvid.workdir.log import Log


def _lines(workdir) -> list[dict]:
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    text = (workdir / "metrics.jsonl").read_text()
    assert text.endswith("\n")
    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


def _read_events(workdir):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(workdir / "tensorboard"), size_guidance={"images": 0})
    return events.Reload()


class _Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(log_module.time, "monotonic", lambda: now[0])
    return now


def test_metrics_are_valid_json_whatever_the_numbers(tmp_path):
    values = {"loss": np.float32(0.1), "norm": math.inf, "low": -math.inf, "bin": np.float64("nan")}
    with Log(tmp_path, 10) as log:
        log.metrics(1, values)
        # Before the run ends, or is killed, the line is there.
        (line,) = _lines(tmp_path)
    assert {name: float(v) for name, v in line.items()} == pytest.approx(
        {"step": 1, **values}, nan_ok=True
    )


def test_run_killed_and_resumed_leaves_what_an_unbroken_one_leaves(tmp_path):
    broken, unbroken = tmp_path / "broken", tmp_path / "unbroken"
    with Log(unbroken, 8) as log:
        for step in range(1, 9):
            log.metrics(step, {"loss": 1 / step})
            if step == 4:
                log.metrics(step, {"evals/energy": 2.0})

    killed = Log(broken, 8)
    for step in range(1, 7):
        killed.metrics(step, {"loss": 1 / step if step <= 4 else 100.0})
        if step == 4:  # after its checkpoint, so the run that resumes there scores it again
            killed.metrics(step, {"evals/energy": 2.0})
    (broken / "metrics.jsonl").open("a").write('{"step": 7, "lo')
    with Log(broken, 8, start_step=4) as log:
        log.metrics(4, {"evals/energy": 2.0})
        for step in range(5, 9):
            log.metrics(step, {"loss": 1 / step})

    assert (broken / "metrics.jsonl").read_text() == (unbroken / "metrics.jsonl").read_text()
    for workdir in (unbroken, broken):
        scalars = _read_events(workdir).Scalars("loss")
        assert [event.step for event in scalars] == list(range(1, 9))
        np.testing.assert_allclose([event.value for event in scalars], 1 / np.arange(1, 9))


def test_tensorboard_reads_the_animation_back(tmp_path):
    videos = np.zeros((3, 5, 16, 16, 3), np.uint8)
    for t in range(5):
        videos[:, t, :, 3 * t : 3 * t + 3] = 255
    with Log(tmp_path, 10) as log:
        log.videos(7, "samples/generate", videos, fps=8)

    (event,) = _read_events(tmp_path).Images("samples/generate")
    animation = Image.open(io.BytesIO(event.encoded_image_string))
    assert event.step == 7
    assert (animation.format, animation.n_frames) == ("GIF", 5)
    assert animation.size == (event.width, event.height)


def test_tensorflow_is_never_imported_nor_a_deprecated_package(tmp_path):
    (tmp_path / "tensorflow.py").write_text("raise AssertionError('TensorFlow was imported')")
    code = """
        import sys
        sys.path.insert(0, sys.argv[1])
        from jaxvid.workdir.log import Log
        with Log(sys.argv[1] + "/run", 2) as log:
            log.metrics(1, {"loss": 1.0})
        assert "tensorboard" in sys.modules
        assert not {"tensorflow", "pkg_resources"} & set(sys.modules)
    """
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(code), str(tmp_path)]
    subprocess.run(command, check=True)


def test_plain_lines_say_everything_at_a_bounded_rate(tmp_path, capsys, clock):
    with Log(tmp_path, 900, start_step=99) as log:
        for step in range(100, 901):
            log.progress(step, 0.12341, 101.23, 0.021)
            clock[0] += 0.5
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "step 100/900  loss 0.1234  101.2 clips/s  data wait 2%"
    assert lines[1] == "step 120/900  loss 0.1234  101.2 clips/s  data wait 2%  eta 06:30"
    assert lines[-1].startswith("step 900/900")
    assert lines[-1].endswith("eta 00:00")
    assert len(lines) == 41


def test_bar_on_a_terminal_is_not_torn_by_a_line(tmp_path, monkeypatch):
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("COLUMNS", "80")
    with Log(tmp_path, 4) as log:
        for step in range(1, 5):
            log.progress(step, 0.5, 10.0, 0.0)
            if step == 2:
                log.say("saved checkpoint 2")
    # A terminal shows what follows the last carriage return of a line.
    said, bar, rest = [line.split("\r")[-1] for line in terminal.getvalue().split("\n")]
    assert said == "saved checkpoint 2"
    assert bar.startswith("100%|")
    assert "step 4/4  loss 0.5000  10.0 clips/s  data wait 0%" in bar
    assert rest == ""


def test_only_the_process_that_writes_leaves_anything(tmp_path, capsys):
    with Log(tmp_path / "run", 2, write=False) as log:
        log.progress(1, 0.5, 1.0, 0.0)
        log.say("hello")
        log.metrics(1, {"loss": 0.5})
        log.videos(1, "samples", np.zeros((1, 2, 8, 8, 3), np.uint8), 8)
    assert capsys.readouterr().out == ""
    assert not any(tmp_path.iterdir())


@pytest.fixture
def full_disk():
    """From here on, no file grows past 20 kB."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limit[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limit)


def test_a_full_disk_is_one_line_and_what_was_logged_stays(tmp_path, full_disk):
    def fill(log):
        for step in range(1, 1000):
            log.metrics(step, {f"metric_{i}": step for i in range(20)})

    said = r"metrics.jsonl cannot be written \(File too large\): make room"
    with pytest.raises(InputError, match=said), Log(tmp_path, 1000) as log:
        fill(log)
    with Log(tmp_path, 1000, start_step=3):
        assert [line["step"] for line in _lines(tmp_path)] == [1, 2, 3]


def test_a_disk_that_is_full_for_events_is_one_line(tmp_path, full_disk):
    videos = np.random.default_rng(0).integers(0, 255, (1, 40, 32, 32, 3), np.uint8)
    said = r"tensorboard cannot be written \(File too large\): make room"
    with pytest.raises(InputError, match=said), Log(tmp_path, 1000) as log:
        log.videos(1, "samples", videos, 8)
