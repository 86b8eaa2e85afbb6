import av
import numpy as np
from PIL import Image

from tests.commands import mistakes, run


def test_it_shows_the_clips_of_training_and_each_augmentation(tmp_path):
    given = "--config=configs/worlds.py:bodies", f"--output={tmp_path}/out", "--num=3"
    said = run("preview", *given, "--config.data.augment=('flip(p=1)','blur(p=0)')")
    assert "1000000 clips, 2 classes, fingerprint " in said
    folder = tmp_path / "out"
    names = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
    clips = [f"clips/{i:03d}.mp4" for i in range(3)]
    assert names == ["augmentations.png", *clips, "clips/sheet.png"]
    with av.open(str(folder / clips[0])) as video:
        assert sum(1 for _ in video.decode(video=0)) == 8
    rows = np.asarray(Image.open(folder / "augmentations.png"))
    assert rows.shape[0] > 14 * 64
    # Those of the config are the same clips in the same order, mirrored.
    plain = run("preview", *given[:1], f"--output={tmp_path}/plain", "--num=3")
    assert plain.splitlines()[0] == said.splitlines()[0]
    flipped, kept = (
        np.asarray(Image.open(f / "clips/sheet.png"), int) for f in (folder, tmp_path / "plain")
    )
    assert flipped.shape == kept.shape
    assert (flipped != kept).any()


def test_what_cannot_be_shown_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    config = "--config=configs/worlds.py:glyphs"
    mistakes(
        "preview",
        ([], "give --config=FILE.py, such"),
        ([config, f"--output={tmp_path}/file"], "it is a file; choose another folder"),
        ([config, "--config.data.augment=('flop',)"], "did you mean 'flip'"),
        (["--config=configs/worlds.py:glyfs"], "give a world, as in configs/worlds.py:bodies"),
        ([config, "--config.data.glyphs.count=(0,1)"], "it must be (fewest, most), integers"),
    )
