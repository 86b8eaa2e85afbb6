"""Scores of runs and of folders of videos, through the command and in training."""

import dataclasses
import json
import re
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from jaxvid import evaluation
from jaxvid.build import build
from jaxvid.comparison import among
from jaxvid.data.curation.settings import Settings
from jaxvid.data.pipeline import make_dataset
from jaxvid.data.sources import SOURCES, make_source
from jaxvid.data.sources.synthetic import SyntheticWorld
from jaxvid.data.video import write_video
from jaxvid.errors import InputError
from jaxvid.evaluation import evaluate
from jaxvid.evaluators import make_evaluators
from jaxvid.metrics.frechet import frechet_distance
from jaxvid.metrics.protocols import PROTOCOLS, Protocol, choose, protocol
from jaxvid.prepare import prepare
from jaxvid.trained import TrainedModel, load
from jaxvid.workdir.checkpoint import Checkpoints
from jaxvid.workdir.pictures import read_metrics
from tests import tiny
from tests.commands import mistakes, run, run_alone, train_on


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run that was scored while it trained."""
    config, workdir = tiny.get_config(), tmp_path_factory.mktemp("trained")
    config.steps, config.model.blocks = 6, "time"
    config.tasks.update(generate=0.0, predict=0.0)  # so that no samples are drawn
    config.evals.update(every=2, num=12, metrics=("energy",), loss=16, best="loss")
    config.checkpoint.update(every=2, keep=3)
    train_on(1, config, workdir)
    return workdir


@pytest.fixture
def config(config):
    """With a network that compiles fast: what is tested here is around it."""
    config.model.blocks = "time"
    return config


def model_of(config, devices):
    run = build(config, devices)
    params = jax.device_put(tiny.trained(run), jax.tree.map(lambda x: x.sharding, run.params))
    return TrainedModel(run, lambda _: params)


def test_scores_depend_on_neither_the_devices_nor_an_interruption(config, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "CHUNK", 10)
    quick = choose("quick", 24)
    whole = evaluate(model_of(config, jax.devices()), [quick], tmp_path)
    assert [score.metric for score in whole] == ["energy", "motion", "flicker", "warping"]
    (tmp_path / "pixels-00001-10.npy").unlink()
    drawn, draw = [], evaluation._draw

    def counted(model, protocol, number, *rest):
        drawn.append(number)
        return draw(model, protocol, number, *rest)

    monkeypatch.setattr(evaluation, "_draw", counted)
    alone = evaluate(model_of(config, jax.devices()[:1]), [quick], tmp_path)
    assert drawn == [(1,)]
    for a, b in zip(whole, alone, strict=True):
        assert (a.value, a.error, a.floor) == pytest.approx((b.value, b.error, b.floor), rel=0.01)
        assert (a.drawn, a.real, a.protocol) == (24, 24, "quick-v1 with 24 of 256 clips")


def test_longer_and_shorter_clips_than_the_model_draws_are_scored(config):
    model = model_of(config, jax.devices()[:1])
    for frames in (3, 10):
        name = f"of_{frames}"
        protocol(Protocol(name, ("motion",), clips=12, frames=frames, stride=2))
        try:
            (score,) = evaluate(model, [choose(name)])
        finally:
            del PROTOCOLS[name]
        assert score.value > score.floor
        assert (score.drawn, score.protocol) == (12, f"{name}-v1")


def test_predictions_are_compared_with_the_true_frames_and_windows_with_clips(config):
    config.data.size = 16
    model = model_of(config, jax.devices())
    psnr, ssim = evaluate(model, [choose("predict", 12)])
    assert len(psnr.curve) == 3  # one of four frames is observed
    assert psnr.value == pytest.approx(np.mean(psnr.curve))
    assert 3 < psnr.value < 30
    assert -1 < ssim.value < 0.9
    one = dataclasses.replace(choose("predict", 12, ("psnr",)), samples=1)
    assert evaluate(model, [one])[0].value < psnr.value
    protocol(Protocol("windows", ("motion",), clips=12, frames=10, window=3))
    try:
        (score,) = evaluate(model, [choose("windows")])
        by_keys = choose("windows", plan="key_frames")
        (other,) = evaluate(model, [by_keys])
    finally:
        del PROTOCOLS["windows"]
    assert other.protocol == "windows-v1 by key_frames"
    assert other.value != score.value
    with pytest.raises(InputError, match="did you mean 'key_frames'"):
        evaluate(model, [dataclasses.replace(by_keys, plan="keyframes")])
    assert len(score.curve) == 3
    assert score.value == pytest.approx(np.mean(score.curve))
    assert min(score.curve) > score.floor


def test_real_clips_are_those_of_the_split_and_are_kept_in_a_cache(config, monkeypatch):
    config.data.augment = ("flip",)
    run, quick = build(config, jax.devices()[:1]), choose("quick", 16, ("energy",))
    extract = evaluation.extractors(run, quick)
    config.data.augment = ()
    for split in ("train", "validation"):
        kept = evaluation.real_features(run, quick, split, extract)["pixels"]
        source = make_source(config.data, split)
        clips = make_dataset(source, config.data, run.encode, seed=0, batch_size=16)[0]["video"]
        np.testing.assert_array_equal(kept, clips)
    extract = dict.fromkeys(extract, pytest.fail)
    again = evaluation.real_features(run, quick, split, extract)["pixels"]
    np.testing.assert_array_equal(again, kept)


def test_a_protocol_may_take_one_clip_of_each_video(config, monkeypatch):
    class FourOfEach(SyntheticWorld):
        videos = np.arange(60) // 4

    monkeypatch.setitem(
        SOURCES, "synthetic",
        lambda data, split: FourOfEach(0, data.frames, data.size, numbers=range(60)),
    )  # fmt: skip
    run, any_clips = build(config, jax.devices()[:1]), choose("quick", 15, ("energy",))
    each = dataclasses.replace(any_clips, per_video=True)
    assert each.clips_of != any_clips.clips_of
    kept, others = (
        evaluation.real_features(run, chosen, "train", evaluation.extractors(run, chosen))["pixels"]
        for chosen in (each, any_clips)
    )
    assert kept.shape == others.shape
    assert np.any(kept != others)
    with pytest.raises(InputError, match="16 clips, one of each video, but the train split has 15"):
        evaluation.open_split(run, dataclasses.replace(each, clips=16), "train")


def test_the_weights_with_the_best_score_are_kept(trained):
    lines = {step: v["evals/loss"] for step, v in read_metrics(trained / "metrics.jsonl")
             if "evals/loss" in v}  # fmt: skip
    assert list(lines) == [2, 4, 6]
    step = min(lines, key=lines.get)
    assert [path.name for path in (trained / "best").iterdir()] == [str(step)]
    assert Image.open(trained / "scores.png").size == (1200, 420)  # the loss and the energy
    best = load(trained, weights="best")
    with Checkpoints(trained) as checkpoints:
        ema = checkpoints.restore_part("ema", best.run.params, step)
    jax.tree.map(np.testing.assert_array_equal, best.params, ema)


def test_the_loss_on_validation_clips_has_the_same_noise_at_each_call(config):
    config.evals.update(every=1, loss=12, protocols=())
    model = model_of(config, jax.devices())
    evaluator = make_evaluators(model.run, make_source(config.data, "validation"))[0]
    first, again = (evaluator(model.params, print) for _ in range(2))
    assert first == again
    parts = [value for name, value in first.items() if name.startswith("evals/loss/noise_")]
    assert min(parts) < first["evals/loss"] < max(parts)


def test_protocols_of_the_same_clips_share_what_is_drawn(config, monkeypatch):
    drawn, draw = [], evaluation._draw
    monkeypatch.setattr(evaluation, "_draw", lambda *args: drawn.append(args) or draw(*args))
    protocols = [choose(name, 12) for name in ("quick", "world")]
    together = evaluate(model_of(config, jax.devices()[:1]), protocols)
    assert len(drawn) == 1
    names = [f"{score.protocol} {score.metric}" for score in together]
    assert names[3:5] == ["quick-v1 with 12 of 256 clips warping",
                          "world-v1 with 12 of 256 clips world_count"]  # fmt: skip


def test_the_command_scores_a_run(trained):
    said = run_alone("evaluate", f"--workdir={trained}", "--num=12", "--metrics=energy,flicker",
               "--config.sampler.steps=1")  # fmt: skip
    (output,) = (trained / "evals").iterdir()
    content = json.loads((output / "scores.json").read_text())
    energy, flicker = content["scores"]
    assert f"energy   {energy['value']:.4g} ± {energy['error']:.2g}" in said
    assert "quick-v1 with 12 of 256 clips: 12 against 12 clips, seed 0" in said
    assert (content["checkpoint"], content["config"]["sampler"]["steps"]) == (6, 1)
    assert flicker["feature"].startswith("motion ")
    assert (output / "scores.png").stat().st_size > 1000
    mistakes("evaluate", *(
        ([f"--workdir={trained}", *arguments], line)
        for arguments, line in [
            (["--protocol=quik"], "'quik' is not one of quick, "),
            (["--metrics=energie"], "'energie' is not one of energy, "),
            (["--num=3"], "12 or more"),
            (["--num=200000"], "the validation split has 100000: ask for fewer"),
            (["--videos=a"], "give --workdir=DIR of a run; or --videos=DIR and"),
            (["--trained_on=a"], "--trained_on is for --videos; a run holds out clips of its own"),
            (["--metrics=fvd", "--num=12"], "at least 9 frames, not 4"),
            (["--plan=key_frames"], "a plan is for longer ones, as in the protocol long"),
            (["--protocol=predict"], "the metric ssim needs frames of at least 11 pixels, not 8"),
            (["--metrics=psnr"], "psnr compare predictions with true frames: choose a protocol"),
            (["--checkpoint=1"], "has no checkpoint of step 1"),
        ]
    ))  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Videos of the world, in two folders, and videos of noise."""
    config, root = tiny.get_config().data, tmp_path_factory.mktemp("folders")
    config.update(frames=5, size=16)
    source, rng = make_source(config), np.random.default_rng(0)
    for i in range(12):
        for name in ("drawn", "real", "noise"):
            video = source[2 * i + (name == "real")].decode(np.arange(5))
            if name == "noise":
                video = rng.integers(0, 255, video.shape, np.uint8)
            (root / name / "sub").mkdir(parents=True, exist_ok=True)
            write_video(root / name / "sub" / f"{i}.mp4", video, 8)
    Image.new("RGB", (16, 16)).save(root / "drawn" / "sheet.png")  # as `sample` leaves it
    return root


def test_the_command_scores_a_folder_against_another(folders, tmp_path):
    values = {}
    for name in ("drawn", "noise"):
        run("evaluate", f"--videos={folders / name}", f"--reference={folders / 'real'}",
            "--num=12", f"--output={tmp_path}")  # fmt: skip
        scores = json.loads((tmp_path / "scores.json").read_text())["scores"]
        values[name] = {score["metric"]: score["value"] for score in scores}
    for metric in ("energy", "motion", "flicker", "warping"):
        assert values["noise"][metric] > 1.5 * values["drawn"][metric]


def test_a_reference_that_the_model_was_trained_on_is_named(folders, tmp_path):
    """By content: the copy has another name."""
    trained_on, real = tmp_path / "videos", folders / "real"
    shutil.copytree(folders / "drawn", trained_on)
    shutil.copy(real / "sub" / "7.mp4", trained_on / "sub" / "copy.mp4")
    warning = "warning: 1 videos of --reference are in --trained_on too, such as .*7.mp4"
    for number, known in enumerate((trained_on, folders / "drawn")):
        said = run(
            "evaluate", f"--videos={folders / 'noise'}", f"--reference={real}", "--num=12",
            "--metrics=flicker", f"--trained_on={known}", f"--output={tmp_path}",
        )  # fmt: skip
        assert bool(re.search(warning, said)) == (number == 0)
        assert json.loads((tmp_path / "scores.json").read_text())["in_trained_on"] == 1 - number
    settings = Settings(size=16, fps=8.0, frames=5, quality=90)
    prepare(trained_on, tmp_path / "clips", settings, workers=1)
    assert among(real, tmp_path / "clips") == [real / "sub" / "7.mp4"]
    manifest = json.loads((tmp_path / "clips" / "manifest.json").read_text())
    manifest["by_content"] = False
    (tmp_path / "clips" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="was prepared by an older version, without hashes"):
        among(real, tmp_path / "clips")


def test_a_folder_that_cannot_be_scored_is_one_line(folders, tmp_path):
    odd = np.zeros((5, 12, 12, 3), np.uint8)
    bad = {}
    for name, change in {
        "mixed": lambda path: write_video(path, odd, 8),
        "short": lambda path: write_video(path, np.zeros((2, 16, 16, 3), np.uint8), 8),
        "text": lambda path: path.write_text("no video"),
    }.items():
        shutil.copytree(folders / "drawn", tmp_path / name)
        bad[name] = tmp_path / name / "sub" / "5.mp4"
        change(bad[name])
    real = f"--reference={folders / 'real'}"
    mistakes("evaluate", *(
        ([f"--videos={tmp_path / name}", real, "--num=12", f"--output={tmp_path}/out", *more], line)
        for name, more, line in [
            ("mixed", [], "give --size, to which all are resized"),
            ("short", [], f"{bad['short']}: has 2 frames, 5 are needed"),
            ("text", [], f"{bad['text']}: not a video"),
            ("none", [], "none: no such folder"),
            ("mixed", ["--num=13"], "has 12 videos, but quick-v1 with 13 of 256 clips needs 13"),
        ]
    ))  # fmt: skip
    run("evaluate", f"--videos={tmp_path / 'mixed'}", real, "--num=12", "--size=16",
        f"--output={tmp_path}/out")  # fmt: skip


def test_features_of_another_network_are_scored_from_files(tmp_path):
    rng, names = np.random.default_rng(0), ("a", "b", "narrow", "nan", "few")
    arrays = dict.fromkeys(names, rng.normal(size=(40, 5)))
    arrays |= {"b": rng.normal(1, 1, (30, 5)), "narrow": rng.normal(size=(40, 4))}
    arrays |= {"nan": np.where(np.arange(40)[:, None] == 7, np.nan, arrays["a"])}
    arrays["few"] = arrays["a"][:5]
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array)
    np.save(tmp_path / "pickle.npy", np.array([{}]), allow_pickle=True)
    told = f"--output={tmp_path}"
    run("evaluate", f"--features={tmp_path}/a.npy", f"--reference={tmp_path}/b.npy", told)
    scores = json.loads((tmp_path / "scores.json").read_text())["scores"]
    found = {score["metric"]: score for score in scores}
    assert found["frechet"]["value"] == pytest.approx(frechet_distance(arrays["a"], arrays["b"]))
    assert (found["recall"]["drawn"], found["recall"]["real"]) == (40, 30)
    mistakes("evaluate", *(
        ([f"--features={tmp_path}/{name}.npy", f"--reference={tmp_path}/a.npy", told], line)
        for name, line in [
            ("narrow", "has 4 numbers for each clip, but"),
            ("nan", "nan.npy is not finite in 1 of 40 clips, the first of them clip 7"),
            ("few", "few.npy has 5 rows: a score needs 12 clips or more"),
            ("none", "none.npy: not a .npy file of numbers"),
            ("pickle", "pickle.npy: not a .npy file of numbers"),
        ]
    ))  # fmt: skip
