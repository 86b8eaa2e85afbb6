"""Cascades: an outline of 4 frames, the two frames between each two, then twice the pixels."""

import functools

import numpy as np
import pytest
from PIL import Image

from jaxvid import cascade as module
from jaxvid.build import build
from jaxvid.cascade import draw, load
from jaxvid.errors import InputError
from jaxvid.workdir import folder
from jaxvid.workdir.checkpoint import Checkpoints
from tests import tiny
from tests.commands import mistakes, run

FILE = """
from jaxvid.cascade import Stage

STAGES = {{name: Stage(name, "{where}/" + name) for name in ("outline", "between", "enlarge")}}
STAGES["gone"] = Stage("gone", "{where}/gone")
STAGES["few"] = Stage("few", "{where}/outline", changes={{"sampler.steps": "1"}})
STAGES["wide"] = Stage("wide", "{where}/outline", changes={{"data.size": "16"}})


def get_cascade(names="outline,between,enlarge"):
    return tuple(STAGES[name] for name in names.split(","))
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A cascade file, and the runs of its stages, which are as if they were trained."""
    where = tmp_path_factory.mktemp("runs")
    for name, fps in ("outline", 2.0), ("between", 6.0), ("enlarge", 6.0):
        config = tiny.get_config()
        config.data.fps = fps
        config.model.update(blocks="space time mlp", depth=1)
        config.conditions.label.names = ("circle", "square", "triangle")
        if name == "enlarge":
            config.data.size, config.conditions.low_res.factor = 16, 2
            config.conditions.label.classes, config.conditions.text.length = 0, 8
        folder.claim(where / name, config)
        with Checkpoints(where / name, 1) as checkpoints:
            checkpoints.save(7, {"ema": tiny.trained(build(config))})
    path = where / "three.py"
    path.write_text(FILE.format(where=where))
    return path


def files(output):
    return {str(p.relative_to(output)): p.read_bytes() for p in output.rglob("*") if p.is_file()}


def test_a_cascade_keeps_its_outline_and_says_what_cannot_be_drawn(file, tmp_path):
    given = f"--cascade={file}", "--num=2", f"--output={tmp_path}/a"
    said = run("sample", *given, "--caption=a red square")
    assert "2-between: 8x8, 6 fps; key_frames: 10 frames in 3 calls of up to 4 frames, 1" in said
    assert "3-enlarge: 16x16, 6 fps; overlapping: 10 frames in 4 calls" in said
    outline, between, enlarged = (
        np.load(tmp_path / "a" / f"{name}.npy", allow_pickle=False)
        for name in ("1-outline", "2-between", "3-enlarge")
    )
    assert (outline.shape, between.shape) == ((2, 4, 8, 8, 3), (2, 10, 8, 8, 3))
    np.testing.assert_array_equal(between[:, ::3], outline)
    assert enlarged.shape == (2, 10, 16, 16, 3)
    for name in ("1-outline", "2-between", "3-enlarge"):
        names = sorted(path.name for path in (tmp_path / "a" / name).iterdir())
        assert names == ["000.mp4", "001.mp4", "plan.png", "sheet.png"]
    # Frames of the outline stand above the same frames of the other levels.
    sheet = np.asarray(Image.open(tmp_path / "a/sheet.png"))
    cells = sheet[18:][:64, [2 + 32 + 66 * t for t in range(10)]]
    blank = (cells == cells[0, 1]).all(axis=(0, 2))
    np.testing.assert_array_equal(blank, [t % 3 > 0 for t in range(10)])

    # On all devices, the levels that are not there are drawn, and they are the same.
    again = draw(load(str(file)).levels(2, caption="a red square"), tmp_path / "b")
    for (_, video), expected in zip(again, (outline, between, enlarged), strict=True):
        assert np.abs(video.astype(int) - expected).max() <= 2
    # Eight frames at the end are four of the outline, which span ten.
    levels = load(str(file)).levels(2, frames=8)
    assert [(level.frames, level.plan.frames) for level in levels] == [(4, 4), (8, 10), (8, 8)]

    (tmp_path / "other.py").write_text("def get_cascade():\n    return (1,)\n")
    mistakes("sample", *(
        ([*arguments], line)
        for arguments, line in [
            ((*given, "--seed=1", "--caption=a red square"), "1-outline.seed: 0 then, 1 now"),
            (given, "1-outline.conditions.caption: a red square then, None now"),
            ((*given, "--workdir=a"), "give --workdir=DIR of a run, or --cascade=FILE.py"),
            ((*given, "--plan=sliding"), "--plan is for --workdir"),
            ((*given, "--config.sampler.steps=2"), "--config.sampler.steps is for --workdir"),
            ((*given, "--actions=a.csv"), "--actions: no stage of the cascade takes it"),
            ((*given, "--low_res=a.mp4"), "--low_res: no stage of the cascade takes it"),
            ((*given, "--label=hexagon"), "the model has 3 classes, from 0: circle, square"),
            ((*given, "--frames=1"), "--frames=1: stage between: --frames=1: 1 of them are given"),
            ([f"--cascade={file}:outline,gone"], "stage gone: "),
            ([f"--cascade={file}:outline,gone"], ":gone --workdir="),
            ([f"--cascade={file}:outline,enlarge"], "data.fps=6, conditions.low_res.factor=2) do"),
            ([f"--cascade={file}:enlarge"], "stage enlarge enlarges a video"),
            ([f"--cascade={file}:outline,outline"], "give each a name of its own"),
            ([f"--cascade={file}:wide"], "stage wide: --config.data.size: the model was trained"),
            ([f"--cascade={tmp_path}/other.py"], "get_cascade() returns other things"),
            (["--cascade=configs/base.py"], "has no get_cascade(): define one that returns a casc"),
        ]
    ))  # fmt: skip


def test_what_was_interrupted_goes_on_to_the_same_bytes(file, tmp_path, monkeypatch):
    drawn, parts = [], module.Level.parts

    def counted(level, before, report=None, interrupted=""):
        drawn.append(level.name)
        for number, part in enumerate(parts(level, before, report)):
            if level.name == interrupted and number == 1:
                raise KeyboardInterrupt
            yield part

    levels = load(str(file)).levels(2, seed=3)
    for name in ("2-between", "3-enlarge"):
        interrupted = functools.partialmethod(counted, interrupted=name)
        monkeypatch.setattr(module.Level, "parts", interrupted)
        with pytest.raises(KeyboardInterrupt):
            list(draw(levels, tmp_path / "a"))
    monkeypatch.setattr(module.Level, "parts", counted)
    videos = [video for _, video in draw(levels, tmp_path / "a")]
    assert drawn == ["1-outline", "2-between", "2-between", "3-enlarge", "3-enlarge"]
    list(draw(levels, tmp_path / "b"))
    assert files(tmp_path / "a") == files(tmp_path / "b")
    assert [video.shape[1] for video in videos] == [4, 10, 10]

    # Levels have noise of their own, and other settings are refused.
    assert len({level.seed for level in levels}) == 3
    few = load(f"{file}:few,between,enlarge").levels(2, seed=3)
    with pytest.raises(InputError, match=r"levels: \['1-outline', .* then, \['1-few'"):
        next(draw(few, tmp_path / "a"))
    (tmp_path / "a/2-between.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(InputError, match=r"2-between.npy cannot be read .*: delete it"):
        list(draw(levels, tmp_path / "a"))
