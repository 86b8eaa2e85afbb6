"""The page on which anyone draws, in a browser."""

import shutil
import socket
import subprocess
import sys
import time

import pytest

from tests.commands import ENVIRONMENT, FAST, ROOT, mistakes, run

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
SWITCHES = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]
PLAYS = "[...document.querySelectorAll('video')].map(v => v.readyState >= 2 && v.currentSrc)"


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Where a model's page is served."""
    workdir = tmp_path_factory.mktemp("run")
    run("train", *FAST, f"--workdir={workdir}", "--config.sampler.steps=2")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, "-m", "jaxvid.demo", f"--workdir={workdir}", f"--port={port}"]
    server = subprocess.Popen(words, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.DEVNULL)
    for _ in range(600):
        with socket.socket() as probe:
            if not probe.connect_ex(("127.0.0.1", port)) or server.poll() is not None:
                break
        time.sleep(0.1)
    yield f"http://127.0.0.1:{port}/"
    server.terminate()
    server.wait()


@pytest.mark.thorough
@pytest.mark.skipif(not CHROMIUM, reason="needs Chromium")
def test_a_visitor_draws_draws_anew_and_is_told_of_a_wrong_file(address, tmp_path):
    from playwright.sync_api import sync_playwright

    wrong = tmp_path / "wrong.mp4"
    wrong.write_bytes(b"no video" * 100)
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=SWITCHES)
        tab = browser.new_page()
        elsewhere, said = [], []
        tab.on("request", lambda r: elsewhere.append(r.url) if "://" in r.url else None)
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.goto(address)
        draw = tab.get_by_role("button", name="Draw", exact=True)
        draw.click()
        tab.wait_for_function(f"{PLAYS}.some(Boolean)", timeout=120_000)
        first = tab.evaluate(PLAYS)
        tab.get_by_label("Seed").fill("7")
        draw.click()
        tab.wait_for_function(
            f"s => !{PLAYS}.every(v => s.includes(v))", arg=first, timeout=120_000
        )
        tab.get_by_label("predict", exact=True).check()
        tab.locator("input[type=file]").first.set_input_files(str(wrong))
        tab.wait_for_timeout(1000)
        draw.click()
        tab.get_by_text("not a video").first.wait_for(timeout=60_000)
        browser.close()
    assert said == []
    assert [url for url in elsewhere if not url.startswith((address, "blob:", "data:"))] == []


@pytest.mark.thorough
def test_mistakes_are_one_line():
    mistakes("demo", ([], "give --workdir=DIR"), (["--workdir=no"], "config.json is missing"),
             (["--workdir=no", "--port=0"], "--port=0"))  # fmt: skip
