import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxvid.build import build
from jaxvid.data.pixels import to_float
from jaxvid.denoiser import make_denoiser
from jaxvid.errors import InputError
from jaxvid.training.meter import Meter
from jaxvid.training.optimizer import make_schedule
from jaxvid.training.step import add_noise, draw, draw_examples, loss_by_noise, make_train_step


@pytest.fixture
def config(config):
    """With a network that compiles fast: what is tested here is around it."""
    config.model.update(blocks="time mlp", depth=1)
    return config


def begin(config):
    """The first state, and the jitted step, which leaves the state that it is given."""
    run = build(config, jax.devices()[:1])
    return run.init(), jax.jit(make_train_step(config, run.denoiser, run.optimizer))


def examples_of(config, batch, seed=0):
    denoiser = make_denoiser(config)
    draws = jax.jit(lambda batch, key: draw_examples(config, denoiser, batch, key))
    return draws(batch, jax.random.key(seed))


def test_accumulation_is_the_whole_batch_in_parts(config, batch):
    """Clips i, i + n, … are part i; each part has noise of its own."""
    config.optimizer.update(clip=0.0, accumulate=2)
    state, step = begin(config)
    _, metrics = step(state, batch)

    @jax.jit
    def expected(params):
        denoiser, key = make_denoiser(config), jax.random.fold_in(jax.random.key(config.seed), 0)
        draws, eps_key = draw(config, denoiser, batch, key)
        keys = jax.random.split(eps_key, 2)
        parts = [
            add_noise(denoiser, jax.tree.map(lambda x, i=i: x[i::2], draws), keys[i])
            for i in range(2)
        ]
        whole = jax.tree.map(lambda *x: jnp.concatenate(x), *parts)

        def loss(params):
            sums, counts = loss_by_noise(config, denoiser, params, whole)
            return sums.sum() / counts.sum(), (sums, counts)

        return jax.value_and_grad(loss, has_aux=True)(params)

    (value, bins), grads = expected(state.params)
    np.testing.assert_allclose(metrics["loss"], value, rtol=1e-4)
    np.testing.assert_allclose(metrics["grad_norm"], optax.tree.norm(grads), rtol=1e-4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), metrics["bins"], bins)


def test_the_metrics_of_a_step_come_as_one_vector_and_are_found_in_it_by_name(config, batch):
    state, step = begin(config)
    expected = step(state, batch)[1]
    run = build(config, jax.devices()[:1])
    vector = run.train_step(state, batch)[1]
    assert vector.ndim == 1
    found = run.metrics_of(vector)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), dict(found), expected)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_training_on_one_batch_lowers_its_loss(config, batch, optimizer):
    config.optimizer.update(name=optimizer, lr=3e-3, decay="constant")
    config.diffusion.loss_space = "x0"
    state, step = begin(config)
    losses = []
    for _ in range(60):
        state, metrics = step(state, batch)
        losses.append(metrics["loss"])
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])


def test_randomness_is_a_function_of_seed_and_step(config, batch):
    state, step = begin(config)
    first, again = step(state, batch), step(state, batch)
    jax.tree.map(np.testing.assert_array_equal, first, again)
    later = step(state.replace(step=jnp.array(5, jnp.int32)), batch)
    assert later[1]["loss"] != first[1]["loss"]


def test_observed_frames_are_clean_and_have_level_0(config, batch):
    config.tasks.update(generate=0.0, predict=1.0, interpolate=0.0, random=0.0)
    config.diffusion.max_observed_noise = 0.0
    examples = examples_of(config, batch)
    observed = ~np.asarray(examples.unknown)
    assert observed[:, 0].all()
    np.testing.assert_array_equal(np.asarray(examples.noise)[observed], 0)
    np.testing.assert_array_equal(
        np.asarray(examples.x_t)[observed], np.asarray(examples.x0)[observed]
    )
    levels = np.asarray(examples.noise)[~observed]
    assert levels.min() >= config.diffusion.noise_low


def test_observed_frames_have_a_level_of_their_own_and_all_else_is_drawn_as_without(config, batch):
    config.tasks.update(generate=0.0, predict=1.0, interpolate=0.0, random=0.0)
    batch = jax.tree.map(lambda x: jnp.repeat(x, 100, axis=0), batch)
    config.diffusion.max_observed_noise = 0.0
    clean = examples_of(config, batch)
    config.diffusion.max_observed_noise = 0.4
    drawn = examples_of(config, batch)
    unknown, level = np.asarray(drawn.unknown), np.asarray(drawn.noise)
    for name in ("x_t", "noise"):
        a, b = getattr(clean, name), getattr(drawn, name)
        np.testing.assert_array_equal(np.asarray(a)[unknown], np.asarray(b)[unknown])
    first = level[:, :1]
    np.testing.assert_array_equal(level, np.where(unknown, level, first))
    assert 0 <= first.min() < 0.02
    assert 0.38 < first.max() <= 0.4
    assert abs(first.mean() - 0.2) < 0.02
    t = level[..., None, None, None]
    expected = (1 - t) * np.asarray(drawn.x0) + t * np.asarray(drawn.eps)
    np.testing.assert_allclose(drawn.x_t, expected, atol=1e-6)


def test_conditions_are_dropped_by_the_key_of_the_step_and_all_else_is_drawn_as_without(
    config, batch
):
    batch = jax.tree.map(lambda x: jnp.repeat(x, 100, axis=0), batch)
    config.conditions.dropout = 0.0
    whole = examples_of(config, batch)
    np.testing.assert_array_equal(whole.given["label"], batch["given"]["label"])
    config.conditions.dropout, config.conditions.label.dropout = 0.25, 0.2
    drawn = examples_of(config, batch)
    jax.tree.map(np.testing.assert_array_equal, whole, drawn.replace(given=whole.given))
    gone = np.asarray(drawn.given["label"]) == -1
    assert abs(gone.mean() - (1 - 0.75 * 0.8)) < 0.05
    np.testing.assert_array_equal(drawn.given["label"][~gone], batch["given"]["label"][~gone])
    other = examples_of(config, batch, seed=1).given["label"]
    assert (np.asarray(other == -1) != gone).mean() > 0.2


def with_low_res(batch):
    small = {"low_res": {"video": batch["video"][:, :, ::2, ::2]}}
    return batch | {"given": batch["given"] | small}


def test_low_resolution_video_has_a_level_of_its_own_and_all_else_is_drawn_as_without(
    config, batch
):
    batch = jax.tree.map(lambda x: jnp.repeat(x, 100, axis=0), batch)
    small = with_low_res(batch)
    config.conditions.dropout, config.conditions.label.dropout = 0.0, 0.2
    config.conditions.low_res.update(dropout=0.25, max_noise=0.4)

    def draw(factor, batch):
        config.conditions.low_res.factor = factor
        return jax.jit(lambda batch: examples_of(config, batch))(batch)

    plain, drawn = draw(0, batch), draw(2, small)
    video, level = (np.asarray(drawn.given["low_res"][name]) for name in ("video", "noise"))
    others = {"label": drawn.given["label"]}
    jax.tree.map(np.testing.assert_array_equal, plain, drawn.replace(given=others))
    dropped = level == 1
    assert abs(dropped.mean() - 0.25) < 0.05
    assert not video[dropped].any()
    assert 0 <= level[~dropped].min() < 0.02
    assert 0.38 < level[~dropped].max() <= 0.4
    t = level[..., None, None, None, None]
    eps = (video - (1 - t) * np.asarray(to_float(small["given"]["low_res"]["video"]))) / t
    assert eps[~dropped & (level > 0.1)].std() == pytest.approx(1, abs=0.01)


def test_a_network_learns_to_see_its_low_resolution_video(config, batch):
    """After training on ever new colours, those of other clips make its error larger."""
    config.diffusion.loss_space, config.optimizer.decay = "x0", "constant"
    config.conditions.low_res.factor, config.conditions.dropout = 2, 0.0
    state, step = begin(config)
    rng = np.random.default_rng(0)
    for _ in range(40):
        colours = rng.integers(0, 256, (config.batch_size, 1, 1, 1, 3), np.uint8)
        video = jnp.asarray(np.broadcast_to(colours, batch["video"].shape))
        seen = with_low_res(batch | {"video": video})
        state, _ = step(state, seen)
    given = seen["given"]
    other = given | {"low_res": {"video": jnp.roll(given["low_res"]["video"], 1, axis=0)}}
    right, wrong = (step(state, seen | {"given": x})[1]["loss"] for x in (given, other))
    assert wrong > 4 * right


def test_the_average_lags_behind_by_its_decay(config, batch):
    config.ema.decay = 0.5
    state, step = begin(config)
    state = state.replace(step=jnp.array(100, jnp.int32))
    new, _ = step(state, batch)
    jax.tree.map(
        lambda ema, a, b: np.testing.assert_allclose(ema, (a + b) / 2, atol=1e-6),
        new.ema, state.ema, new.params,
    )  # fmt: skip


def test_the_schedule_rises_and_falls(config):
    config.steps, config.optimizer.warmup, config.optimizer.lr = 100, 10, 1.0
    for decay, end in (("constant", 1.0), ("linear", 0.0), ("cosine", 0.0)):
        config.optimizer.decay = decay
        lr = make_schedule(config)
        assert [float(lr(s)) for s in (0, 5, 10)] == pytest.approx([0.0, 0.5, 1.0])
        assert float(lr(100)) == pytest.approx(end, abs=1e-6)


def test_a_loss_that_is_not_finite_names_step_and_part(config, batch):
    state, step = begin(config)
    window = Meter(0, max_bad=0)
    state, metrics = step(state, batch)
    window.add(metrics, 4)
    bad = jax.tree.map(lambda x: x, state.params)
    bad["pixels"]["kernel"] *= jnp.nan
    _, metrics = step(state.replace(params=bad), batch)
    window.add(metrics, 4)
    with pytest.raises(InputError, match=r"at step 2 the loss is nan.*arrays: blocks_0/"):
        window.close(2)


def test_parameters_that_overflow_stop_the_run_though_loss_and_gradient_are_finite():
    meter = Meter(0, max_bad=0)
    finite = {"loss": 1.0, "grad_norm": 1.0, "grad_norms": {"out": 1.0}, "param_norm": 1.0}
    meter.add(finite, 1)
    meter.add(finite | {"param_norm": np.inf}, 1)
    with pytest.raises(InputError, match=r"at step 2 .*norm of the new parameters is inf"):
        meter.close(2)


def test_bad_records_are_listed_once_and_too_many_stop_the_run():
    window, said = Meter(0, max_bad=1), []
    for _ in range(2):
        window.count_bad(np.array([[-1, -1], [7, -1]], np.int32), said.append)
    assert said == ["skipped bad record(s) [7]: 1 so far"]
    with pytest.raises(InputError, match=r"max_bad=1.*\[7, 9\]"):
        window.count_bad(np.array([[9, -1]], np.int32), said.append)
