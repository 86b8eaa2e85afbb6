"""What an installation brings: the package alone, and each library that it imports."""

import ast
import importlib.metadata
import re
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


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


def test_only_jaxvid_is_installed_and_all_of_it():
    find_packages = pytest.importorskip("setuptools").find_namespace_packages
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    found = find_packages(str(ROOT), **project["tool"]["setuptools"]["packages"]["find"])
    folders = {path.parent for path in (ROOT / "jaxvid").rglob("*.py")}
    assert set(found) == {".".join(folder.relative_to(ROOT).parts) for folder in folders}


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
