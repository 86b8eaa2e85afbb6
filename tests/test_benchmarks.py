import importlib
import re

import numpy as np
import pytest

from benchmarks.decode import bare
from benchmarks.long_videos import seam
from jaxvid.data.sources import SOURCES
from jaxvid.data.video import read_frames, write_video
from jaxvid.errors import InputError
from jaxvid.hierarchy.plan import make_plan
from tests.commands import attempt

TINY = "--config=tests/tiny.py"


@pytest.mark.parametrize("name", ["train_step", "architectures", "formulations", "versions"])
def test_a_benchmark_reads_its_flags_as_the_commands_do(name):
    code, _, err = attempt(f"benchmarks.{name}", TINY, "--config.stepss=1")
    assert code == 1
    assert err == "error: config.stepss: there is no such key; did you mean config.steps?\n"


@pytest.mark.parametrize(
    ("name", "argument", "line"),
    [
        (
            "architectures",
            "--lines=time,text",
            "config.model.blocks: 'text' needs the condition 'text'",
        ),
        ("versions", "--before=.", "--before=.: give another checkout of jaxvid"),
        ("formulations", "--samplers=helm", "--samplers: 'helm' is not one of euler, ddim, ddpm"),
        ("formulations", "--evaluations=4,5", "--evaluations: '5' must be a positive multiple of"),
    ],
)
def test_what_cannot_be_compared_is_told_before_anything_runs(name, argument, line):
    code, out, err = attempt(f"benchmarks.{name}", TINY, argument)
    assert (code, out) == (1, "")
    assert err.startswith(f"error: {line}")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("argument", "line"),
    [
        ("--levels=0,a", "--levels: 'a' is not a number"),
        ("--levels=0.9", "config.sampler.observed_noise=0.9: it must be at most"),
        ("--frames=3", "--frames=3: the network draws 4 at once"),
    ],
)
def test_rollouts_tells_what_cannot_be_drawn(tmp_path, config, argument, line):
    (tmp_path / "config.json").write_text(config.to_json())
    code, _, err = attempt("benchmarks.rollouts", f"--workdir={tmp_path}", argument)
    assert code == 1
    assert err.startswith(f"error: {line}")
    assert err.count("\n") == 1


def test_a_seam_is_a_jump_where_windows_meet():
    plan = make_plan("sliding(overlap=1)", 4, 10)  # windows begin at frames 4 and 7
    level = np.cumsum([0, 1, 1, 1, 3, 1, 1, 3, 1, 1]).astype(np.uint8)
    videos = np.tile(level[None, :, None, None, None], (2, 1, 2, 2, 3))
    assert seam(videos, plan) == 3.0


def test_what_readers_of_video_files_are_compared_with_gives_the_same_frames(tmp_path):
    path, rng = tmp_path / "a.mp4", np.random.default_rng(0)
    write_video(path, rng.integers(0, 256, (72, 16, 16, 3), np.uint8), fps=24, scale=2)
    every = [image for image, _ in read_frames(path, fps=8)]
    np.testing.assert_array_equal(bare(path, np.arange(9, 17) / 8), every[9:17])
    asked = [f"--files={path}", "--clips=2", "--frames=4", "--size=16"]
    code, out, err = attempt("benchmarks.decode", *asked)
    assert code == 0, err
    assert attempt("benchmarks.decode", "--files=README.md")[2].startswith("error: README.md: not")
    assert re.search(r"\n\| a\.mp4 \| \d+\.\d \| \d+\.\d\d \| ", out)


def test_games_are_read_from_a_file_whose_last_videos_are_held_out(config, tmp_path):
    open_videos = importlib.import_module("benchmarks.craftax").open_videos
    del SOURCES["craftax"]  # in other tests it was not imported
    config.data.update(path=str(tmp_path / "games.npy"), fps=4.0)
    with pytest.raises(InputError, match=r"games\.npy: not made by benchmarks\.craftax"):
        open_videos(config.data, "train")
    videos = np.random.default_rng(0).integers(0, 256, (24, 9, 8, 8, 3), np.uint8)
    np.save(config.data.path, videos)
    train, validation = (open_videos(config.data, split) for split in ("train", "validation"))
    assert (len(train), len(validation)) == (22, 2)
    np.testing.assert_array_equal(validation[1].decode(np.array([0, 5])), videos[23, [0, 5]])
    assert validation[1].time[-1] == 2.0
    config.data.size = 16
    with pytest.raises(InputError, match=r"not videos of frames of config\.data\.size=16"):
        open_videos(config.data, "train")
