"""Folders of clips that `python -m jaxvid.prepare` made."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping

import grain
import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

from jaxvid.config import FRACTION, TEXT, declare, key, requirement
from jaxvid.data import manifest, records, text
from jaxvid.data.clips import Clip, frame_shape, shortest
from jaxvid.data.curation.settings import Settings
from jaxvid.data.sources.mixture import parts
from jaxvid.data.sources.registry import source
from jaxvid.errors import InputError
from jaxvid.files import Path, size_of, to_path

declare(
    "data",
    path=key(
        "",
        TEXT,
        'folder of "clips", made by jaxvid.prepare, or of the files of "videos" or "images"',
        free=True,
    ),
    text_embeddings=key("", TEXT, "name of the embeddings that replace the captions' bytes"),
    validation=key(
        0.05,
        FRACTION,
        'share of "clips", "videos", "images" and "tfds" that is held out, by a hash',
        before=0.0,
    ),
)


@source("clips")
def open_clips(config: ConfigDict, split: str) -> "ClipFolder":
    """Opens the folder `data.path`, or in a folder of several shapes that of the config's.

    Raises InputError, naming all keys that do not fit it.
    """
    path = to_path(config.path, "config.data.path")
    if shapes := manifest.shapes(path):
        shape = "{}x{}".format(*frame_shape(config))
        if shape not in shapes:
            raise InputError(
                f"{path} holds clips of {', '.join(shapes)} pixels, not of {shape}: set "
                "config.data.size, the height, and config.data.width to one of these; "
                f"--config=configs/videos.py:{path} trains on all of them"
            )
        path /= shape
    folder = ClipFolder(path, config.text_embeddings, split, config.validation)
    made = Settings.from_json(folder.manifest)
    (H, W), fps, frames = made.shape, made.fps, made.frames
    wanted = {"size": H, "width": 0 if W == H else W, "fps": fps}
    settings = [
        f"--config.data.{name}={there:g} ({config[name]:g} now)"
        for name, there in wanted.items()
        if config[name] != there
    ]
    if config.plans and shortest(config) > frames:
        raise InputError(
            f"{config.path} holds clips of {frames} frames, but the calls of config.data.plans "
            f"span {shortest(config)} or more: plan shorter videos, or prepare longer clips"
        )
    if not config.plans and shortest(config) > frames:
        longest = (frames - 1) // min(config.strides) + 1
        settings.append(f"--config.data.frames={longest} or fewer ({config.frames} now)")
    if settings:
        raise InputError(
            f"{config.path} holds clips of {frames} frames of {H}x{W} pixels at {fps:g} fps: "
            f"set {', '.join(settings)}; --config=configs/videos.py:{config.path} sets them all"
        )
    if split == "train" and not len(folder):
        raise InputError(
            f"{config.path}: config.data.validation={config.validation:g} holds out all videos: "
            "lower it, or prepare more videos"
        )
    return folder


class ClipFolder:
    """The ArrayRecord shards that `python -m jaxvid.prepare` wrote. Each is opened when it is read.

    Attributes:
      manifest: the manifest of the folder, see `jaxvid.data.manifest`.
      labels: names of the classes that have clips, empty if there are none.
      videos: the number of the video of each clip, in the order of their hashes.
      fingerprint: hash of the settings, the labels and the manifest's hashes of the shards, or of
        the sizes of the shards in an older folder.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        embeddings: str = "",
        split: str = "train",
        held_out: float = 0.0,
    ):
        """Checks that all files exist, without opening the shards.

        Args:
          path: path of the folder.
          embeddings: name of the embeddings to read, see `jaxvid.data.text`; "" for none.
          split: "train" or "validation".
          held_out: share of the videos in the validation split, see `manifest.held_out`.

        Raises:
          InputError: the folder is missing, empty, incomplete or not made by prepare, or it lacks
            the embeddings.
        """
        self.path = to_path(path, "data.path")
        self.manifest = manifest.read(self.path)
        self.labels = tuple(self.manifest["labels"])
        shards = self.manifest["shards"]
        counts = {name: about["clips"] for name, about in shards.items() if about["clips"]}
        if not counts:
            raise InputError(
                f"{path} holds no clips: its manifest.json says why each video was skipped"
            )
        self._label_of = manifest.label_of(self.manifest)
        self._records = _open(self.path, counts, "copy the folder again, or prepare it again")
        self._text = None
        if embeddings:
            self._text = _open(
                text.folder_of(self.path, embeddings),
                counts,
                "write them with jaxvid.data.text.write_embeddings",
            )
        self.fingerprint = self._fingerprint(counts, embeddings, split, held_out)
        chosen = manifest.held_out(self.manifest, held_out) == (split == "validation")
        self._index = np.flatnonzero(chosen & ~manifest.left_out(self.manifest))
        hashes, clips = zip(*manifest.videos(self.manifest), strict=True)
        numbers = np.unique(hashes, return_inverse=True)[1]
        self.videos = np.repeat(numbers, clips)[self._index]

    @property
    def looks(self) -> Float[np.ndarray, "1 2"]:
        """Of all clips, see `Source`."""
        made = Settings.from_json(self.manifest)
        return np.array([[made.shape[1] / made.shape[0], made.frames / made.fps]])

    @property
    def cropped(self) -> float | None:
        """The share of the videos' pictures that cropping removed, on average, if it is known."""
        return self.manifest.get("summary", {}).get("cropped")

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, index: int) -> Clip:
        """Reads a clip; raises InputError if its record cannot be read or is damaged."""
        index = int(self._index[index])
        clip = records.decode(self._read(self._records, index))
        clip = dataclasses.replace(clip, label=self._label_of.get(clip.label, -1))
        if self._text is None:
            return clip
        return dataclasses.replace(clip, text=text.decode_tokens(self._read(self._text, index)))

    def _fingerprint(
        self, counts: Mapping[str, int], embeddings: str, split: str, held_out: float
    ) -> str:
        shards = self.manifest["shards"]
        content = {
            "settings": [self.manifest[name] for name in ("size", "fps", "frames")],
            "labels": self.labels,
            "label_of": self._label_of,
            "shards": [
                (s, n, shards[s]["hash"] or size_of(self.path / s)) for s, n in counts.items()
            ],
        }
        if any(left := [shards[s].get("left_out") for s in counts]):
            content["left_out"] = left
        if held_out:
            content["split"] = [split, held_out]
        if embeddings:
            folder = text.folder_of(self.path, embeddings)
            content["text"] = [size_of(folder / shard) for shard in counts]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]

    def _read(self, shards: grain.sources.ArrayRecordDataSource, index: int) -> bytes:
        try:
            data = shards[index]
        except RuntimeError as error:
            raise InputError(f"{self.path}: record {index} cannot be read: {error}") from error
        if not data:  # the shard is truncated
            raise InputError(f"{self.path}: record {index} is empty")
        return data


def _open(
    folder: Path, counts: Mapping[str, int], remedy: str
) -> grain.sources.ArrayRecordDataSource:
    there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    missing = [name for name in counts if name not in there]
    if missing:
        raise InputError(
            f"{folder} lacks {len(missing)} of the {len(counts)} shards in the clips' "
            f"manifest.json, the first {missing[0]}: {remedy}"
        )
    return grain.sources.ArrayRecordDataSource(
        [_Shard(str(folder / name), count) for name, count in counts.items()]
    )


@dataclasses.dataclass(frozen=True)
class _Shard:
    """A file whose number of records is known, so that it need not be opened to count them."""

    filename: str
    take: int
    skip: int = 0

    @property
    def examples_in_shard(self) -> int:
        return self.take


@requirement
def _check_path(config: ConfigDict) -> None:
    if "clips" in parts(config.data) and not config.data.path:
        raise InputError("config.data.path is empty: set it to a folder that jaxvid.prepare made")
