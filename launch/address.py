#!/usr/bin/env python3
"""Writes the address of this repository on GitHub into all that points to it.

    launch/address.py OWNER/NAME [--branch=main] [--dry-run]

README.md gets a badge for each notebook, which opens it in Colab; the notebooks get the address
that they clone, the package and the site a link. Run it again in a fork, or after a move.
"""

import re
import sys
from pathlib import Path

from shared import parser, refuse

ROOT = Path(__file__).resolve().parents[1]
GITHUB = "https://github.com/"
COLAB = "https://colab.research.google.com/"


def main() -> int:
    arguments = parser(__doc__)
    arguments.add_argument("name", metavar="OWNER/NAME")
    arguments.add_argument("--branch", default="main", help="the branch that Colab opens")
    flags = arguments.parse_args()
    name = flags.name.removeprefix(GITHUB).removesuffix(".git").rstrip("/")
    if not re.fullmatch(r"[\w-]+/[\w.-]+", name):
        refuse(f"{flags.name!r} is no repository on GitHub: give OWNER/NAME")
    texts: dict[str, str] = {}
    for file, pattern, new in changes(name, flags.branch):
        old = texts.get(file) or (ROOT / file).read_text()
        texts[file] = re.sub(pattern, new, old)
    for file, text in texts.items():
        if text != (ROOT / file).read_text():
            print(f"{file}: {name}")
            if not flags.dry_run:
                (ROOT / file).write_text(text)
    return 0


def changes(name: str, branch: str) -> list[tuple[str, str, str]]:
    """File, pattern, and what replaces each match."""
    address = GITHUB + name
    image, page = f"{COLAB}assets/colab-badge.svg", f"{COLAB}github/{name}/blob/{branch}"
    link = r"(\]\((colabs/\w+\.ipynb)\))"
    notebooks = sorted((ROOT / "colabs").glob("*.ipynb"))
    return [
        (
            "README.md",
            link + r"( \[!\[Open in Colab\]\([^)]*\)\]\([^)]*\))?",
            rf"\1 [![Open in Colab]({image})]({page}/\2)",
        ),
        ("README.md", r"\. In Colab: [^|]*\|", " |"),  # how to open them without a badge
        ("mkdocs.yml", r"(repo_url: .*\n)?theme:", f"repo_url: {address}\ntheme:"),
        (
            "pyproject.toml",
            r"(\[project\.urls\]\n.*\n\n)?\[project\.scripts\]",
            f'[project.urls]\nRepository = "{address}"\n\n[project.scripts]',
        ),
        *[
            (f"colabs/{path.name}", r'REPOSITORY = \\"[^"]*"', rf'REPOSITORY = \\"{address}\\"')
            for path in notebooks
        ],
    ]


if __name__ == "__main__":
    sys.exit(main())
