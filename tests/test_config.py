import json
from pathlib import Path

import pytest

from configs import base, cascade, latte, long_video, videos, worlds
from jaxvid import config as configs
from jaxvid import trained
from jaxvid.config import FLAG, POSITIVE, TEXT, UNIT, declare, key
from jaxvid.data.worlds import WORLDS
from jaxvid.errors import InputError
from jaxvid.sampling.tasks import TASKS
from jaxvid.workdir import folder

PAGE = Path(__file__).parents[1] / "docs/keys.md"


def test_the_configs_of_the_repository_are_sound(tmp_path):
    configs.check(base.get_config())
    made = {"version": 1, "size": 32, "fps": 12, "frames": 16, "labels": ["cats", "dogs"]}
    made["shards"] = {"clips-00000.array_record": 1}
    (tmp_path / "manifest.json").write_text(json.dumps(made))
    config = videos.get_config(str(tmp_path))
    configs.check(config)
    assert (config.data.size, config.data.fps, config.conditions.label.classes) == (32, 12.0, 2)


def test_the_published_sizes_are_sound_and_others_are_refused():
    for size in latte.SIZES:
        for patch in latte.PATCHES:
            configs.check(latte.get_config(f"{size}/{patch}"))
    for wrong in ("M/2", "S", "S/3", "S/2/2"):
        with pytest.raises(InputError, match="give SIZE/PATCH"):
            latte.get_config(wrong)


def test_long_videos_are_dense_or_sparse():
    dense, sparse = (long_video.get_config(detail) for detail in ("", "sparse"))
    configs.check(dense)
    configs.check(sparse)
    assert sparse.model.patches
    assert not dense.model.patches
    with pytest.raises(InputError, match=r"long_video\.py:dense: give nothing, or sparse"):
        long_video.get_config("dense")


def test_the_stages_of_the_cascade_are_sound_and_others_are_refused():
    for stage in cascade.STAGES:
        configs.check(cascade.get_config(stage))
    for wrong in ("", "outlines"):
        with pytest.raises(InputError, match=r"give a stage.*: one of outline, between, enlarge"):
            cascade.get_config(wrong)


def test_the_worlds_are_sound_and_others_are_refused():
    for name in WORLDS:
        configs.check(worlds.get_config(name))
    for wrong in ("", "bodys"):
        with pytest.raises(InputError, match=r"give a world.*: one of bodies, flow, glyphs"):
            worlds.get_config(wrong)


def test_every_repeated_line_is_checked():
    config = base.get_config()
    config.model.blocks = "4*(space mlp) 8*(time mlp)"
    configs.check(config)
    config.model.blocks = "4*(space mlp) 8*(tiem mlp)"
    with pytest.raises(InputError, match="did you mean 'time'"):
        configs.check(config)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"model.blocks": "text mlp"},
            r"'text' needs the condition 'text'.*conditions\.text",
        ),
        ({"model.width": 66}, r"config\.model\.width=66 must be a multiple of 4"),
        ({"data.size": 25}, "config.data.size=25 does not divide into patches of 4"),
        ({"model.remat": "full"}, "config.model.remat=full needs a loop over depth"),
        ({"model.remat": "none mpl=full"}, "no word 'mpl'; did you mean 'mlp'"),
        ({"model.remat": "all"}, "one of none, dots, full, then others for words"),
        ({"data.source": "clips"}, "config.data.path is empty"),
        ({"sampler.lag": 33}, "at most config.sampler.steps=32"),
        ({"sampler.observed_noise": 0.4}, r"at most config\.diffusion\.max_observed_noise=0\.3"),
        ({"sampler.eta": 0.5}, "only the sampler 'ddim' takes it"),
        ({"sampler.cfg_interval": (0.5, 1.5)}, "it must be .lowest, highest. noise level"),
        ({"conditions.low_res.factor": 5}, r"low_res\.factor=5 must divide config\.data\.size=24"),
        ({"conditions.low_res.noise": 0.4}, r"at most config\.conditions\.low_res\.max_noise=0\.3"),
        ({"conditions.label.names": ("a", 1)}, r"conditions\.label\.names=.*: it must be names"),
        ({"conditions.dropout": 1.0}, "it must be a number of at least 0 and below 1"),
        ({"diffusion.bias": 30.0}, "it must be a number from -20 to 20"),
        ({"ema.widths": (0.05, 0.05)}, "it must be .. or different numbers"),
        ({"evals.metrics": ("energie",)}, r"evals\.metrics=.*: it must be names among energy"),
        ({"evals.protocols": ("fvd",)}, r"evals\.protocols=.*: it must be names among quick"),
        ({"evals.num": 2}, "it must be 0 or an integer of at least 12"),
        ({"optimizer.accumulate": 3}, "does not divide into config.optimizer.accumulate=3 parts"),
        (dict.fromkeys([f"tasks.{task}" for task in TASKS], 0.0), "every share is 0"),
    ],
)
def test_what_does_not_fit_is_one_line(changes, line):
    config = base.get_config()
    config.update_from_flattened_dict(changes)
    with pytest.raises(InputError, match=line) as caught:
        configs.check(config)
    assert "\n" not in str(caught.value)


def test_a_network_of_levels_per_frame_knows_any_at_observed_frames():
    config = base.get_config()
    config.sampler.observed_noise = 0.4
    with pytest.raises(InputError, match="the highest level in training"):
        configs.check(config)
    config.diffusion.per_frame = True
    configs.check(config)


def of_section(config, name):
    section, _, last = name.rpartition(".")
    for word in section.split(".") if section else ():
        config = config[word]
    return config, last


@pytest.mark.parametrize("name", configs.KEYS)
def test_every_key_refuses_a_value_of_another_type(config, name):
    section, last = of_section(config, name)
    with config.ignore_type():
        section[last] = [None]
    with pytest.raises(InputError, match=rf"config\.{name}=.*: it must be"):
        configs.check(config)
    for odd in (None, [[]], (None, None), float("nan")):
        assert not configs.KEYS[name].rule.holds(odd)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("source", "sythetic"),
        ("frames", 0),
        ("shapes", (3, 2)),
        ("strides", ()),
        ("strides", (0,)),
        ("augment", ("flip", 0.5)),
        ("fps", float("nan")),
        ("prefetch", 0),
    ],
)
def test_a_value_out_of_its_range_is_refused(config, key, value):
    config.data[key] = value
    with pytest.raises(InputError, match=rf"config\.data\.{key}=.*: it must be"):
        configs.check(config)


@pytest.mark.parametrize("name", configs.KEYS)
def test_a_missing_key_is_named(config, name):
    section, last = of_section(config, name)
    del section[last]
    with pytest.raises(InputError, match=rf"config\.{name} is missing: start from default_config"):
        configs.check(config)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("data.frame", r"did you mean config\.data\.frames\?"),
        ("learning_rate.lr", r"did you mean config\.optimizer\.lr\?"),
        ("model.labels", r"it is called config\.conditions\.label\.classes now"),
        ("diffusion.noise", r"it is called config\.diffusion\.noise_distribution now"),
        ("zzzzz.qqqqq", r"docs/keys\.md lists all keys"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_or_its_new_name(config, name, hint):
    with pytest.raises(InputError, match=rf"config\.{name}: there is no such key; {hint}"):
        configs.check_name(name)
    section, _, last = name.partition(".")
    with config.unlocked():
        if section not in config:
            config[section] = {}
        config[section][last] = 1
    with pytest.raises(InputError, match=rf"config\.{name}: there is no such key"):
        configs.check(config)


@pytest.fixture
def keys(monkeypatch):
    """A few keys in place of all."""
    monkeypatch.setattr(configs, "KEYS", {})
    monkeypatch.setattr(configs, "_REQUIREMENTS", [])
    declare("", steps=key(10, POSITIVE, "steps"))
    declare("net", width=key(8, POSITIVE, "numbers", was="model.size"))
    declare("net", new=key(True, FLAG, "a later thought", before=False))
    declare("net.inner", share=key(0.5, UNIT, "a share", free=True))
    declare("net", name=key("a", TEXT, "a name"))
    return configs.KEYS


def test_a_key_may_be_declared_again_only_as_it_is(keys):
    declare("net", width=key(8, POSITIVE, "numbers", was="model.size"))
    assert len(keys) == 5
    with pytest.raises(ValueError, match=r"the key net\.width is declared twice"):
        declare("net", width=key(8, POSITIVE, "metres"))
    assert keys["net.width"].doc == "numbers"


def test_a_default_must_keep_its_own_rule(keys):
    with pytest.raises(
        ValueError, match=r"net\.depth: its default 0 is not an integer of at least"
    ):
        declare("net", depth=key(0, POSITIVE, "layers"))
    assert "net.depth" not in keys


def test_defaults_have_sections_within_sections_and_are_made_anew(keys):
    config = configs.defaults()
    assert config.net.inner.share == 0.5
    assert configs.flatten(config) == {name: declared.default for name, declared in keys.items()}
    config.net.inner.share = 0.1
    assert configs.defaults().net.inner.share == 0.5
    assert configs.flatten(configs.unflatten(configs.flatten(config))) == configs.flatten(config)


def test_an_older_run_gets_todays_names_and_what_new_keys_did_before(keys):
    config = configs.complete({"steps": 3, "model": {"size": 4}})
    assert configs.flatten(config) == {
        "steps": 3, "net.width": 4, "net.new": False, "net.inner.share": 0.5, "net.name": "a",
    }  # fmt: skip
    with pytest.raises(InputError, match=r"unknown key net\.colour: give the --plugins"):
        configs.complete({"net": {"colour": 1}})


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("steps", "3", 3),
        ("net.new", "False", False),
        ("net.inner.share", "1", 1.0),
        ("net.inner.share", "2.5e-1", 0.25),
        ("net.name", "3", "3"),
        ("net.name", "b c", "b c"),
    ],
)
def test_the_command_line_overrides_a_key(keys, name, text, value):
    config = configs.defaults()
    configs.override(config, name, text)
    changed = configs.flatten(config)[name]
    assert (changed, type(changed)) == (value, type(value))
    assert set(configs.differences(configs.defaults(), config)) <= {name}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("steps", "0", "config.steps=0: it must be an integer of at least 1"),
        ("steps", "1.5", "config.steps=1.5: it must be an integer"),
        ("steps", "many", "config.steps=many: it must be an integer"),
        ("steps", "__import__('os')", "it must be an integer"),
        ("net.new", "1", "it must be True or False"),
        ("net.inner.share", "nan", "it must be a number from 0 to 1"),
        ("net.widht", "1", r"did you mean config\.net\.width"),
    ],
)
def test_an_override_that_breaks_its_rule_changes_nothing(keys, name, text, message):
    config = configs.defaults()
    with pytest.raises(InputError, match=message.replace("(", r"\(")):
        configs.override(config, name, text)
    assert config == configs.defaults()


def test_a_run_is_another_if_a_key_differs_that_is_not_free(keys):
    old, new = configs.defaults(), configs.defaults()
    new.net.inner.share = 0.1
    assert configs.differences(old, new) == {}
    new.net.width = 16
    assert configs.differences(old, new) == {"net.width": (8, 16)}


def test_lists_of_json_and_tuples_of_a_config_file_are_the_same(config):
    assert config.data.shapes == (1, 1)
    read = configs.complete(json.loads(config.to_json()))
    assert configs.differences(read, config) == {}
    configs.check(read)


def test_help_and_page_have_every_key_once():
    lines, page = configs.describe().splitlines(), configs.document().splitlines()
    for name, declared in configs.KEYS.items():
        assert lines.count(f"  --config.{name}={declared.default}") == 1
        (row,) = [line for line in page if line.startswith((f"| `{name}` |", f"| `{name}` * |"))]
        assert row.startswith(f"| `{name}` *") == declared.free
        assert declared.doc in row
        assert row.replace(r"\|", "").count("|") == 5


def test_the_page_of_keys_is_current():
    assert PAGE.read_text() == configs.document(), (
        "docs/keys.md is stale: run `python -m jaxvid.build > docs/keys.md`"
    )


# The config.json of a run from before conditions had sections of their own.
FLAT = {
    "batch_size": 8, "seed": 0, "steps": 8,
    "checkpoint": {"every": 4, "keep": 2},
    "data": {
        "action_dim": 2, "brightness": 0.0, "contrast": 0.0, "crop": 1.0, "flip": False,
        "fps": 8.0, "frames": 4, "low_res": 2, "max_bad": 100, "path": "", "prefetch": 1,
        "reverse": False, "shapes": [1, 1], "size": 8, "source": "synthetic", "spin": 0.0,
        "strides": [1], "text_dim": 0, "text_embeddings": "", "text_length": 8, "workers": 0,
    },
    "diffusion": {
        "bias": 0.0, "gamma": 5.0, "loss": "velocity", "low_res_noise": 0.2,
        "noise": "logit_normal", "noise_low": 0.05, "noise_mean": 0.5, "noise_std": 1.0,
        "observed_noise": 0.3, "per_frame": False, "prediction": "x0",
        "process": "rectified_flow", "shift_reference": 0, "stratified": False,
        "weighting": "uniform",
    },
    "ema": {"decay": 0.99, "snapshot_every": 4, "widths": [0.05, 0.1]},
    "log": {"every": 1, "sample_every": 0},
    "mesh": {"context": 1, "data": -1, "fsdp": 1, "replica": 1, "tensor": 1},
    "model": {
        "action_dropout": 0.3, "adaln": "block", "blocks": "space window text mlp",
        "causal": False, "depth": 2, "dtype": "float32", "heads": 2, "label_dropout": 0.1,
        "labels": 3, "low_res_dropout": 0.4, "mlp_ratio": 2, "patch": [1, 4, 4],
        "positions": "rotary", "remat": "none", "text_depth": 1, "text_dropout": 0.2,
        "unroll": 1, "width": 16, "window": [2, 1, 2],
    },
    "optimizer": {
        "accumulate": 1, "b2": 0.99, "clip": 1.0, "decay": "linear", "lr": 0.002,
        "name": "muon", "warmup": 2, "weight_decay": 0.0,
    },
    "sampler": {
        "cfg_interval": [0.0, 1.0], "cfg_rescale": 0.0, "cfg_scale": 1.5, "eta": 0.0, "lag": 0,
        "low_res_noise": 0.1, "name": "euler", "num": 2, "observed_noise": 0.2,
        "spacing": "uniform", "steps": 2,
    },
    "tasks": {"generate": 0.7, "interpolate": 0.05, "predict": 0.2, "random": 0.05},
}  # fmt: skip


def test_a_run_from_before_conditions_had_sections_loads_and_trains_on_as_it_did(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(FLAT))
    config = folder.load(tmp_path)
    configs.check(config)
    c = config.conditions
    assert c.dropout == 0.0  # each was dropped by itself alone
    assert (c.label.classes, c.label.dropout, c.label.names) == (3, 0.1, ())
    assert (c.text.length, c.text.depth, c.text.dropout, c.text.dim) == (8, 1, 0.2, 0)
    assert (c.action.dim, c.action.dropout) == (2, 0.3)
    assert (c.low_res.factor, c.low_res.dropout) == (2, 0.4)
    assert (c.low_res.max_noise, c.low_res.noise) == (0.2, 0.1)
    d = config.diffusion
    assert (d.loss_space, d.noise_distribution) == ("velocity", "logit_normal")
    assert d.max_observed_noise == 0.3
    assert config.sampler.observed_noise == 0.2
    assert config.data.shapes == (1, 1)
    assert config.data.augment == ()
    assert config.evals.every == 0
    assert configs.complete(json.loads(config.to_json())).to_json() == config.to_json()


def test_augmentations_of_an_older_run_become_texts(config, tmp_path):
    old = json.loads(config.to_json())
    del old["data"]["augment"]
    old["data"] |= {"flip": True, "reverse": True, "crop": 0.8, "brightness": 0.1, "contrast": 0.0}
    (tmp_path / "config.json").write_text(json.dumps({"format": 2, "config": old}))
    config = folder.load(tmp_path)
    configs.check(config)
    assert config.data.augment == (
        "flip", "crop(least=0.8)", "reverse", "colour(brightness=0.1, contrast=0.0, saturation=0)"
    )  # fmt: skip


def test_a_work_directory_keeps_its_config_but_may_move_to_other_devices(config, tmp_path):
    folder.claim(tmp_path, config, write=True)
    config.seed = 1  # nothing has been trained yet
    folder.claim(tmp_path, config, write=True)
    (tmp_path / "checkpoints/3").mkdir(parents=True)
    config.mesh.fsdp = 4
    config.log.every = 7
    folder.claim(tmp_path, config, write=True)
    assert folder.load(tmp_path).mesh.fsdp == 4
    config.seed = 3
    with pytest.raises(InputError, match="seed: 1 then, 3 now"):
        folder.claim(tmp_path, config, write=True)
    assert folder.load(tmp_path).seed == 1


def test_a_run_that_was_trained_with_what_training_refuses_today_can_be_sampled(config, tmp_path):
    config.model.update(depth=2, unroll=2, remat="full")
    with pytest.raises(InputError, match=r"config\.model\.remat=full needs a loop over depth"):
        configs.check(config)
    folder.claim(tmp_path, config, write=True)
    assert trained.load(tmp_path).run.config.model.remat == "none"
