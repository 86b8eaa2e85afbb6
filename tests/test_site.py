"""The site of docs/, as MkDocs builds it."""

import os
import re
import subprocess
import sys

import pytest

from jaxvid.build import default_config
from jaxvid.diffusion.loss import WEIGHTINGS
from jaxvid.diffusion.noise import DISTRIBUTIONS
from jaxvid.diffusion.process import PREDICTIONS, PROCESSES
from jaxvid.diffusion.sampler import SAMPLERS
from jaxvid.diffusion.schedule import SPACINGS
from tests.commands import ROOT


@pytest.mark.thorough
def test_the_site_has_no_dead_links_and_asks_no_other_server(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", f"--site-dir={tmp_path}"],
        cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    pages = {path.relative_to(tmp_path).parts[0]: path for path in tmp_path.glob("*/index.html")}
    assert pages.keys() >= {path.stem for path in (ROOT / "docs").glob("*.md")}
    for path in [tmp_path / "index.html", *pages.values()]:
        text = path.read_text()
        assert not re.findall(r'<(?:script|img|link)[^>]*(?:src|href)="(?:https?:)?//[^"]*"', text)
        links = re.findall(r'<a [^>]*href="([^"#?]*)', text)
        local = [link for link in links if link and "://" not in link]
        assert all((path.parent / link).exists() for link in local), path
    assert "jaxvid.trained.load" in pages["api"].read_text()


def test_the_page_on_diffusion_has_every_key_and_every_choice():
    page = (ROOT / "docs/diffusion.md").read_text()
    for key in default_config().diffusion:
        assert re.search(rf"`[^`]*\b{key}\b[^`]*`", page), key
    tables = {
        "process": PROCESSES, "prediction": PREDICTIONS, "loss_space": PREDICTIONS,
        "weighting": WEIGHTINGS, "noise_distribution": DISTRIBUTIONS, "name": SAMPLERS,
        "spacing": SPACINGS,
    }  # fmt: skip
    for key, choices in tables.items():
        (rows,) = re.findall(rf"^\| `\w+\.{key}` .*\n\|[-|]+\n((?:\|.*\n)+)", page, re.MULTILINE)
        assert re.findall(r"^\| `(\w+)`", rows, re.MULTILINE) == list(choices)
