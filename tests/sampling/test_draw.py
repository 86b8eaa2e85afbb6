import jax
import numpy as np
import pytest

from jaxvid.build import build
from jaxvid.data import pipeline
from jaxvid.denoiser import make_denoiser
from jaxvid.sampling.draw import by_default, guidance_scale, make_sampler, padded
from jaxvid.sampling.tasks import observed_frames
from tests import tiny


def small():
    """With a network that compiles fast: what is tested here is around it."""
    config = tiny.get_config()
    config.model.update(blocks="time", depth=1)
    return config


@pytest.fixture
def config():
    return small()


@pytest.fixture(scope="module")
def params():
    return tiny.trained(build(small(), jax.devices()[:1]))


def draw(config, params, clips, observed, devices=1):
    run = build(config, jax.devices()[:devices])
    with jax.set_mesh(run.mesh):
        sampler = make_sampler(config, run.denoiser, run.mesh)
        return np.asarray(sampler(params, jax.random.key(1), jax.device_get(clips), observed))


@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
def test_observed_frames_come_back_to_the_bit_and_decide_the_others_unless_they_are_all_noise(
    config, params, batch, level
):
    config.sampler.observed_noise = level
    observed = observed_frames("predict", config.data.frames, 2)
    videos = draw(config, params, batch, observed)
    np.testing.assert_array_equal(videos[:, :2], batch["video"][:, :2])
    changed = draw(config, params, batch | {"video": 255 - batch["video"]}, observed)
    assert (changed[:, 2:] != videos[:, 2:]).any() == (level < 1)


def test_eight_devices_draw_what_one_draws(config, params, batch):
    nothing = observed_frames("generate", config.data.frames, 1)
    alone = draw(config, params, batch, nothing)
    together = draw(config, params, batch, nothing, devices=8)
    # A level of rounding may fall to either side.
    assert np.abs(alone.astype(int) - together).max() <= 1


@pytest.mark.parametrize("name", ["euler", "heun"])
def test_the_steps_that_are_done_are_reported_once_each_whatever_the_devices(config, params, name):
    config.sampler.name, told = name, []
    run = build(config)
    blank = pipeline.blank_batch(config.data, run.encode, 8)
    with jax.set_mesh(run.mesh):
        draw = make_sampler(
            config, run.denoiser, run.mesh,
            lambda done, total: told.append((int(done), int(total))),
        )  # fmt: skip
        jax.block_until_ready(
            draw(params, jax.random.key(0), blank, np.zeros(config.data.frames, bool))
        )
    jax.effects_barrier()
    assert sorted(set(told)) == [(i, 2) for i in range(name == "euler", 3)]
    assert len(told) == (2 if name == "euler" else 4)


@pytest.mark.parametrize("steps", [1, 2])
def test_clips_drawn_in_groups_are_those_drawn_at_once(config, params, batch, steps):
    config.sampler.steps = steps
    nothing, told = observed_frames("generate", config.data.frames, 1), []
    at_once = draw(config, params, batch, nothing)
    config.sampler.batch_size = 3  # of 8 clips: four groups of two
    run = build(config, jax.devices()[:1])
    with jax.set_mesh(run.mesh):
        sampler = make_sampler(
            config, run.denoiser, run.mesh,
            lambda done, total: told.append((int(done), int(total))),
        )  # fmt: skip
        for _ in range(2):
            groups = sampler(params, jax.random.key(1), jax.device_get(batch), nothing)
    jax.effects_barrier()
    assert np.abs(at_once.astype(int) - groups).max() <= 1
    assert told == 2 * [(i + 1, 4 * steps) for i in range(4 * steps)]


def test_one_compilation_serves_every_choice_of_observed_frames(config, params, batch):
    run, T = build(config, jax.devices()[:1]), config.data.frames
    with jax.set_mesh(run.mesh):
        sampler = make_sampler(config, run.denoiser, run.mesh)
        clips = jax.device_get(batch)
        sampler(params, jax.random.key(1), clips, np.zeros(T, bool))
        with jax.no_tracing():
            videos = sampler(params, jax.random.key(1), clips, np.arange(T) < 2)
    np.testing.assert_array_equal(np.asarray(videos)[:, :2], batch["video"][:, :2])


def test_guidance_moves_clips_that_are_asked_for_and_no_others(config, params, batch):
    nothing = observed_frames("generate", config.data.frames, 1)
    clips = batch | {"given": {"label": np.where(np.arange(8) < 4, batch["given"]["label"], -1)}}
    videos = []
    for scale in (1.0, 3.0):
        config.sampler.cfg_scale = scale
        videos.append(draw(config, params, clips, nothing).astype(int))
    moved = np.abs(videos[1] - videos[0]).max(axis=(1, 2, 3, 4))
    assert (moved[:4] > 1).all()
    assert (moved[4:] <= 1).all()


def test_any_condition_can_be_guided_by(config):
    config.conditions.label.classes, config.sampler.cfg_scale = 0, 2.0
    assert guidance_scale(config, make_denoiser(config)) == 1
    for name, key in (("text", "length"), ("action", "dim"), ("low_res", "factor")):
        config.conditions[name][key] = 2
        assert guidance_scale(config, make_denoiser(config)) == 2
        config.conditions[name][key] = 0


def test_as_many_clips_as_divide_over_the_mesh_are_made(config):
    run = build(config)
    assert [padded(num, run.mesh) for num in (1, 8, 9)] == [8, 8, 16]


def test_by_default_classes_come_in_turn_and_all_else_is_null(config):
    config.conditions.action.dim = 2
    given = {
        "label": np.full(5, -1, np.int32),
        "action": {"action": np.zeros((5, 4, 2), np.float32), "mask": np.zeros((5, 4), bool)},
    }
    asked = by_default(make_denoiser(config).conditions, given)
    assert asked["label"].tolist() == [0, 1, 2, 0, 1]
    assert asked["action"] is given["action"]
