"""The worked examples of docs/contributing.md, as a plugin that a user would write."""

import functools
import json
import re

import numpy as np
import pytest

from configs import videos
from jaxvid.data.sources import make_source
from jaxvid.data.video import write_video
from tests.commands import ROOT, mistakes, run_alone

PAGE = ROOT / "docs/contributing.md"


@pytest.mark.thorough
def test_one_run_trains_and_samples_with_every_example(tmp_path):
    examples = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert len(examples) == len(re.findall("^## ", PAGE.read_text(), re.MULTILINE))
    (tmp_path / "in").mkdir()
    (tmp_path / "my_lab.py").write_text("\n".join(examples))
    run = functools.partial(run_alone, PYTHONPATH=str(tmp_path))
    workdir = tmp_path / "run"
    given = f"--workdir={workdir}", "--plugins=my_lab"
    run("train", "--config=tests/tiny.py", *given,
        "--config.model.blocks=mlp shift(frames=2)", "--config.data.source=falling_dots",
        "--config.conditions.label.classes=0", "--config.data.gravity=2.0",
        "--config.data.augment=('darken(most=0.5)',)", "--config.conditions.height.on=True",
        "--config.diffusion.process=square", "--config.optimizer.name=lion",
        "--config.sampler.name=restart", "--config.steps=4", "--config.evals.every=4",
        "--config.evals.metrics=('brightness',)", "--config.evals.num=12",
        "--config.data.plans=('anchored(frames=9)',)", "--config.tasks.plan=1")  # fmt: skip
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    assert "evals/quick/brightness" in json.loads(lines[-1])
    said = run("sample", *given, "--height=0.2", "--num=1", "--frames=9", "--plan=anchored")
    assert "anchored: 9 frames in 4 calls of up to 4 frames, 4 after one another" in said
    assert "give a number" in run("sample", *given, "--height=high", expect=1)

    for name, levels in {"steady": (90, 100), "flickers": (0, 200)}.items():
        tones = np.resize(levels, 24).astype(np.uint8)[:, None, None, None]
        write_video(tmp_path / "in" / f"{name}.mp4", np.tile(tones, (1, 16, 16, 3)), 8)
    words = f"--input={tmp_path}/in", f"--output={tmp_path}/out", "--filters=flicker(most=0.1)"
    words += "--size=8", "--frames=8", "--workers=1", "--duplicates=-1"  # clips of one are alike
    said = run("prepare", "--plugins=my_lab", *words)
    assert "skipped flickers.mp4: all clips dropped: 3 by flicker" in said
    # Who trains on these clips does not need the plugin.
    assert len(make_source(videos.get_config(str(tmp_path / "out")).data)) == 3


def test_without_its_plugin_a_word_is_unknown(tmp_path):
    arguments = ["--config=tests/tiny.py", f"--workdir={tmp_path}/run"]
    mistakes("train", ([*arguments, "--config.model.blocks=shift"], "unknown word 'shift'"))
