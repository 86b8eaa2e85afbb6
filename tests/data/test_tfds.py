import contextlib
import json
import os
import pickle
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest

from jaxvid.build import build
from jaxvid.data.pipeline import make_dataset
from jaxvid.data.sources import make_source
from jaxvid.errors import InputError
from tests import tiny
from tests.commands import FAST, ROOT, mistakes, run

VIDEO = {
    "pythonClassName": "tensorflow_datasets.core.features.video_feature.Video",
    "video": {"dtype": "uint8", "encodingFormat": "png", "shape": {"dimensions": [-1, 24, 32, 3]}},
}
OLD_VIDEO = {
    "type": VIDEO["pythonClassName"],
    "content": {"shape": [None, 24, 32, 3], "encoding_format": "png", "ffmpeg_extra_args": []},
}


def frame(level):
    return cv2.imencode(".png", np.full((24, 32, 3), level, np.uint8))[1].tobytes()


def prepare(folder, called, features, **splits):
    """Prepares a data set as TFDS does, with a list of examples for each split."""
    import tensorflow_datasets as tfds

    class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.2.0")
        name = called
        code_path = url_infos = None  # this class is in no package

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=features(tfds.features))

        def _split_generators(self, _):
            return {name: self._generate_examples(examples) for name, examples in splits.items()}

        def _generate_examples(self, examples):
            return enumerate(examples)

    with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
        Builder(data_dir=folder, file_format="array_record").download_and_prepare()
    return folder / called / "1.2.0"


@pytest.fixture(scope="module")
def fades(tmp_path_factory):
    """Videos of 20 to 23 frames, stored as TFDS's feature Video; frame k is of grey level 8 k."""

    def features(f):
        frames, label = f.Sequence(f.Image(shape=(24, 32, 3))), f.ClassLabel(names=["up", "down"])
        return f.FeaturesDict({"video": frames, "label": label, "about": {"caption": f.Text()}})

    def examples(numbers):
        for i in numbers:
            frames = [frame(8 * k) for k in range(20 + i % 4)]
            yield {"video": frames, "label": i % 2, "about": {"caption": f"it\nfades {i} "}}

    folder = tmp_path_factory.mktemp("tfds")
    where = prepare(folder, "fades", features, train=examples(range(12)), test=examples([99]))
    stored = json.loads((where / "features.json").read_text())
    stored["featuresDict"]["features"]["video"] = VIDEO
    (where / "features.json").write_text(json.dumps(stored))
    return folder


def config_of(folder, name="fades", **keys):
    config = tiny.get_config()
    config.data.update(source="tfds", size=16, validation=0.3)
    config.data.tfds.update(name=name, folder=str(folder), **keys)
    config.conditions.label.classes = 2
    return config


def test_examples_are_clips_with_their_classes_and_captions(fades):
    data = config_of(fades).data
    train, held_out = (make_source(data, split) for split in ("train", "validation"))
    assert train.labels == held_out.labels == ("up", "down")
    assert (len(train), len(held_out)) == (12, 1)
    assert train.fingerprint != held_out.fingerprint
    assert held_out[0].caption == "it fades 99"
    for source in (train, pickle.loads(pickle.dumps(train))):
        clips = [source[i] for i in range(12)]
        assert {c.caption for c in clips} == {f"it fades {i}" for i in range(12)}
        for clip in clips:
            number = int(clip.caption.split()[-1])
            assert clip.label == number % 2
            np.testing.assert_array_equal(clip.time, np.arange(20 + number % 4) / np.float32(8))


def test_only_the_frames_of_a_clip_are_decoded(fades, monkeypatch):
    clip, decoded, decode = make_source(config_of(fades).data)[3], [], cv2.imdecode
    monkeypatch.setattr(cv2, "imdecode", lambda *a: decoded.append(a) or decode(*a))
    video = clip.decode(np.array([7, 3, 3, 19]))
    assert len(decoded) == 3
    levels = np.broadcast_to(np.array([56, 24, 24, 152])[:, None, None, None], (4, 16, 16, 3))
    np.testing.assert_array_equal(video, levels)


@pytest.mark.parametrize(("rate", "frames"), [(16.0, 12), (4.0, 46), (12.0, 15)])
def test_frames_are_taken_at_the_rate_of_the_config(fades, rate, frames):
    clip = make_source(config_of(fades, fps=rate).data, "validation")[0]
    np.testing.assert_array_equal(clip.time, np.arange(frames) / np.float32(8))
    video = clip.decode(np.array([0, 2, 4, frames - 1]))
    expected = [0, 8 * rate / 4, 8 * rate / 2, 8 * min(22, round((frames - 1) * rate / 8))]
    np.testing.assert_array_equal(video.mean((1, 2, 3)), expected)


def test_splits_are_those_of_the_data_set_or_a_share_of_one(fades):
    def numbers(split, **keys):
        source = make_source(config_of(fades, **keys).data, split)
        return [int(source[i].caption.split()[-1]) for i in range(len(source))]

    train, held_out = (numbers(s, train="test+train") for s in ("train", "validation"))
    assert sorted(train + held_out) == [*range(12), 99]
    assert 1 <= len(held_out) <= 8
    assert sorted(numbers("train", train="all") + numbers("validation", train="all")) == sorted(
        train + held_out
    )
    half, rest = {"train": "train[:50%]"}, {"validation": "train[50%:]"}
    assert sorted(numbers("train", **half, **rest) + numbers("validation", **half, **rest)) == [
        *range(12)
    ]
    assert numbers("validation", **half) == [99]
    prints = [
        make_source(config_of(fades, **keys).data).fingerprint
        for keys in ({}, half, {"train": "test"}, {"fps": 16.0}, {"label": "none"})
    ]
    assert len(set(prints)) == len(prints)
    moved = fades.rename(fades.with_name("moved"))
    assert make_source(config_of(moved).data).fingerprint == prints[0]
    moved.rename(fades)


def test_what_is_video_and_caption_is_found_or_said(tmp_path):
    def robot(f):
        seen = {"front": f.Image(shape=(24, 32, 3)), "hand": f.Image(shape=(24, 32, 3))}
        seen["depth"] = f.Image(shape=(24, 32, 1), dtype=np.uint16)
        step = {
            "seen": seen,
            "language_instruction": f.Text(),
            "action": f.Tensor(shape=(2,), dtype=np.float32),
        }
        return f.FeaturesDict({"steps": f.Dataset(step), "file": f.Text()})

    def step(k):
        seen = {"front": frame(k), "hand": frame(200 - k), "depth": frame(9)}
        return {
            "seen": seen,
            "language_instruction": "pick it up",
            "action": np.zeros(2, np.float32),
        }

    prepare(
        tmp_path, "robot", robot, train=[{"steps": [step(k) for k in range(6)], "file": "a.mp4"}]
    )
    with pytest.raises(
        InputError, match=r"several .*tfds\.video to one of steps/seen/front, .*hand$"
    ):
        make_source(config_of(tmp_path, "robot").data)
    keys = {"name": "robot", "video": "steps/seen/hand"}
    for caption, expected in [("", "pick it up"), ("file", "a.mp4"), ("none", "")]:
        clip = make_source(config_of(tmp_path, caption=caption, **keys).data)[0]
        assert (clip.caption, clip.label) == (expected, -1)
        assert clip.decode(np.array([5])).mean() == 195
    with pytest.raises(InputError, match=r"tfds\.caption=fil: did you mean 'file'"):
        make_source(config_of(tmp_path, caption="fil", **keys).data)
    prepare(tmp_path, "texts", lambda f: f.FeaturesDict({"a": f.Text()}), train=[{"a": "b"}])
    with pytest.raises(InputError, match=r"texts has no video, .* its features are a$"):
        make_source(config_of(tmp_path, "texts").data)


def test_a_damaged_example_is_replaced_and_named(tmp_path):
    def features(f):
        return f.FeaturesDict({"video": f.Sequence(f.Image(shape=(24, 32, 3)))})

    good = [frame(k) for k in range(4)]
    bad = [[], good[:2] + [good[2][:60]] + good[3:], good[:1]]
    examples = [{"video": frames} for frames in [*bad, *[good] * 5]]
    prepare(tmp_path, "some", features, train=examples)
    config = config_of(tmp_path, "some")
    config.data.validation, config.conditions.label.classes = 0.0, 0
    source = make_source(config.data)
    batch = make_dataset(source, config.data, build(config).encode, seed=0, batch_size=8)[0]
    assert (batch["bad"] >= 0).any(1).sum() == 3
    assert set(batch["video"].mean((2, 3, 4)).reshape(-1)) == {0, 1, 2, 3}


def test_what_is_not_there_is_one_line(fades, tmp_path, monkeypatch):
    def fails(line, **keys):
        with pytest.raises(InputError, match=line):
            make_source(config_of(folder, **keys).data)

    folder = shutil.copytree(fades, tmp_path / "copy")
    fails(r'fade: .* has .*fades; .*pip install tensorflow-cpu.*builder\("fade"', name="fade")
    fails(r"fades:1\.1\.0: .*fades has 1\.2\.0; set", name="fades:1.1.0")
    fails("Unknown split 'trian'. Should be one of", train="trian")
    fails("Error parsing split 'train", train="train[:x")
    fails("validation=train.90%:. has examples of .*train=train: ", validation="train[90%:]")
    fails("split train.:0.: ", train="train[:0]")
    config = config_of(fades, train="train+test")
    config.data.validation = 0.9999
    with pytest.raises(InputError, match="no examples to train on"):
        make_source(config.data)
    where = folder / "fades/1.2.0"
    (where / "fades-train.array_record-00000-of-00001").unlink()
    fails("fades-train.array_record-00000-of-00001 is missing")
    info = json.loads((where / "dataset_info.json").read_text())
    (where / "dataset_info.json").write_text(json.dumps(info | {"fileFormat": "tfrecord"}))
    fails("1.2.0 has no array_record files.* tensorflow_datasets.scripts.convert_format")
    (where / "features.json").write_text(json.dumps(OLD_VIDEO))
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    fails("1.2.0: .*tensorflow.*; pip install tensorflow-cpu")
    (where / "features.json").write_text("{")
    fails("1.2.0 cannot be read: ")


def test_it_trains_and_mistakes_are_one_line(fades, tmp_path):
    given = *FAST, "--config.data.source=tfds", "--config.steps=2"
    named = "--config.data.tfds.name=fades", f"--config.data.tfds.folder={fades}"
    classes = "--config.conditions.label.classes=2"
    run("train", *given, *named, classes, f"--workdir={tmp_path}/run")
    assert (tmp_path / "run/checkpoints/2").is_dir()
    mistakes(
        "train",
        (given, "config.data.tfds.name is empty: set it to a data set"),
        ([*given, *named], "but the data has 2 classes: up, down"),
    )


def test_it_is_imported_when_it_is_used_and_never_imports_tensorflow(fades, monkeypatch):
    code = "import sys, jaxvid.data.sources; sys.exit('tensorflow_datasets' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    assert make_source(config_of(fades).data)[0].decode(np.array([0])).max() == 0


@pytest.mark.parametrize(
    ("name", "splits", "keys", "classes", "frames"),
    [
        ("ucf101/ucf101_1_256", {"train": 9, "test": 4}, {}, 101, range(5, 50)),
        ("moving_mnist", {"test": 9}, {"train": "test"}, 0, [20]),
        ("bair_robot_pushing_small", {"train": 9, "test": 4}, {"video": "image_main"}, 0, [30]),
    ],
)
def test_data_sets_of_tfds(tmp_path, name, splits, keys, classes, frames):
    pytest.importorskip("tensorflow")
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.naming import ShardedFileTemplate

    called, _, variant = name.partition("/")
    builder = tfds.builder_cls(called)(data_dir=tmp_path, config=variant or None)
    path, info = builder.data_path, builder.info
    path.mkdir(parents=True)
    template = ShardedFileTemplate(path, dataset_name=called, filetype_suffix="array_record")
    info.set_file_format("array_record", override=True, override_if_initialized=True)
    parts = [tfds.core.SplitInfo(s, [n], 1, filename_template=template) for s, n in splits.items()]
    info.set_splits(tfds.core.splits.SplitDict(parts))
    info.write_to_directory(path)
    for file in [file for part in parts for file in part.filepaths]:
        file.touch()
    config = config_of(tmp_path, name, **keys)
    with tfds.testing.mock_data(num_examples=9, data_dir=path):
        source = make_source(config.data)
        assert len(source.labels) == classes
        clip = source[3]
        assert len(clip.time) in frames
        assert (clip.label >= 0) == (classes > 0)
        assert clip.decode(np.array([0, 4])).shape == (2, 16, 16, 3)
        assert 100 < clip.decode(np.array([2])).mean() < 150
