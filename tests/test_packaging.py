"""What an installation brings: the package with the configs, and each library that it imports."""

import ast
import importlib.metadata
import re
import runpy
import shutil
import subprocess
import sys
import tomllib

import pytest

from jaxvid import start
from tests.commands import ENVIRONMENT, ROOT

CONFIGS = "jaxvid.shipped.configs"


def listed(file):
    lines = (ROOT / file).read_text().splitlines()
    return {
        re.match(r"[\w-]+", line)[0].lower().replace("_", "-")
        for line in lines
        if line[0] not in "-#"
    }


LISTED, OPTIONAL = (
    listed("requirements.txt"),
    listed("requirements-games.txt") | {"apache-beam", "gradio", "IPython", "wandb"},
)


def test_the_package_takes_its_dependencies_from_the_list_that_is_installed():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    dynamic = project["tool"]["setuptools"]["dynamic"]["dependencies"]
    assert dynamic == {"file": "requirements.txt"}
    assert "dependencies" not in project["project"]
    # setuptools refuses a list with options such as -r in it.
    assert not re.search(r"^-", (ROOT / "requirements.txt").read_text(), re.MULTILINE)


def test_only_jaxvid_is_installed_and_all_of_it(monkeypatch):
    given = {}
    monkeypatch.setattr(pytest.importorskip("setuptools"), "setup", given.update)
    monkeypatch.chdir(ROOT)
    runpy.run_path("setup.py")
    folders = {path.parent for path in (ROOT / "jaxvid").rglob("*.py")}
    packages = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    assert set(given["packages"]) == packages | {CONFIGS}
    assert given["package_dir"] == {CONFIGS: "configs"}


@pytest.mark.thorough
def test_an_installed_wheel_has_the_commands_and_the_configs(tmp_path):
    source, tools, installed, empty = (tmp_path / name for name in ("source", "tools", "in", "e"))
    environment = {k: v for k, v in ENVIRONMENT.items() if k != "JAXVID_HUGE_PAGES"}
    empty.mkdir()

    def ends(*words, cwd=empty, path=installed):
        done = subprocess.run(
            [sys.executable, *words], cwd=cwd, env=environment | {"PYTHONPATH": str(path)},
            capture_output=True, text=True,
        )  # fmt: skip
        return done.returncode, done.stdout, done.stderr

    def says(*words, **where):
        code, out, err = ends(*words, **where)
        assert code == 0, out + err
        return out, err

    # A copy, so that no build of before has a part in it.
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    for name in ("jaxvid", "configs"):
        shutil.copytree(ROOT / name, source / name)
    for name in ("pyproject.toml", "setup.py", "requirements.txt", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = "-m", "pip", "install", "--no-deps"
    if ends(*pip, f"--target={tools}", *project["build-system"]["requires"])[0]:
        pytest.skip("no setuptools from the package index")
    build = f"from setuptools import build_meta; build_meta.build_sdist({str(tmp_path)!r})"
    says("-c", build, cwd=source, path=tools)
    (archive,) = tmp_path.glob("*.tar.gz")
    says(*pip, "--no-build-isolation", f"--target={installed}", str(archive), path=tools)

    assert {path.name.partition("-")[0] for path in installed.iterdir()} == {"bin", "jaxvid"}
    shipped = installed.joinpath(*CONFIGS.split("."))
    here, there = (
        {path.name for path in folder.iterdir()} for folder in (ROOT / "configs", shipped)
    )
    assert here - {"__pycache__"} == there - {"__pycache__"}

    command = str(installed / "bin" / "jaxvid")
    out, err = says(command, "train", "--config=configs/base.py", "--dry_run")
    assert "nothing was trained" in out
    assert (empty / "runs" / "base" / "data.png").exists()
    if start.huge_pages_help(environment):
        assert err == "huge pages: on (JAXVID_HUGE_PAGES=0 turns them off)\n"
    own = (
        "import sys\n\nimport jaxvid\nfrom configs import base\n\n"
        "print(jaxvid.__file__, base.__file__, *sys.path, sep='\\n')\n"
        "get_config = base.get_config\n"
    )
    through = "from configs.own import get_config\n"
    for name, text in {"mine.py": own, "configs/own.py": own, "ours.py": through}.items():
        (empty / name).parent.mkdir(exist_ok=True)
        (empty / name).write_text(text)
        places = says(command, "train", f"--config={name}", "--dry_run")[0].splitlines()
        assert places[:2] == [str(installed / "jaxvid/__init__.py"), str(shipped / "base.py")]
        assert str(ROOT) not in places
        assert places[-1].endswith("nothing was trained")
    code, _, err = ends("-m", "jaxvid", "sample", "--cascade=configs/cascade.py")
    assert code == 1
    assert "runs/cascade-outline has no checkpoint" in err


def test_what_is_imported_is_listed_and_what_is_listed_is_imported():
    imported = set()
    for path in (ROOT / "jaxvid").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(node.module.partition(".")[0])
    imported -= {"jaxvid"} | set(sys.stdlib_module_names)
    assert {name.replace("-", "_") for name in OPTIONAL} <= imported
    imported -= {name.replace("-", "_") for name in OPTIONAL}
    brought = importlib.metadata.packages_distributions()
    needed = {module: {d.lower().replace("_", "-") for d in brought[module]} for module in imported}
    assert not [module for module in imported if not needed[module] & LISTED]
    assert not LISTED - set.union(*needed.values())
