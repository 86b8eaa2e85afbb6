"""A hook of MkDocs: README.md is the first page, and links out of docs/ become text."""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"(!?)\[((?:[^\[\]]|!\[[^\]]*\]\([^)]*\))*)\]\(([^)\s]+)\)")


def on_files(files: Files, *, config: Any) -> Files:
    """Adds README.md as index.md."""
    text = (ROOT / "README.md").read_text().replace("](docs/", "](")
    files.append(File.generated(config, "index.md", content=text))
    return files


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Files) -> str:
    """Keeps the links of a page that lead to pages, pictures or other sites."""
    known = set(files.src_uris)

    def keep(link: re.Match[str]) -> str:
        target = link[3].partition("#")[0]
        inside = not target or "://" in target or target in known
        return link[0] if inside else link[2]

    return LINK.sub(keep, markdown)
