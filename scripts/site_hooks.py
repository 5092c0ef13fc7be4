"""What MkDocs needs beside docs/ to make the site: pages from elsewhere, and links that lead out of docs/.

`mkdocs.yml` names this file. Pages link as the files of the repository lie, which is how GitHub reads them.
On the site

- README.md, CONTRIBUTING.md, SECURITY.md and CHANGELOG.md are pages, too, see `PAGES`;
- `api/ROOM.md`, for every room that the navigation names, shows the docstrings of that room's modules;
- a link to any other file leads to the repository, whose address is `repository-code` in CITATION.cff.
  Without one there is nowhere to lead, and the words stand without a link.
"""

from __future__ import annotations

import ast
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "gpuspike"
PAGES = {
    "index.md": "README.md",
    "contributing.md": "CONTRIBUTING.md",
    "security.md": "SECURITY.md",
    "changelog.md": "CHANGELOG.md",
}
"""Pages of the site that stand outside of docs/, and where."""

INNER = ("kernels/cpu", "kernels/cuda", "kernels/reference")
"""Folders whose door is shown, and no more: what is behind them may change with every version."""

_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\(([^()\s#]+)(#[^()\s]*)?\)")


# ---- events of MkDocs


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Tells the theme where the repository is, if that is known."""
    if address := repository():
        config.repo_url, config.repo_name = address, address.rpartition("/")[2]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that docs/ does not have."""
    from mkdocs.structure.files import File

    made = {page: (ROOT / source).read_text(encoding="utf-8") for page, source in PAGES.items()}
    made |= {page: reference(room) for page, room in rooms(config.nav).items()}
    for page, text in made.items():
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turns links between files of the repository into links of the site."""
    del files
    return site_links(markdown, page.file.src_uri, config.repo_url)


# ---- what they do


def repository() -> str | None:
    """The repository's address; None: nobody has written it down."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    return citation.get("repository-code")


def named(nav: Any) -> Iterator[str]:
    """Pages that a navigation names, in their order."""
    if isinstance(nav, str):
        yield nav
        return
    for entry in nav.values() if isinstance(nav, dict) else nav:
        yield from named(entry)


def rooms(nav: Any) -> dict[str, str]:
    """Rooms of the package, by the page that shows them."""
    return {page: page[4:-3] for page in named(nav) if page.startswith("api/")}


def modules(room: str) -> list[str]:
    """Full names of a room's modules, its own first; inner ones are left out, and so is what is empty."""
    folder = PACKAGE / room
    if not folder.is_dir():
        return [f"gpuspike.{room}"]
    names = []
    for file in sorted(
        folder.rglob("*.py"), key=lambda file: (len(file.parts), file.name != "__init__.py", file)
    ):
        place = file.relative_to(PACKAGE)
        if file.name != "__init__.py":
            if place.parent.as_posix() not in INNER:
                names.append(".".join(("gpuspike", *place.with_suffix("").parts)))
        elif place.parent.as_posix() != room and has_own_names(file):
            names.append(".".join(("gpuspike", *place.parent.parts)))
    own = [f"gpuspike.{room}"] if has_own_names(folder / "__init__.py") else []
    return own + names


def has_own_names(file: Path) -> bool:
    """Whether a module defines a public function or class, and does not merely hand on others' names."""
    kinds = (ast.FunctionDef, ast.ClassDef)
    body = ast.parse(file.read_text(encoding="utf-8")).body
    return any(isinstance(node, kinds) and not node.name.startswith("_") for node in body)


def reference(room: str) -> str:
    """The page of a room: what it promises, then its modules."""
    folder = PACKAGE / room
    title = f"# gpuspike.{room}\n"
    if folder.is_dir():
        title += (
            "\n"
            + str(ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))))
            + "\n"
        )
    return title + "".join(f"\n::: {name}\n" for name in modules(room))


def site_links(markdown: str, page: str, address: str | None) -> str:
    """A page's text with links as the site needs them.

    Args:
        markdown: the text, its links relative to its place in the repository.
        page: the page's path on the site.
        address: of the repository, None where it is not known.
    """
    pages = {source: name for name, source in PAGES.items()}
    here = posixpath.dirname(PAGES.get(page, f"docs/{page}"))

    def lead(link: re.Match[str]) -> str:
        mark, text, target, anchor = link[1], link[2], link[3], link[4] or ""
        place = posixpath.normpath(posixpath.join(here, target))
        if "://" in target or not (ROOT / place).exists():
            return link[0]
        if place in pages or place.startswith("docs/"):
            there = pages.get(place, place.removeprefix("docs/"))
            return f"{mark}[{text}]({posixpath.relpath(there, posixpath.dirname(page) or '.')}{anchor})"
        return f"[{text}]({address}/blob/HEAD/{place}{anchor})" if address else text

    return _LINK.sub(lead, markdown)
