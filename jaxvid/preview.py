"""Show the clips that a config trains on, as they come out of the loader, with all augmentations.

    python -m jaxvid.preview --config=configs/worlds.py:bodies [--num=8 --output=DIR]
    python -m jaxvid.preview --config=configs/videos.py:clips --config.data.augment='("hue",)'

`clips/` in the output has the first clips of training as mp4s, and `sheet.png`, in which each has
its label and caption. `augmentations.png` has one clip as it is, then changed by each augmentation,
with the options in `data.augment` if it is there, in all of its frames.
"""

from jaxvid import start

if __name__ == "__main__":
    start.begin()

from collections.abc import Iterator, Sequence

import numpy as np
from absl import flags
from jaxtyping import UInt8
from ml_collections import ConfigDict, config_flags

import jaxvid.build  # noqa: F401  declares all keys
from jaxvid import config as configs
from jaxvid import errors, files
from jaxvid.data import augment, pipeline
from jaxvid.data.augment.registry import AUGMENTATIONS
from jaxvid.data.clips import sample_clip
from jaxvid.data.sources import Source, make_source
from jaxvid.workdir.folder import run_name
from jaxvid.workdir.pictures import contact_sheet, write_png
from jaxvid.workdir.samples import write_samples

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "File with get_config(), such as configs/base.py."
)
NUM = flags.DEFINE_integer("num", 8, "Number of clips.", lower_bound=1)
OUTPUT = flags.DEFINE_string("output", None, "Folder; by default runs/NAME-preview.")


def main(_: Sequence[str]) -> None:
    config = configs.from_flag(CONFIG)
    name = run_name(config_flags.get_config_filename(flags.FLAGS["config"]))
    output = files.to_path(OUTPUT.value or f"runs/{name}-preview", "--output")
    files.make_folder(output, "--output")
    source = make_source(config.data)
    clips, titles = pipeline.first_clips(source, config.data, config.seed, NUM.value)
    with write_samples(output / "clips", config.data.fps, titles=titles) as samples:
        samples.add(clips)
    texts, videos = zip(*_each_augmentation(config, source), strict=True)
    write_png(output / "augmentations.png", contact_sheet(np.stack(videos), titles=texts))
    print(f"{len(source)} clips, {len(source.labels)} classes, fingerprint {source.fingerprint}")
    print(f"{output}: clips/sheet.png, augmentations.png")


def _each_augmentation(
    config: ConfigDict, source: Source
) -> Iterator[tuple[str, UInt8[np.ndarray, "T H W 3"]]]:
    """A clip as it is, then by each augmentation, with the text that describes it."""
    chosen = {text.partition("(")[0].strip(): text for text in config.data.augment}
    clip = source[0]
    for name in ("", *AUGMENTATIONS):
        text, rng = chosen.get(name, name), np.random.default_rng(config.seed)
        retime, changes = (
            augment.active([text] * bool(text), temporal, always=True) for temporal in (True, False)
        )
        sample = sample_clip(clip, config.data, rng, retime=retime)
        for change in changes:
            sample = change(sample, rng)
        yield text or "as it is", sample["video"]


if __name__ == "__main__":
    errors.run(main, configs.parse_flags)
