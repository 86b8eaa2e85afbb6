import dataclasses

import numpy as np
import pytest

from jaxvid.build import default_config
from jaxvid.config import check
from jaxvid.data.clips import Clip
from jaxvid.data.sources import SOURCES, make_source
from jaxvid.data.sources.mixture import Mixture
from jaxvid.errors import InputError
from tests import tiny
from tests.commands import train_on


@dataclasses.dataclass(frozen=True)
class Counted:
    """Clips whose caption is their number; the last has no label."""

    length: int
    labels: tuple[str, ...]

    @property
    def fingerprint(self):
        return f"{self.length}{self.labels}"

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        assert 0 <= index < self.length
        label = -1 if index == self.length - 1 else index % len(self.labels)
        return Clip(
            np.zeros(1, np.float32), lambda i: i, label=label, caption=f"{self.labels[0]} {index}"
        )


def config_of(*texts):
    config = tiny.get_config()
    config.data.update(source="mixture", mixture=texts)
    return config


def test_a_pass_has_every_clip_in_the_proportion_of_the_weights():
    few, many = Counted(5, ("cat", "dog")), Counted(30, ("dog", "ball"))
    mixture = Mixture((few, many), (3, 2), ("cat", "dog", "ball"))
    assert len(mixture) == 5 * 15
    clips = [mixture[i] for i in range(len(mixture))]
    counts = {c: sum(clip.caption == c for clip in clips) for c in {x.caption for x in clips}}
    assert sum(n for c, n in counts.items() if c.startswith("cat")) == 45
    assert {c: n for c, n in counts.items() if c.startswith("dog")} == {
        f"dog {i}": 1 for i in range(30)
    }
    assert {c: n for c, n in counts.items() if c.startswith("cat")} == {
        f"cat {i}": 9 for i in range(5)
    }
    for clip in clips:
        kind, number = clip.caption.split()
        part, number = (few, int(number)) if kind == "cat" else (many, int(number))
        expected = part[number].label
        assert (clip.label == -1) == (expected == -1)
        if expected >= 0:
            assert mixture.labels[clip.label] == part.labels[expected]


def test_a_clip_has_the_name_that_its_source_gives_it():
    named = Counted(2, ("cat",))
    object.__setattr__(named, "name_of", lambda index: f"{index}.mp4")
    mixture = Mixture((named, Counted(4, ("dog",))), (1, 2), ("cat", "dog"))
    assert [mixture.name_of(i) for i in range(6)] == ["0.mp4", 1, 2, "1.mp4", 4, 5]


def test_a_source_without_clips_in_the_split_is_left_out():
    assert len(Mixture((), (), ("cat",))) == 0
    SOURCES["counted"] = lambda config, split: Counted(9 * (split == "train"), ("cat",))
    try:
        config = config_of("counted(weight=4)", "bodies").data
        assert len(make_source(config)) == 5_000_000
        held_out = make_source(config, "validation")
        assert len(held_out) == 100_000
        assert held_out.labels == ("cat", "balls", "boxes")
        assert held_out.labels[held_out[0].label] in ("balls", "boxes")
    finally:
        del SOURCES["counted"]


def test_sources_and_weights_make_the_fingerprint():
    prints = {
        make_source(config_of(*texts).data).fingerprint
        for texts in [("bodies", "flow"), ("bodies", "flow(weight=2)"), ("bodies", "glyphs")]
    }
    assert len(prints) == 3
    one = config_of("bodies", "flow(weight=1)").data
    assert make_source(one).fingerprint in prints


def test_a_mixture_trains(tmp_path):
    config = config_of("synthetic(weight=2)", "bodies", "layers")
    config.steps, config.conditions.label.classes = 2, 3 + 2 + 3
    config.data.augment = ("flip", "pause", "speed", "colour")
    config.model.update(blocks="mlp", depth=1)
    config.tasks.update(generate=0.0, predict=0.0)  # so that no samples are drawn
    train_on(1, config, tmp_path)
    assert (tmp_path / "checkpoints/2").is_dir()


@pytest.mark.parametrize(
    ("texts", "line"),
    [
        ((), "name at least two sources"),
        (("bodies",), "name at least two sources"),
        (("bodies", "bodies"), "bodies is there twice: give it a weight"),
        (("bodies", "bodys"), "did you mean 'bodies'"),
        (
            ("bodies", "mixture"),
            "choose of bodies, flow, glyphs, layers, clips, images, synthetic, tfds, videos$",
        ),
        (("bodies", "flow(weight=0)"), r"write it as bodies or as bodies\(weight=3\)"),
        (("bodies", "flow(share=2)"), r"write it as bodies or as bodies\(weight=3\)"),
        (("bodies", "flow(2)"), r"write it as bodies or as bodies\(weight=3\)"),
        (("bodies", "clips"), "config.data.path is empty"),
    ],
)
def test_a_wrong_mixture_is_one_line(texts, line):
    with pytest.raises(InputError, match=line):
        check(config_of(*texts))


def test_what_augmentation_makes_false_in_any_of_them_is_refused():
    config = config_of("bodies", "glyphs")
    config.conditions.label.classes = 12
    config.data.augment = ("flip",)
    with pytest.raises(InputError, match="flip would make the clips' classes false"):
        check(config)
    config.data.mixture = ("bodies", "layers")
    check(config)


def test_other_sources_need_no_mixture():
    config = default_config()
    assert config.data.mixture == ()
    check(config)
