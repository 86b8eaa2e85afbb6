import json
import subprocess
import sys

import pytest

from jaxvid.errors import InputError
from jaxvid.train import train
from jaxvid.workdir import folder


@pytest.fixture
def begun(tmp_path, config):
    """The work directory of a run of 8 steps that has taken 6."""
    folder.claim(tmp_path, config, fingerprint="abc")
    (tmp_path / "checkpoints/6").mkdir(parents=True)
    return tmp_path


def test_the_same_config_goes_on_and_free_keys_may_change(begun, config):
    config.log.every = 7
    assert folder.claim(begun, config, fingerprint="abc") == []
    assert folder.load(begun) == config


def test_more_steps_extend_a_run_and_fewer_than_taken_are_refused(begun, config):
    for steps, verb in (12, "extended from 8 to 12"), (6, "shortened from 12 to 6"):
        config.steps = steps
        (note,) = folder.claim(begun, config)
        assert verb in note
    config.steps = 5
    with pytest.raises(InputError, match=r"steps=5, but the run has taken 6 steps"):
        folder.claim(begun, config, accept=True)
    assert folder.load(begun).steps == 6


def test_other_changes_are_refused_with_the_difference_unless_accepted(begun, config):
    before = (begun / "config.json").read_text()
    config.optimizer.lr = 0.5
    with pytest.raises(InputError, match=r"optimizer.lr: 0.002 then, 0.5 now.*--accept_changes"):
        folder.claim(begun, config)
    assert (begun / "config.json").read_text() == before
    assert folder.claim(begun, config, accept=True) == [
        "accepted: optimizer.lr: 0.002 then, 0.5 now"
    ]
    assert folder.claim(begun, config) == []


def test_a_run_remembers_its_data(begun, config):
    assert folder.claim(begun, config) == []  # unknown today: the run remembers all the same
    with pytest.raises(InputError, match="the data: fingerprint abc then, xyz now"):
        folder.claim(begun, config, fingerprint="xyz")
    assert len(folder.claim(begun, config, fingerprint="xyz", accept=True)) == 1
    assert folder.claim(begun, config, fingerprint="xyz") == []


def test_an_older_run_is_upgraded_and_adopts_the_fingerprint(begun, config):
    (begun / "config.json").write_text(config.to_json())  # as format 1 was
    assert folder.load(begun) == config
    assert folder.claim(begun, config, fingerprint="xyz") == []
    assert json.loads((begun / "config.json").read_text())["format"] == 2
    with pytest.raises(InputError, match="xyz then, abc now"):
        folder.claim(begun, config, fingerprint="abc")


def test_a_newer_format_is_refused(begun):
    (begun / "config.json").write_text('{"format": 3}')
    with pytest.raises(InputError, match=r"format 3.*use a newer jaxvid"):
        folder.load(begun)


def test_a_folder_has_one_run_at_a_time_and_a_killed_one_leaves_it_free(tmp_path):
    code = "import sys, time; from pathlib import Path; from jaxvid.workdir import folder\n"
    code += "with folder.lock(Path(sys.argv[1])): print('locked', flush=True); time.sleep(60)"
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"locked\n"
        by_other = f"another run.*process {other.pid} on"
        with pytest.raises(InputError, match=by_other), folder.lock(tmp_path):
            pass
        other.kill()
    for _ in range(2):
        with folder.lock(tmp_path):
            pass


def test_without_locks_there_is_a_warning(tmp_path, monkeypatch, capsys):
    def flock(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(folder.fcntl, "flock", flock)
    with folder.lock(tmp_path):
        assert "cannot be locked (No locks available)" in capsys.readouterr().err


def test_a_work_directory_that_cannot_be_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file cannot be written"), folder.lock(tmp_path / "file"):
        pass
    with pytest.raises(InputError, match=r"config.json is missing"):
        folder.load(tmp_path / "file")


def test_training_is_refused_where_a_run_was_or_is_and_its_metrics_stay(tmp_path, config):
    (tmp_path / "metrics.jsonl").write_text('{"step": 2, "loss": 1.0}\n')
    folder.claim(tmp_path, config)
    (tmp_path / "checkpoints-damaged/2-x").mkdir(parents=True)
    with pytest.raises(InputError, match="A new run does not replace an old one"):
        train(config, tmp_path)
    with folder.lock(tmp_path), pytest.raises(InputError, match="another run is writing there"):
        train(config, tmp_path)
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 2, "loss": 1.0}\n'
