"""Serve a page on which anyone draws with a trained model: generate, continue a video, long videos.

    pip install gradio
    python -m jaxvid.demo --workdir=runs/base [--port=7860]

The page is for this machine alone, unless --host says otherwise. One request is drawn at a time,
and others wait in line.
"""

from jaxvid import start

if __name__ == "__main__":
    start.begin()

import atexit
import functools
import importlib.util
import os
import tempfile
import uuid
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import flags

from jaxvid import config as configs
from jaxvid import errors
from jaxvid.data.video import write_video
from jaxvid.errors import InputError
from jaxvid.hierarchy.plan import SCHEMES
from jaxvid.trained import TrainedModel, load
from jaxvid.workdir.pictures import tile

WORKDIR = flags.DEFINE_string(
    "workdir", None, "A run's work directory, or a file of jaxvid.export."
)
HOST = flags.DEFINE_string(
    "host", "127.0.0.1", "Address to serve at; 0.0.0.0 is the whole network."
)
PORT = flags.DEFINE_integer("port", 7860, "Port to serve at.", lower_bound=1, upper_bound=65535)

MOST_CLIPS, LONGEST, MOST_STEPS = 16, 512, 250
LARGEST_UPLOAD = "50mb"
WAITING = 16  # requests in line; others are turned away
ONE_CLIP = "one clip"  # in place of a plan


def main(_: Sequence[str]) -> None:
    if WORKDIR.value is None:
        raise InputError("give --workdir=DIR of a run, or FILE.safetensors of jaxvid.export")
    if not importlib.util.find_spec("gradio"):
        raise InputError("the page needs Gradio: pip install gradio")
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    model = _loaded(WORKDIR.value)
    model.params  # noqa: B018  a mistake is found before anyone opens the page
    import gradio

    try:
        page(WORKDIR.value, model).queue(max_size=WAITING, default_concurrency_limit=1).launch(
            server_name=HOST.value,
            server_port=PORT.value,
            max_file_size=LARGEST_UPLOAD,
            theme=gradio.themes.Default(font="system-ui", font_mono="monospace"),
        )
    except OSError as error:
        raise InputError(f"--host={HOST.value} --port={PORT.value}: {error}") from error


def page(workdir: str, model: TrainedModel) -> Any:
    """The page of the model in `workdir`, a `gradio.Blocks`."""
    import gradio

    config = model.run.config
    names = list(config.conditions.label.names) if config.conditions.label.classes else []
    has_captions = bool(config.conditions.text.length)
    frames = config.data.frames
    fields: dict[str, Any] = {}
    shown_in: list[Any] = []  # the progress bar of the request that is drawn

    def report(done: int, total: int) -> None:  # one function: another would be compiled anew
        shown_in[-1]((done, total))

    def draw(*values: Any, progress: Any = gradio.Progress()) -> str:  # noqa: B008
        chosen = dict(zip(fields, values, strict=True))
        shown_in[:] = [progress]
        try:
            return _draw(workdir, chosen, report)
        except InputError as error:
            raise gradio.Error(str(error)) from error

    with gradio.Blocks(
        title="jaxvid", analytics_enabled=False, delete_cache=(3600, 3600)
    ) as blocks:
        gradio.Markdown(f"# jaxvid\n{workdir}: clips of {frames} frames")
        with gradio.Row():
            with gradio.Column(scale=1):
                tasks = ["generate", "predict", "interpolate"] if frames > 1 else ["generate"]
                fields["task"] = gradio.Radio(tasks, value="generate", label="Task")
                fields["video"] = gradio.Video(
                    label="Given frames, for the other tasks; without a file, held-out clips",
                    sources=["upload"],
                )
                fields["observed"] = gradio.Slider(
                    1,
                    max(1, frames - 1),
                    max(1, frames // 4),
                    step=1,
                    label="Given frames",
                )
                if names:
                    fields["label"] = gradio.Dropdown(["", *names], value="", label="Class")
                if has_captions:
                    fields["caption"] = gradio.Textbox(label="Caption")
                plans = [ONE_CLIP, *SCHEMES]
                fields["plan"] = gradio.Dropdown(plans, value=ONE_CLIP, label="Long video, by plan")
                fields["frames"] = gradio.Slider(
                    1, LONGEST, min(64, LONGEST), step=1, label="Frames of a long video"
                )
                with gradio.Row():
                    fields["num"] = gradio.Slider(1, MOST_CLIPS, 4, step=1, label="Videos")
                    fields["seed"] = gradio.Number(0, precision=0, minimum=0, label="Seed")
                with gradio.Row():
                    fields["steps"] = gradio.Slider(
                        1, MOST_STEPS, config.sampler.steps, step=1, label="Steps"
                    )
                    fields["guidance"] = gradio.Slider(
                        1.0, 10.0, config.sampler.cfg_scale, step=0.25, label="Guidance"
                    )
                button = gradio.Button("Draw", variant="primary")
            with gradio.Column(scale=1):
                shown = gradio.Video(label="Drawn", autoplay=True, loop=True, interactive=False)
        button.click(draw, [*fields.values()], shown)
    return blocks


@functools.cache
def _folder() -> str:
    """A folder for videos, which goes when the process ends."""
    folder = tempfile.TemporaryDirectory(prefix="jaxvid-demo-")
    atexit.register(folder.cleanup)
    return folder.name


@functools.cache
def _loaded(workdir: str) -> TrainedModel:
    return load(workdir)


@functools.lru_cache(maxsize=8)
def _model(workdir: str, steps: int, guidance: float) -> TrainedModel:
    """The model with settings of the sampler; all have the same parameters."""
    changes = {"sampler.steps": str(steps), "sampler.cfg_scale": str(guidance)}
    return TrainedModel(load(workdir, changes=changes).run, lambda _: _loaded(workdir).params)


def _draw(workdir: str, chosen: dict[str, Any], report: Any) -> str:
    """Draws what the page asks for; the path of an mp4 with the videos side by side."""
    number = {name: int(chosen[name]) for name in ("num", "seed", "steps", "frames", "observed")}
    if not (1 <= number["num"] <= MOST_CLIPS and 1 <= number["frames"] <= LONGEST):
        raise InputError(f"at most {MOST_CLIPS} videos of {LONGEST} frames")
    if not 1 <= number["steps"] <= MOST_STEPS:
        raise InputError(f"at most {MOST_STEPS} steps")
    model, given = _model(workdir, number["steps"], float(chosen["guidance"])), {}
    if chosen["task"] != "generate":
        given = {"observed": number["observed"], "video": chosen["video"]}
    if chosen["plan"] != ONE_CLIP:
        given |= {"frames": number["frames"], "plan": chosen["plan"]}
    given |= {name: chosen[name] for name in ("label", "caption") if chosen.get(name)}
    drawing = model.drawing(number["num"], seed=number["seed"], task=chosen["task"], **given)
    videos = np.concatenate(list(drawing.parts(report)), axis=1)
    path = os.path.join(_folder(), f"{uuid.uuid4().hex}.mp4")
    write_video(path, tile(videos), model.run.config.data.fps)
    return path


if __name__ == "__main__":
    errors.run(main, configs.parse_flags)
