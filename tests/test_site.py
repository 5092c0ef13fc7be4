"""The documentation as a site: every page has its place, and links lead somewhere here and on GitHub."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from test_imports import ORDER

ROOT = Path(__file__).parents[1]
DOCS = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))
PAGES = ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", *DOCS]
LINK = re.compile(r"\]\(([^()\s#]*)(?:#([^()\s]*))?\)")

each = pytest.mark.parametrize("page", PAGES)


class Loader(yaml.SafeLoader):
    """Reads mkdocs.yml, whose slugs are a function of a library that need not be here."""


Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)


@pytest.fixture(scope="module")
def hooks(load_script: Callable[[str], ModuleType]) -> ModuleType:
    """scripts/site_hooks.py."""
    return load_script("site_hooks")


@pytest.fixture(scope="module")
def nav() -> Any:
    """The navigation of the site."""
    return yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Loader)["nav"]


def prose(page: str) -> str:
    """A page without its blocks of code."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.sub(r"^```.*?^```\n|^ {4}[^\n]*\n", "", text, flags=re.MULTILINE | re.DOTALL)


def headings(page: str) -> list[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]


def test_the_navigation_names_every_page_once(hooks: ModuleType, nav: Any) -> None:
    named = list(hooks.named(nav))
    assert len(named) == len(set(named))
    made = {*hooks.PAGES, *hooks.rooms(nav)}
    assert set(named) == made | {page.removeprefix("docs/") for page in DOCS}
    assert all((ROOT / source).is_file() for source in hooks.PAGES.values())


def test_the_reference_shows_rooms_and_modules_that_there_are(hooks: ModuleType, nav: Any) -> None:
    for room in hooks.rooms(nav).values():
        assert room in ORDER
        shown = hooks.modules(room)
        assert shown
        for name in shown:
            path = ROOT.joinpath(*name.split("."))
            assert path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()
    assert "gpuspike.kernels.cpu" in hooks.modules("kernels")
    assert "gpuspike.kernels.cpu.sort" not in hooks.modules("kernels")
    assert hooks.reference("neuron").endswith("\n::: gpuspike.neuron\n")
    assert "Files that a run leaves." in hooks.reference("store")


@each
def test_links_lead_to_files_and_headings(page: str) -> None:
    for target, anchor in LINK.findall(prose(page)):
        if "://" in target:
            continue
        path = (ROOT / page).parent / target if target else ROOT / page
        assert path.exists(), f"{page} links to {target}"
        if anchor:
            there = path.resolve().relative_to(ROOT).as_posix()
            assert anchor in headings(there), f"{page} links to #{anchor} of {there}"


@each
def test_a_list_begins_after_an_empty_line(page: str) -> None:
    """GitHub sees a list without one, MkDocs does not."""
    lines = prose(page).splitlines()
    item = re.compile(r" *([-*]|\d+\.) ")
    for before, line in itertools.pairwise(lines):
        if item.match(line):
            assert not before or item.match(before) or before.startswith(" "), f"{page}: {line}"


@pytest.mark.parametrize(
    ("page", "here", "there"),
    [
        ("sweeps.md", "[a](own_data.md#b)", "[a](own_data.md#b)"),
        ("index.md", "[a](docs/house.md) ![b](docs/yin_yang.png)", "[a](house.md) ![b](yin_yang.png)"),
        ("index.md", "[a](CONTRIBUTING.md#b)", "[a](contributing.md#b)"),
        ("house.md", "[a](../README.md), [b](https://hydra.cc)", "[a](index.md), [b](https://hydra.cc)"),
        ("api/store.md", "[a](../house.md) [b](../../README.md)", "[a](../house.md) [b](../index.md)"),
        ("house.md", "[a](nowhere.md)", "[a](nowhere.md)"),  # for MkDocs to refuse
    ],
)
def test_links_are_turned_into_links_of_the_site(page: str, here: str, there: str, hooks: ModuleType) -> None:
    assert hooks.site_links(here, page, None) == there


def test_a_link_out_of_the_documentation_leads_to_the_repository(hooks: ModuleType) -> None:
    text = "see [`conf/`](../conf/config.yaml)."
    assert hooks.site_links(text, "house.md", None) == "see `conf/`."
    there = "see [`conf/`](https://host/a/b/blob/HEAD/conf/config.yaml)."
    assert hooks.site_links(text, "house.md", "https://host/a/b") == there


def test_the_house_shows_every_room_from_the_top() -> None:
    table = re.findall(r"^\| `([a-z]+)/?` \|", prose("docs/house.md"), flags=re.MULTILINE)
    assert table == ORDER[::-1]


@pytest.mark.slow
def test_the_site_can_be_built(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="needs the extra docs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr[-2000:]
    assert "first_spikes" in (tmp_path / "api" / "kernels.html").read_text(encoding="utf-8")
