"""Plans as a user reaches them: by keys of a config, and by `jaxvid.sample --plan`."""

from PIL import Image

from jaxvid.workdir import folder
from tests.commands import mistakes, run


def test_a_run_trains_on_the_calls_of_plans_and_draws_by_a_plan(tmp_path):
    """With levels of detail for each kind of call, which `tests/sampling` looks at."""
    plans = "--config.data.plans=('key_frames(frames=13)',)"
    run("train", "--config=tests/tiny.py", f"--workdir={tmp_path}", plans, "--config.tasks.plan=3",
        "--config.steps=3", "--config.evals.every=3", "--config.evals.protocols=()",
        "--config.model.blocks=time", "--config.model.depth=1",
        "--config.model.patches=((8,8),)", "--config.model.detail_onwards=(0,)",
        "--config.model.detail_between=(0,0,1)")  # fmt: skip
    assert folder.load(tmp_path).data.plans[0] == "key_frames(frames=13)"
    for plan in ("hierarchy_2", "key_frames(spacings=(6,3))"):
        said = run("sample", f"--workdir={tmp_path}", "--num=2", "--frames=13", f"--plan={plan}",
                   "--config.sampler.batch_size=8", f"--output={tmp_path}/out")  # fmt: skip
        assert f"{plan.partition('(')[0]}: 13 frames in" in said
        assert len(list((tmp_path / "out").glob("*.mp4"))) == 2
        assert Image.open(tmp_path / "out" / "plan.png").width > 500
    mistakes("sample", *(
        ([f"--workdir={tmp_path}", *arguments], line)
        for arguments, line in [
            (["--plan=key_frames"], "--plan is for long videos: give --frames as well"),
            (["--frames=13", "--plan=keyframes"], "did you mean 'key_frames'"),
            (["--frames=13", "--plan=streaming"], "the network cannot stream"),
            (["--frames=64", "--plan=key_frames(spacings=30)"], "29 frames lie between two"),
        ]
    ))  # fmt: skip


def test_plans_that_cannot_be_trained_on_are_refused():
    mistakes("train", *(
        (["--config=tests/tiny.py", *arguments], line)
        for arguments, line in [
            (["--config.data.plans=('keyframes',)"], "data.plans: plan 'keyframes': did you"),
            (["--config.data.plans=('key_frames',)"], "say how long the video is"),
            (["--config.tasks.plan=1"], "config.tasks.plan=1: these clips observe what a call"),
            (["--config.model.detail_between=(0,)", "--config.model.detail_onwards=(0,)",
              "--config.data.plans=('sliding(frames=9)',)", "--config.sampler.lag=1"],
             "config.sampler.lag=1: frames that follow one another"),
        ]
    ))  # fmt: skip
