import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvid.build import build
from jaxvid.data.pipeline import blank_batch
from jaxvid.errors import InputError
from jaxvid.sampling import long_videos as module
from jaxvid.sampling.draw import by_default
from jaxvid.sampling.long_videos import long_videos, plan_for
from jaxvid.trained import TrainedModel
from tests import tiny


def prepared(config, clips=4):
    """A run on one device, its parameters, and clips of random frames that ask for nothing."""
    run = build(config, jax.devices()[:1])
    blank = blank_batch(config.data, run.encode, clips)
    blank["video"][:] = np.random.default_rng(0).integers(0, 256, blank["video"].shape)
    return run, tiny.trained(run), blank | {"given": by_default(run.conditions, blank["given"])}


def parts_of(run, params, clips, frames, given=1, overlap=2, plan=None):
    plan = plan_for(run.config, plan, frames, given, overlap)
    key = jax.random.key(0)
    return long_videos(run.config, run.denoiser, run.mesh, params, key, clips, plan)


def roll(run, *args, **kwargs):
    with jax.set_mesh(run.mesh):
        return np.concatenate(list(parts_of(run, *args, **kwargs)), axis=1)


@pytest.mark.parametrize("causal", [False, True])
def test_a_longer_video_begins_as_a_shorter_one_and_keeps_what_was_given(config, causal):
    config.conditions.action.dim, config.conditions.low_res.factor = 2, 2
    config.model.update(causal=causal, blocks="time recur mlp", depth=1)
    run, params, clips = prepared(config)
    rng = np.random.default_rng(0)
    clips["given"] |= {
        "action": {
            "action": rng.normal(size=(4, 7, 2)).astype(np.float32),
            "mask": np.ones((4, 7), bool),
        },
        "low_res": {"video": rng.integers(0, 256, (4, 9, 4, 4, 3), np.uint8)},
    }
    nine = roll(run, params, clips, 9)
    assert nine.shape == (4, 9, 8, 8, 3)
    np.testing.assert_array_equal(nine[:, :1], clips["video"][:, :1])
    np.testing.assert_array_equal(roll(run, params, clips, 5), nine[:, :5])

    # Actions that are masked are as good as none. Then of clips 1 to 3 something is changed:
    # an action, a frame of low-resolution video, the frames to start from.
    other = jax.tree.map(np.copy, clips)
    given = other["given"]
    given["action"] = {
        "action": np.pad(given["action"]["action"], ((0, 0), (0, 2), (0, 0)), constant_values=5),
        "mask": np.pad(given["action"]["mask"], ((0, 0), (0, 2))),
    }
    given["action"]["action"][1, 6] += 5
    given["low_res"]["video"][2, 6] ^= 255
    other["video"][3] ^= 255
    changed = (roll(run, params, other, 9) != nine).any(axis=(2, 3, 4))
    assert not changed[0].any()
    assert not changed[1:3, :6].any()
    assert changed[1:3, 6].all()
    assert changed[3].all()
    with pytest.raises(InputError, match="from 1 to 3"):
        roll(run, params, clips, 5, overlap=4)
    with pytest.raises(InputError, match="--frames=1: 1 of them are given"):
        roll(run, params, clips, 1)

    # Where what is seen again is all noise, what was given decides nothing.
    config.sampler.observed_noise = 1.0
    others = clips | {"video": other["video"]}
    np.testing.assert_array_equal(
        roll(run, params, clips, 9)[:, 1:], roll(run, params, others, 9)[:, 1:]
    )


@pytest.mark.parametrize("causal", [False, True])
def test_windows_are_drawn_one_by_one_as_they_are_asked_for(config, monkeypatch, causal):
    config.model.update(causal=causal, blocks="time mlp", depth=1)
    run, params, clips = prepared(config, clips=1)
    put_whole, windows = module.put_whole, []

    def counted(batch, sharding):
        windows.append(batch["video"].shape[1])
        return put_whole(batch, sharding)

    monkeypatch.setattr(module, "put_whole", counted)
    with jax.set_mesh(run.mesh):
        parts = parts_of(run, params, clips, 1000)
        first = list(itertools.islice(parts, 4))
        parts.close()
    # The frame given, then one call a part; a stream sees the frame given in a call of its own.
    assert [part.shape[1] for part in first] == ([1, 2, 2, 2] if causal else [1, 3, 2, 2])
    assert windows == ([1, 2, 2, 2] if causal else [4, 4, 4])


def test_learned_positions_draw_long_videos_with_a_causal_network_too(config):
    """Their tables end with the clip, so windows overlap where other positions stream."""
    config.model.update(causal=True, positions="learned", blocks="time", depth=1)
    run, params, clips = prepared(config, clips=1)
    seven = roll(run, params, clips, 7)
    assert seven.shape[1] == 7
    np.testing.assert_array_equal(seven[:, :1], clips["video"][:, :1])
    np.testing.assert_array_equal(roll(run, params, clips, 5), seven[:, :5])


@pytest.mark.parametrize("scheme", ["key_frames", "hierarchy_2", "overlapping"])
def test_one_call_at_a_time_draws_what_many_side_by_side_draw(config, scheme):
    config.model.update(blocks="time mlp", depth=1)
    config.conditions.action.dim, config.conditions.low_res.factor = 2, 2
    config.sampler.update(name="ddpm", observed_noise=0.1)
    config.diffusion.max_observed_noise = 0.1
    run, params, clips = prepared(config, clips=2)
    rng = np.random.default_rng(0)
    clips["given"]["low_res"] = {"video": rng.integers(0, 256, (2, 23, 4, 4, 3), np.uint8)}
    videos, given = [], int(scheme != "overlapping")
    sizes = [(2, 1), (18, 1), (9, 4)]  # one call of two videos, nine calls, all on four devices
    for size, devices in sizes if scheme == "overlapping" else sizes[:2]:
        config.sampler.batch_size = size
        run = build(config, jax.devices()[:devices])
        videos.append(roll(run, params, clips, 23, given, plan=scheme))
        assert videos[-1].shape == (2, 23, 8, 8, 3)
        np.testing.assert_array_equal(videos[-1][:, :given], clips["video"][:, :given])
        # Another batch size rounds otherwise.
        assert (np.abs(videos[0].astype(int) - videos[-1]) <= 1).all()


def test_a_causal_network_refuses_plans_that_look_ahead(config):
    config.model.causal = True
    with pytest.raises(InputError, match="key_frames: it sees frames after those that it draws"):
        plan_for(config, "key_frames", 64)
    assert plan_for(config, None, 64).scheme == "streaming"
    assert plan_for(config, "geometric", 64).scheme == "geometric"
    config.model.causal = False
    with pytest.raises(InputError, match="streaming: the network cannot stream"):
        plan_for(config, "streaming", 64)


def test_overlapping_windows_are_blended_as_they_come(config, monkeypatch):
    """Window k is a plain 100 or 130, so that two in a row disagree by 30."""
    config.conditions.low_res.update(factor=2, noise=0.1)
    config.data.frames = 7
    run, params, clips = prepared(config, clips=2)
    clips["given"]["low_res"] = {"video": np.zeros((2, 25, 4, 4, 3), np.uint8)}
    noises, low_res = [], []

    def make_sampler(*_):
        def sampler(params, keys, batch, observed):
            assert not np.any(observed)
            noises.append(np.asarray(batch["eps"]).reshape(-1, 2, 7, 8, 8, 3))
            seen = np.asarray(batch["given"]["low_res"]["video"]).reshape(-1, 2, 7, 4, 4, 3)
            low_res.append(seen)
            colours = [100 + 30 * ((k + sampler.done) % 2) for k in range(len(noises[-1]))]
            sampler.done += len(colours)
            colours = np.repeat(np.uint8(colours), 2)[:, None, None, None, None]
            return jnp.broadcast_to(colours, batch["video"].shape)

        sampler.done = 0
        return sampler

    monkeypatch.setattr(module, "make_sampler", make_sampler)
    run.config.sampler.batch_size = 4  # two windows at once
    with jax.set_mesh(run.mesh):
        parts = list(parts_of(run, params, clips, 25, given=0, overlap=3))
    # The last frames of a window wait for the next one, and then they are yielded.
    assert [part.shape[1] for part in parts] == [0, 8, 8, 9]
    colours = np.concatenate(parts, axis=1).astype(int)
    assert len(np.unique(colours)) == 5
    steps = np.abs(np.diff(colours, axis=1))
    assert steps.max() <= 30 / 3
    np.testing.assert_array_equal(colours[0, :8, 0, 0, 0], [100, 100, 100, 100, 105, 115, 125, 130])
    # A frame has the same noise in both windows; frames and videos have their own.
    for first, second in (noises[0], low_res[0]):
        np.testing.assert_array_equal(first[:, 4:], second[:, :3])
    assert np.std(first - first[:, :1]) > 0.01  # the video is black, and its frames differ
    first, second = noises[0]
    assert len(np.unique(np.concatenate([first[:, :4], second], axis=1)[..., 0, 0, 0])) == 2 * 11


def test_given_key_frames_stay_and_come_in_order(config):
    config.model.update(blocks="time mlp", depth=1)
    run, params, clips = prepared(config, clips=2)
    keys = (0, 3, 4, 7, 9, 12)
    clips["video"] = np.resize(clips["video"], (2, 6, 8, 8, 3))
    clips["video"] += np.arange(6, dtype=np.uint8)[:, None, None, None]
    with jax.set_mesh(run.mesh):
        parts = list(parts_of(run, params, clips, 13, given=keys, plan="key_frames"))
    assert parts[0].shape[1] == 1
    video = np.concatenate(parts, axis=1)
    assert video.shape == (2, 13, 8, 8, 3)
    np.testing.assert_array_equal(video[:, keys], clips["video"])


def test_calls_get_their_frames_by_importance_with_the_levels_of_their_kind(config, monkeypatch):
    config.model.update(patches=((8, 8),), detail_onwards=(0, 0, 0, 1), detail_between=(0, 0, 1))
    run, params, clips = prepared(config, clips=2)
    met = []

    def make_sampler(changed, *_):
        def sampler(params, keys, batch, observed):
            time = np.asarray(batch["time"]) * config.data.fps
            seen = np.broadcast_to(observed, time.shape)
            met.append((tuple(changed.sampler.detail), [*time[0]], [*seen[0]]))
            # A frame that is drawn tells where it is, from a frame that is seen and does so.
            start = np.asarray(batch["video"])[..., 0, 0, 0] - time
            start = start[:, np.argmax(seen[0])] if seen.any() else np.zeros(len(time))
            told = (start[:, None] + time).astype(np.uint8)
            return jnp.broadcast_to(told[..., None, None, None], batch["video"].shape)

        return sampler

    monkeypatch.setattr(module, "make_sampler", make_sampler)
    with jax.set_mesh(run.mesh):
        for plan in ("key_frames", "geometric"):
            parts = parts_of(run, params, clips, 10, given=0, overlap=3, plan=plan)
            video = np.concatenate(list(parts), axis=1)
            np.testing.assert_array_equal(video[..., 0, 0, 0], [[*range(10)]] * 2)
    outline, between, onwards = met[0], met[1], met[-1]
    assert outline == ((0,), [0, 3, 6, 9], [False] * 4)
    assert between == ((0, 0, 1, 1), [0, 3, 1, 2], [True, True, False, False])
    assert onwards[0] == (0, 0, 0, 1)
    assert onwards[2] == [False, True, True, True]
    assert onwards[1] == sorted(onwards[1], reverse=True)


def test_frames_between_others_may_take_fewer_steps(config):
    config.model.update(blocks="time mlp", depth=1)
    config.sampler.update(steps=3)
    drawn = {}
    for steps in (0, 1):
        config.sampler.steps_between = steps
        run, params, clips = prepared(config, clips=1)
        drawn[steps] = roll(run, params, clips, 10, given=0, plan="key_frames")
    keys = [*plan_for(config, "key_frames", 10).calls[0].draws]
    same = (drawn[0] == drawn[1]).all(axis=(0, 2, 3, 4))
    np.testing.assert_array_equal(np.flatnonzero(same), keys)


def test_few_videos_use_many_devices(config):
    """Calls run side by side on them, and a call that waits for others runs several times."""
    config.model.update(blocks="time mlp", depth=1)
    config.sampler.name = "ddpm"
    params, videos = tiny.trained(build(config, jax.devices()[:1])), []
    for devices in (1, 4):
        run = build(config, jax.devices()[:devices])
        model = TrainedModel(run, lambda _: params)
        drawing = model.drawing(3, frames=23, plan="key_frames")
        videos.append(np.concatenate(list(drawing.parts()), axis=1))
    assert videos[0].shape == (3, 23, 8, 8, 3)
    assert (np.abs(videos[0].astype(int) - videos[1]) <= 1).all()
