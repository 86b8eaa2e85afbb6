"""Video data sets of TensorFlow Datasets, by name, in its format for random access.

    config.data.source = "tfds"
    config.data.tfds.name = "ucf101/ucf101_1_256"

A record is a tf.train.Example. It has each frame of a video as a PNG or JPEG, so only the frames of
a clip are decoded. Reading needs no TensorFlow; preparing a data set does.
"""

import dataclasses
import functools
import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from typing import Any

import grain
import numpy as np
from etils import epath
from google.protobuf.json_format import ParseDict, ParseError
from google.protobuf.message import DecodeError
from jaxtyping import Int, UInt8
from ml_collections import ConfigDict

from jaxvid import errors
from jaxvid.config import NOT_BELOW_0, TEXT, declare, key, requirement
from jaxvid.data.clips import Clip, frame_shape
from jaxvid.data.image import decode, fit
from jaxvid.data.sources.mixture import parts
from jaxvid.data.sources.registry import source
from jaxvid.data.split import held_out
from jaxvid.errors import InputError

VALIDATION = ("validation", "valid", "val", "test")
CAPTIONS = ("caption", "text", "description", "sentence", "instruction", "language_instruction")

declare(
    "data.tfds",
    name=key("", TEXT, 'data set of "tfds", such as "ucf101/ucf101_1_256" or "webvid:1.0.0"'),
    folder=key("", TEXT, "folder with the data sets; TFDS's own by default", free=True),
    fps=key(0.0, NOT_BELOW_0, "frames per second of the data set; 0 if they are data.fps"),
    train=key("train", TEXT, 'split to train on, such as "train[:90%]"'),
    validation=key(
        "",
        TEXT,
        "split for validation; by default one that is called so, or test, or else a share "
        "data.validation of the split to train on",
    ),
    video=key("", TEXT, "feature that is the video, if there are several"),
    label=key("", TEXT, 'feature that is the class, if there are several; "none" for none'),
    caption=key("", TEXT, 'feature that is the caption, if its name differs; "none" for none'),
)


@source("tfds")
def open_tfds(config: ConfigDict, split: str) -> "Examples":
    """A split of the data set `data.tfds.name`.

    Raises InputError if it is not on disk, or if its splits or features do not fit the config.
    """
    c = config.tfds
    builder = _load(c.name, c.folder)
    splits, features = builder.info.splits, dict(sorted(_flatten(builder.info.features)))
    names = _choose(c, features)
    records = _open(builder, c.train)
    index = np.arange(len(records))
    apart = (s for s in VALIDATION if s in splits and not _overlap(splits, c.train, s))
    own = c.validation or next(apart, "")
    if own:
        others = _open(builder, own)
        if _overlap(splits, c.train, own):
            raise InputError(
                f"config.data.tfds.validation={own} has examples of config.data.tfds.train="
                f"{c.train}: validate on others"
            )
        if split == "validation":
            records, index = others, np.arange(len(others))
    else:
        index = index[held_out(map(str, index), config.validation) == (split == "validation")]
    if split == "train" and not len(index):
        raise InputError(
            f"config.data.tfds.train={c.train}: no examples to train on; choose another split, or "
            "lower config.data.validation"
        )
    stored = [(s.name, s.num_examples, int(s.num_bytes)) for s in splits.values()]
    parted = [split, c.train, own or config.validation]
    settings = [names, frame_shape(config), config.fps, c.fps]
    about = repr((builder.info.full_name, stored, parted, settings))
    return Examples(
        labels=tuple(features[names["label"]][0].names) if names["label"] else (),
        fingerprint=hashlib.sha256(about.encode()).hexdigest()[:16],
        name=c.name,
        records=records,
        index=index,
        features=names,
        size=frame_shape(config),
        fps=config.fps,
        rate=c.fps or config.fps,
    )


@dataclasses.dataclass(frozen=True)
class Examples:
    """Examples of a data set; each is a clip.

    Attributes:
      labels: names of the classes.
      fingerprint: of the data set with its version, its splits, and the settings.
      name: the data set.
      records: a tf.train.Example each.
      index: those of the split.
      features: the names of those for video, label and caption; "" for none.
      size: height and width in pixels.
      fps: frames per second of the clips.
      rate: frames per second of the data set.
    """

    labels: tuple[str, ...]
    fingerprint: str
    name: str
    records: grain.sources.RandomAccessDataSource
    index: Int[np.ndarray, " n"]
    features: dict[str, str]
    size: tuple[int, int]
    fps: float
    rate: float

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, index: int) -> Clip:
        """Reads an example; raises InputError if it is damaged or has no frames."""
        from tensorflow_datasets.proto import tf_example_pb2

        number = int(self.index[index])
        where = f"{self.name}: example {number}"
        try:
            example = tf_example_pb2.Example.FromString(self.records[number])
        except (RuntimeError, DecodeError) as error:
            raise InputError(f"{where} cannot be read: {error}; prepare it again") from error
        video, label, caption = (example.features.feature[n] for n in self.features.values())
        encoded = video.bytes_list.value
        if not encoded:
            raise InputError(f"{where} has no frames in {self.features['video']}")
        frames = np.arange(max(1, int(len(encoded) / self.rate * self.fps + 0.5)))
        nearest = np.rint(frames * (self.rate / self.fps)).astype(int)
        text = b"".join(caption.bytes_list.value[:1]).decode(errors="replace")
        return Clip(
            (frames / self.fps).astype(np.float32),
            functools.partial(
                _decode, encoded, np.minimum(nearest, len(encoded) - 1), self.size, where
            ),
            label=next(iter(label.int64_list.value), -1),
            caption=" ".join(text.split()),
        )


def _decode(
    encoded: Sequence[bytes],
    nearest: Int[np.ndarray, " N"],
    size: tuple[int, int],
    where: str,
    frames: Int[np.ndarray, " T"],
) -> UInt8[np.ndarray, "T H W 3"]:
    which, place = np.unique(nearest[frames], return_inverse=True)
    pictures = [fit(decode(encoded[i], f"{where}, frame {i}"), size) for i in which]
    return np.stack(pictures)[place]


def _load(name: str, folder: str) -> Any:
    """A data set on disk, as TFDS describes it; raises InputError if it is not there."""
    from tensorflow_datasets.core import constants, dataset_info, read_only_builder
    from tensorflow_datasets.core.proto import feature_pb2
    from tensorflow_datasets.core.utils.version import list_all_versions

    root = epath.Path(folder or constants.get_default_data_dir()).expanduser()
    dataset, _, version = name.partition(":")
    versions = [v for v in list_all_versions(root / dataset) if version in ("", str(v))]
    if not versions:
        near = root / dataset if (root / dataset).is_dir() else root
        there = sorted(p.name for p in near.iterdir() if p.is_dir()) if near.is_dir() else []
        raise InputError(
            f"config.data.tfds.name={name}: {near} has {', '.join(there) or 'no data sets'}; set "
            "config.data.tfds.folder to where it is, or prepare it: pip install tensorflow-cpu "
            "importlib_resources, then python -c 'import tensorflow_datasets as tfds; "
            f'tfds.builder("{name}", data_dir="{root}", '
            'file_format="array_record").download_and_prepare()\''
        )
    path = root / dataset / str(versions[-1])
    try:
        info = dataset_info.read_proto_from_builder_dir(path)
        features = json.loads((path / "features.json").read_text())
        if "type" not in features:  # as TFDS wrote it until 2021, and reads it itself
            info.features.CopyFrom(_as_stored(ParseDict(features, feature_pb2.Feature())))
        return read_only_builder.builder_from_metadata(path, info)
    except ImportError as error:
        raise InputError(f"{path}: {error}; pip install tensorflow-cpu") from error
    except (OSError, ValueError, ParseError) as error:
        raise InputError(f"{path} cannot be read: {error}; prepare it again") from error


def _as_stored(feature: Any) -> Any:
    """Replaces each Video, which imports TensorFlow, by the sequence of images that it is."""
    from tensorflow_datasets.core.features import Image, Sequence
    from tensorflow_datasets.core.features.feature import from_shape_proto

    match feature.WhichOneof("content"):
        case "features_dict":
            for part in feature.features_dict.features.values():
                part.CopyFrom(_as_stored(part))
        case "sequence":
            feature.sequence.feature.CopyFrom(_as_stored(feature.sequence.feature))
        case "video":
            length, *shape = from_shape_proto(feature.video.shape)
            image = Image(
                shape=shape,
                dtype=np.dtype(feature.video.dtype),
                encoding_format=feature.video.encoding_format or None,
            )
            return Sequence(image, length).to_proto()
    return feature


def _flatten(
    feature: Any, name: str = "", repeats: int = 0
) -> Iterator[tuple[str, tuple[Any, int]]]:
    """The name of each feature in an example, itself, and the number of sequences around it."""
    from tensorflow_datasets.core.features import FeaturesDict, Sequence

    if isinstance(feature, FeaturesDict):
        for inner, part in feature.items():
            yield from _flatten(part, f"{name}/{inner}" if name else inner, repeats)
    elif isinstance(feature, Sequence):
        yield from _flatten(feature.feature, name, repeats + 1)
    else:
        yield name, (feature, repeats)


def _choose(config: ConfigDict, features: dict[str, tuple[Any, int]]) -> dict[str, str]:
    """The names of the features for video, label and caption; "" for none."""
    from tensorflow_datasets.core.features import ClassLabel, Image

    videos, labels, texts = [], [], []
    for name, (feature, repeats) in features.items():
        if isinstance(feature, Image) and feature.np_dtype == np.uint8 and repeats == 1:
            videos.append(name)
        elif isinstance(feature, ClassLabel) and repeats == 0:
            labels.append(name)
        elif feature.shape == () and np.dtype(feature.np_dtype).kind == "O" and repeats < 2:
            texts.append(name)
    captions = [name for name in texts if name.rpartition("/")[2] in CAPTIONS]
    found = {"video": videos, "label": labels, "caption": texts if config.caption else captions}
    chosen = {what: _one(config, what, names) for what, names in found.items()}
    if not chosen["video"]:
        raise InputError(
            f"{config.name} has no video, a sequence of images of 8 bits; its features "
            f"are {', '.join(features)}"
        )
    return chosen


def _one(config: ConfigDict, what: str, names: Sequence[str]) -> str:
    """The feature that the config names or, if it is the only one, that of `names`."""
    name, listed = config[what], ", ".join(names) or "none"
    if name == "none":
        return ""
    if name and name not in names:
        raise InputError(
            f"config.data.tfds.{what}={name}: {errors.nearest(name, names)}{config.name} has "
            f"{listed}"
        )
    if not name and len(names) > 1:
        raise InputError(
            f"{config.name} has several features for the {what}: set config.data.tfds.{what} to "
            f"one of {listed}"
        )
    return name or "".join(names)


def _open(builder: Any, split: str) -> grain.sources.RandomAccessDataSource:
    """The records of a split; raises InputError if it cannot be read at random."""
    from tensorflow_datasets.core.decode import DeserializeMethod
    from tensorflow_datasets.core.file_adapters import FileFormat

    info, path = builder.info, builder.data_path
    if FileFormat.ARRAY_RECORD not in info.available_file_formats():
        raise InputError(
            f"{path} has no array_record files, which can be read at random: pip install "
            "tensorflow-cpu apache-beam importlib_resources, then python -m tensorflow_datasets."
            f"scripts.convert_format --dataset_version_dir={path} --out_file_format=array_record"
        )
    try:
        examples = builder.as_data_source(
            split, deserialize_method=DeserializeMethod.RAW_BYTES, file_format="array_record"
        )
    except ValueError as error:
        raise InputError(f"config.data.tfds: split {split}: {error}".split("\n")[0]) from error
    files = [part.filename for part in info.splits[split].file_instructions]
    missing = [file for file in files if not epath.Path(file).is_file()]
    if missing:
        raise InputError(f"{missing[0]} is missing; copy the data set again, or prepare it again")
    return examples.data_source  # which other processes can read without the features


def _overlap(splits: Any, one: str, other: str) -> bool:
    """Whether two splits have an example in common."""
    return any(
        a.filename == b.filename and max(a.skip, b.skip) < min(a.skip + a.take, b.skip + b.take)
        for a, b in itertools.product(*(splits[s].file_instructions for s in (one, other)))
    )


@requirement
def _check_name(config: ConfigDict) -> None:
    if "tfds" in parts(config.data) and not config.data.tfds.name:
        raise InputError(
            'config.data.tfds.name is empty: set it to a data set, such as "ucf101/ucf101_1_256"'
        )
