"""Every choice of every key that has choices: trained, drawn from while training, and sampled.

Run i takes choice i of each key, so that all are taken in as many runs as the longest list has. The
first is on eight devices, the others on one.
"""

import pytest

from jaxvid.config import FLAG, KEYS, check, override
from jaxvid.data.sources import make_source
from tests import tiny
from tests.commands import train_on

CHOICES = {
    name: [True, False] if key.rule is FLAG else list(key.rule.choices)
    for name, key in KEYS.items()
    if key.rule is FLAG or key.rule.choices
}
CHOICES["model.attention"].remove("cudnn")  # needs a GPU
# These need other keys, and have tests of their own.
for name in ("clips", "images", "mixture", "tfds", "videos"):
    CHOICES["data.source"].remove(name)
del CHOICES["data.by_aspect"]  # for buckets, has tests of its own
del CHOICES["data.render_on_device"]  # for one source, without low_res; has tests of its own
RUNS = max(map(len, CHOICES.values()))


def config_of(run):
    config = tiny.get_config()
    config.steps, config.log.sample_every = 2, 1
    config.model.update(depth=1)
    # What has no choices and takes long to compile is in one run each.
    if run == 0:
        config.ema.widths, config.sampler.num = (0.1,), 12
        config.evals.update(every=2, num=12, metrics=("energy",))
    elif run == 1:
        config.conditions.text.length = 8
    elif run == 2:
        config.conditions.low_res.factor, config.conditions.action.dim = 2, 2  # glyphs have some
    else:
        config.conditions.label.classes = 0
    for name, choices in CHOICES.items():
        override(config, name, str(choices[run % len(choices)]))
    if config.conditions.label.classes:
        config.conditions.label.classes = len(make_source(config.data).labels)
    lines = ("space mlp", "time text swiglu", "joint+recur mlp", "window(2,1,1) mlp",
             "1*(space mlp) 2*(conv(size=5) mlp)")  # fmt: skip
    config.model.blocks = lines[run % len(lines)]
    check(config)
    return config


@pytest.mark.parametrize(
    "run", [0, *(pytest.param(i, marks=pytest.mark.thorough) for i in range(1, RUNS))]
)
def test_every_choice_trains_and_samples(tmp_path, run):
    train_on(1 if run else 8, config_of(run), tmp_path)
    assert (tmp_path / "checkpoints/2").is_dir()
    for name in ("0000001-generate", "0000002-predict"):
        assert (tmp_path / "samples" / name / "sheet.png").stat().st_size > 100
