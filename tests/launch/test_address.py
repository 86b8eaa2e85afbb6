"""launch/address.py on a copy of the files that it changes."""

import re
import shutil
import subprocess
import sys
import tomllib

import nbformat
import pytest

from tests.commands import ROOT

FILES = "README.md", "mkdocs.yml", "pyproject.toml", "launch/address.py", "launch/shared.py"
COLAB = "https://colab.research.google.com/github"


@pytest.fixture
def copy(tmp_path):
    shutil.copytree(ROOT / "colabs", tmp_path / "colabs")
    (tmp_path / "launch").mkdir()
    for file in FILES:
        shutil.copy(ROOT / file, tmp_path / file)
    return tmp_path


def address(copy, *words, expect=0):
    command = [sys.executable, copy / "launch/address.py", *words]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == expect, done.stderr
    return done.stderr if expect else done.stdout


def texts(folder):
    return {path: path.read_text() for path in folder.rglob("*.*") if path.suffix != ".pyc"}


def test_every_notebook_gets_a_badge_and_the_address_it_clones(copy):
    address(copy, "https://github.com/someone/videos.git")
    readme = (copy / "README.md").read_text()
    for path in (copy / "colabs").iterdir():
        link = f"](colabs/{path.name}) [![Open in Colab]("
        assert link in readme
        assert f"]({COLAB}/someone/videos/blob/main/colabs/{path.name})" in readme
        code = "\n".join(cell.source for cell in nbformat.read(path, 4).cells)
        cloned = re.findall(r'^REPOSITORY = "(.*?)"', code, re.MULTILINE)
        assert cloned == ["https://github.com/someone/videos"]
    project = tomllib.loads((copy / "pyproject.toml").read_text())["project"]
    assert project["urls"] == {"Repository": "https://github.com/someone/videos"}
    assert "\nrepo_url: https://github.com/someone/videos\n" in (copy / "mkdocs.yml").read_text()
    assert "which their first cell asks for" not in readme


def test_a_new_address_takes_the_place_of_the_old_one(copy):
    address(copy, "someone/videos")
    once = texts(copy)
    assert address(copy, "someone/videos") == ""
    address(copy, "other/fork", "--branch=develop")
    assert not [path for path, text in texts(copy).items() if "someone/videos" in text]
    assert f"({COLAB}/other/fork/blob/develop/colabs/" in (copy / "README.md").read_text()
    address(copy, "someone/videos")
    assert texts(copy) == once


def test_what_is_no_repository_is_refused_and_a_dry_run_writes_nothing(copy):
    before = texts(copy)
    for wrong in ("someone", "https://gitlab.com/someone/videos", 'a/b"c'):
        assert "is no repository on GitHub: give OWNER/NAME" in address(copy, wrong, expect=2)
    assert "README.md: someone/videos" in address(copy, "someone/videos", "--dry-run")
    assert texts(copy) == before
