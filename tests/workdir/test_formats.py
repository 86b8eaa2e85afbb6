"""A run that an earlier version began goes on today: one tiny frozen run for each format.

`frozen/FORMAT/run.tar.xz` is its work directory after 4 of 8 steps, `expected.json` what the
version that began it made of the rest. It has captions, actions, low-resolution video, classes,
windows, two averages and Muon, so that all that was renamed since occurs in it.
"""

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from jaxvid.workdir import folder, migrations
from tests.commands import run

FROZEN = Path(__file__).parent / "frozen"
CONFIG = """
from pathlib import Path
from jaxvid.workdir import folder
def get_config():
    return folder.load(Path({!r}))
"""


@pytest.mark.parametrize("version", range(1, migrations.FORMAT))
def test_a_frozen_run_goes_on_as_it_would_have_and_samples(tmp_path, version):
    workdir, config = tmp_path / "run", tmp_path / "config.py"
    with tarfile.open(FROZEN / str(version) / "run.tar.xz") as archive:
        archive.extractall(workdir, filter="data")
    config.write_text(CONFIG.format(str(workdir)))
    said = run("train", f"--config={config}", f"--workdir={workdir}")
    assert "resuming at step 4 of 8" in said
    expected = json.loads((FROZEN / str(version) / "expected.json").read_text())["loss"]
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    losses = {str(line["step"]): line["loss"] for line in lines}
    assert list(losses) == list("12345678")
    resumed = [losses[step] for step in expected]
    np.testing.assert_allclose(resumed, list(expected.values()), rtol=1e-4)

    # From averages of both formats, those of step 4 and those of step 8.
    said = run("sample", f"--workdir={workdir}", "--num=1", "--ema_width=0.15")
    assert "at step 8, from 2 snapshot(s)" in said
    assert "1 clips of 4 frames" in said
    assert json.loads((workdir / "config.json").read_text())["format"] == migrations.FORMAT


@pytest.mark.parametrize(
    ("blocks", "today"),
    [
        ("space window mlp", "space window(2,1,2) mlp"),
        ([["space window", 8], ["time mlp", 4]], "8*(space window(2,1,2)) 4*(time mlp)"),
    ],
)
def test_windows_and_repeats_of_format_1_are_written_into_the_blocks(tmp_path, blocks, today):
    model = {"blocks": blocks, "window": [2, 1, 2]}
    (tmp_path / "config.json").write_text(json.dumps({"model": model}))
    assert folder.load(tmp_path).model.blocks == today
