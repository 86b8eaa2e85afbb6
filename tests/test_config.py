import json

import pytest

from configs import base, latte, videos
from jaxvid import config as configs
from jaxvid.errors import InputError


def test_the_configs_of_the_repository_are_sound(tmp_path):
    configs.check(base.get_config())
    made = {"version": 1, "size": 32, "fps": 12, "frames": 16, "labels": ["cats", "dogs"]}
    made["shards"] = {"clips-00000.array_record": 1}
    (tmp_path / "manifest.json").write_text(json.dumps(made))
    config = videos.get_config(str(tmp_path))
    configs.check(config)
    assert (config.data.size, config.data.fps, config.model.labels) == (32, 12.0, 2)


def test_the_published_sizes_are_sound_and_others_are_refused():
    for size in latte.SIZES:
        for patch in latte.PATCHES:
            configs.check(latte.get_config(f"{size}/{patch}"))
    for wrong in ("M/2", "S", "S/3", "S/2/2"):
        with pytest.raises(InputError, match="give SIZE/PATCH"):
            latte.get_config(wrong)


def test_every_repeated_line_is_checked():
    config = base.get_config()
    config.model.blocks = "4*(space mlp) 8*(time mlp)"
    configs.check(config)
    config.model.blocks = "4*(space mlp) 8*(tiem mlp)"
    with pytest.raises(InputError, match="did you mean 'time'"):
        configs.check(config)


@pytest.mark.parametrize(
    ("part", "changes", "line"),
    [
        ("model", dict(blocks="space text mlp"), "set config.data.text_length"),
        ("sampler", dict(lag=33), "at most config.sampler.steps=32"),
        ("data", dict(low_res=5), "low_res=5 must divide config.data.size=16"),
        ("sampler", dict(low_res_noise=0.4), "at most config.diffusion.max_low_res_noise=0.3"),
        ("sampler", dict(observed_noise=0.4), "at most config.diffusion.max_observed_noise=0.3"),
        ("sampler", dict(eta=0.5), "for the sampler 'ddim' only"),
        ("sampler", dict(cfg_interval=(0.5, 1.5)), "it must be .lowest, highest. noise level"),
        ("diffusion", dict(bias=30.0), "it must be a number from -20 to 20"),
        ("ema", dict(widths=(0.05, 0.05)), "it must be .. or different numbers"),
    ],
)
def test_what_does_not_fit_together_is_told(part, changes, line):
    config = base.get_config()
    config[part].update(changes)
    with pytest.raises(InputError, match=line):
        configs.check(config)


def test_a_network_of_levels_per_frame_knows_any_at_observed_frames():
    config = base.get_config()
    config.sampler.observed_noise = 0.4
    with pytest.raises(InputError, match="the highest level that is trained on"):
        configs.check(config)
    config.diffusion.per_frame = True
    configs.check(config)


@pytest.mark.parametrize("key", configs.KEYS)
def test_every_key_refuses_a_value_of_another_type(config, key):
    part, _, name = key.rpartition(".")
    with config.ignore_type():
        (config[part] if part else config)[name] = [None]
    with pytest.raises(InputError, match=rf"config\.{key}=.*: it must be"):
        configs.check(config)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("source", "sythetic"),
        ("frames", 0),
        ("shapes", (3, 2)),
        ("strides", ()),
        ("strides", (0,)),
        ("crop", 0.0),
        ("crop", 1.1),
        ("brightness", -0.1),
        ("contrast", 1.1),
        ("fps", float("nan")),
        ("prefetch", 0),
    ],
)
def test_a_value_out_of_its_range_is_refused(config, key, value):
    config.data[key] = value
    with pytest.raises(InputError, match=rf"config\.data\.{key}=.*: it must be"):
        configs.check(config)


@pytest.mark.parametrize("key", configs.KEYS)
def test_a_missing_key_is_named(config, key):
    part, _, name = key.rpartition(".")
    del (config[part] if part else config)[name]
    with pytest.raises(InputError, match=rf"config\.{key} is missing"):
        configs.check(config)


def test_a_key_that_no_one_reads_is_named_with_its_nearest(config):
    config.optimizer.learning_rate = 1e-3
    config.data.frame = 8
    with pytest.raises(InputError, match=r"did you mean config\.data\.frames"):
        configs.check(config)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (dict(batch_size=12), "does not divide over the 8 devices"),
        (dict(accumulate=2), "make it a multiple of 16"),
        (dict(width=20), "does not divide over config.mesh.fsdp=8"),
    ],
)
def test_what_does_not_divide_over_the_mesh_is_told(config, change, line):
    config.batch_size = change.get("batch_size", config.batch_size)
    config.optimizer.accumulate = change.get("accumulate", 1)
    config.model.width = change.get("width", config.model.width)
    with pytest.raises(InputError, match=line):
        configs.check_mesh(config, parts=8, fsdp=8)


def test_a_work_directory_keeps_its_config_but_may_move_to_other_devices(config, tmp_path):
    configs.claim(tmp_path, config, write=True)
    config.seed = 1  # nothing has been trained yet
    configs.claim(tmp_path, config, write=True)
    (tmp_path / "checkpoints/3").mkdir(parents=True)
    config.mesh.fsdp = 4
    config.log.every = 7
    configs.claim(tmp_path, config, write=True)
    assert configs.load(tmp_path).mesh.fsdp == 4
    config.seed = 3
    with pytest.raises(InputError, match="seed: 1 there, 3 now"):
        configs.claim(tmp_path, config, write=True)
    assert configs.load(tmp_path).seed == 1
