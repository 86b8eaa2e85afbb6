"""The page of a run, as a reader and as a browser see it."""

import dataclasses
import json
import re
import shutil

import numpy as np
import pytest

from jaxvid.errors import InputError
from jaxvid.metrics.score import Score
from jaxvid.workdir import folder, starts
from jaxvid.workdir.charts import Line, chart
from jaxvid.workdir.report import write_report
from jaxvid.workdir.samples import write_samples
from tests import tiny
from tests.commands import mistakes, run

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
SWITCHES = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]


def make(workdir, steps=40, **optimizer):
    """A work directory as a run leaves it; of no steps, as one that has only begun."""
    config = tiny.get_config()
    config.optimizer.update(**optimizer)
    config.conditions.label.names = ("<b>", "'&\"")
    folder.claim(workdir, config)
    starts.add(workdir, 0)
    lines = []
    for step in range(1, steps + 1):
        values = {"loss": 1 / step if step != 3 else "nan", "loss/noise_0.00-0.25": 0.5}
        values |= {"goodput": 0.75, "seconds/steps": 3.0 * step, "seconds/start": 1.0 * step}
        values |= {"clips_per_s": 8.0, "data_wait": 0.0}
        lines.append({"step": step} | values)
    if steps:
        score = {"evals/energy": 5.0, "evals/energy_error": 0.5, "evals/energy_floor": 1.0}
        lines.append({"step": steps} | score)
        for step in (steps // 2, steps):
            with write_samples(workdir / f"samples/{step:07d}-generate", 8) as samples:
                samples.add(np.full((3, 4, 16, 24, 3), 200, np.uint8))
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return workdir


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    base = tmp_path_factory.mktemp("runs")
    return [make(base / "a <i>"), make(base / "b", lr=0.25)]


@pytest.fixture(scope="module")
def pages(two, tmp_path_factory):
    """The page of one run, of a run that has just begun, and of two."""
    begun = make(tmp_path_factory.mktemp("begun"), steps=0)
    paths = [tmp_path_factory.mktemp("pages") / f"{name}.html" for name in ("one", "begun", "both")]
    for path, runs in zip(paths, ([two[0]], [begun], two), strict=True):
        write_report(path, runs)
    return paths


def test_a_page_asks_for_no_other_file(pages):
    for page in pages:
        text = re.sub(r'xmlns:?\w*="[^"]*"', "", page.read_text())
        assert not re.search(r"""(src|href)\s*=\s*["'](?!data:|#)|url\((?!#)|@import""", text)


def test_names_that_look_like_html_stay_text(pages):
    for page in (pages[0], pages[2]):
        text = page.read_text()
        assert "<i>" not in text
        assert "<b>" not in text
        assert "a &lt;i&gt;" in text


def test_of_one_run_the_values_other_than_the_defaults_are_told_and_of_two_what_differs(pages):
    one, both = (re.split(r"<details", page.read_text())[0] for page in (pages[0], pages[2]))
    told = [re.findall(r'class="differs"><td><code>(.*?)</code>', text) for text in (one, both)]
    assert {"model.width", "optimizer.lr"} < {*told[0]}
    assert told[1] == ["optimizer.lr"]
    shown = [re.findall(r"<figcaption>(.*step [\d,]+)<", text) for text in (one, both)]
    assert shown == [["step 40", "step 20"], ["a &lt;i&gt;, step 40", "b, step 40"]]
    assert "0.25" in both


def test_the_shares_of_the_time_add_up(pages):
    (row,) = re.findall(r"<tbody><tr>(<td>\d.*?%.*?)</tr>", pages[0].read_text())
    assert re.findall(r"([\d.]+)%", row) == ["75.0", "25.0"]
    assert re.findall(r"([\d.]+) min", row) == ["2.0", "0.7"]


def test_a_chart_takes_the_colours_of_the_page_and_its_ids_are_its_own():
    x = np.arange(1000.0)
    a, b = (chart(title, [Line("", x, np.sin(x / 99))]) for title in ("one", 'two "<'))
    assert 'aria-label="two &quot;&lt;"' in b
    assert "currentColor" in a
    assert "#010203" not in a
    ids = [set(re.findall(r' id="(\w{11,})"', svg)) for svg in (a, b)]
    assert ids[0]
    assert not ids[0] & ids[1]
    assert len(a) < 40_000  # of a thousand points only means are drawn


def test_the_command_writes_the_page_of_a_run_or_compares_several(two, tmp_path):
    assert "report.html" in run("report", two[1])
    assert (two[1] / "report.html").stat().st_size > 10_000
    assert "both.html" in run("report", *two, f"--output={tmp_path}/both.html")
    mistakes("report", ([], "give the work directory of a run"),
             ([tmp_path / "none"], "none/config.json is missing"))  # fmt: skip


def test_a_score_says_with_which_settings_its_clips_were_drawn(tmp_path):
    workdir = make(tmp_path / "run", steps=2)
    score = Score("energy", 5.0, 1.0, "lower", 12, 12, "quick-v1", "pixels 1", 0, 0.5, 0.25)
    for steps in (2, 16):
        config = tiny.get_config()
        config.sampler.steps = steps
        of = {"checkpoint": 2, "weights": "ema", "config": json.loads(config.to_json())}
        file = workdir / f"evals/quick-{steps}/scores.json"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(of | {"scores": [dataclasses.asdict(score)]}))
    write_report(tmp_path / "page.html", [workdir])
    rows = re.findall(r"<td>(quick-v1.*?)</td>", (tmp_path / "page.html").read_text())
    plain = "quick-v1: 12 against 12 clips, seed 0"
    assert rows == [f"{plain}, sampler.steps=16", plain]


def test_clips_that_are_damaged_or_gone_are_left_out(tmp_path, capfd):
    workdir = make(tmp_path / "run")
    damaged, *_ = sorted((workdir / "samples/0000040-generate").glob("*.mp4"))
    damaged.write_bytes(damaged.read_bytes()[:-1])
    for clip in (workdir / "samples/0000020-generate").glob("*.mp4"):
        clip.unlink()
    write_report(tmp_path / "page.html", [workdir])
    note = capfd.readouterr().err
    assert f"note: the report leaves out a clip: {damaged}: truncated" in note
    assert note.count("\n") == 1
    assert (tmp_path / "page.html").read_text().count("<video") == 1


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(InputError, match="json is missing"):
        write_report(tmp_path / "page.html", [tmp_path])


@pytest.mark.skipif(not CHROMIUM, reason="needs Chromium")
@pytest.mark.parametrize("width", [1200, 360])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_shows_it_without_errors_and_plays_the_videos(pages, scheme, width):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=SWITCHES)
        for page in pages:
            tab = browser.new_page(color_scheme=scheme, viewport={"width": width, "height": 800})
            said = []
            tab.on("console", lambda message, said=said: said.append(message.text))
            tab.on("pageerror", lambda error, said=said: said.append(str(error)))
            tab.goto(page.as_uri())
            tab.wait_for_function(
                "[...document.querySelectorAll('video')].every(v => v.played.length)"
            )
            assert said == []
            assert tab.evaluate("document.documentElement.scrollWidth") == width
            ink, paper = (
                sum(
                    map(
                        int,
                        re.findall(r"\d+", tab.evaluate(f"getComputedStyle(document.body).{of}"))[
                            :3
                        ],
                    )
                )
                for of in ("color", "backgroundColor")
            )
            assert (ink > paper) == (scheme == "dark")
            tab.keyboard.press("Tab")
            assert tab.evaluate("document.activeElement.tagName") == "A"
        browser.close()
