"""Both pages in a real browser: no script error or request, nothing too wide for a phone, tables sort."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import test_report
import test_sweep_report
from browser import Browser, chromium

from gpuspike.report import run_page as report
from gpuspike.report.figures import run as plots
from gpuspike.report.page import table, write_page
from gpuspike.report.sweep_page import write_sweep_report

pytestmark = pytest.mark.skipif(
    chromium() is None, reason="needs Chromium: apt-get install chromium, or one of its names on the PATH"
)
PHONE, TABLET, DESK = 390, 800, 1280


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def run_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    records = [test_report.record(epoch=k) for k in (1, 2)]
    plots.save(plots.learning_curves(records), folder / "figures", "learning_curves")
    summary = test_report.summary(chip=test_report.CHIP)
    return report.write_report(folder, "yin_yang", summary, records, "seed: 0\n" * 30 + "key: " + "x" * 200)


@pytest.fixture(scope="module")
def sweep_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sweep_report(test_sweep_report.sweep_of(tmp_path_factory.mktemp("sweep")))[0]


def in_order(browser: Browser) -> list[str]:
    """Jobs from top to bottom of the table."""
    return browser.run("[...document.querySelectorAll('.jobs tbody tr')].map(row => row.dataset.jobs)")


def click(browser: Browser, column: str) -> None:
    """A click on the head of a column."""
    browser.run(
        "[...document.querySelectorAll('.jobs th button')]"
        f".find(button => button.textContent === '{column}').click()"
    )


@pytest.mark.parametrize("width", [PHONE, TABLET, DESK])
@pytest.mark.parametrize("page", ["run_page", "sweep_page"])
def test_a_page_opens_without_errors_requests_or_sideways_scrolling(
    browser: Browser, page: str, width: int, request: pytest.FixtureRequest
) -> None:
    path = request.getfixturevalue(page)
    browser.open(path, width)
    assert browser.errors == []
    assert [url for url in browser.requests if not url.startswith("data:")] == [path.as_uri()]
    assert browser.run("document.documentElement.scrollWidth") <= width
    cut = "[...document.querySelectorAll('.wide, pre')].filter(box => box.scrollWidth > box.clientWidth)"
    assert browser.run(f"{cut}.length") == 0, "a table is cut"
    assert browser.run("[...document.images].every(image => image.naturalWidth > 1)")
    assert browser.run("document.body.innerText.length") > 200


BROKEN = """[...document.querySelectorAll("table td, table th")].flatMap(cell => {
  const walker = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT), broken = [];
  for (let node = walker.nextNode(); node; node = walker.nextNode())
    for (const word of node.data.matchAll(/[A-Za-z0-9]{1,20}/g)) {
      const range = document.createRange();
      range.setStart(node, word.index);
      range.setEnd(node, word.index + word[0].length);
      if (new Set([...range.getClientRects()].map(box => box.top)).size > 1) broken.push(word[0]);
    }
  return broken;
})"""
"""Words of tables that go over lines."""


@pytest.mark.parametrize("page", ["run_page", "sweep_page"])
def test_no_word_of_a_table_is_broken_on_a_phone(
    browser: Browser, page: str, request: pytest.FixtureRequest
) -> None:
    browser.open(request.getfixturevalue(page), PHONE)
    assert browser.run(BROKEN) == []


def test_a_table_that_is_too_wide_scrolls_in_its_place(browser: Browser, tmp_path: Path) -> None:
    rows = [[f"{k}{'x' * 12}" for k in range(12)]]
    browser.open(write_page(tmp_path / "wide.html", "wide", table(rows)), PHONE)
    assert browser.run(BROKEN) == []
    assert browser.run("document.documentElement.scrollWidth") <= PHONE
    assert browser.run("document.querySelector('.wide').scrollWidth") > PHONE


def test_the_table_sorts_by_number_up_and_down_with_the_unknown_last(
    browser: Browser, sweep_page: Path
) -> None:
    browser.open(sweep_page, DESK)
    assert in_order(browser)[:3] == ["1", "2", "4"]  # by what was swept
    click(browser, "job")
    assert in_order(browser) == ["0", "1", "2", "3", "4", "5", "10"]
    click(browser, "test accuracy")
    assert in_order(browser) == ["2", "0", "1", "10", "3", "4", "5"]
    click(browser, "test accuracy")
    assert in_order(browser) == ["10", "1", "0", "2", "3", "4", "5"]
    click(browser, "optimizer.learning_rate")
    assert in_order(browser)[:2] == ["1", "2"]
    click(browser, "energy per classification")
    assert in_order(browser)[:3] == ["1", "10", "0"]
    assert browser.run("document.querySelectorAll('[aria-sort]').length") == 1
    click(browser, "state")
    assert in_order(browser)[0] == "4"
    click(browser, "job")
    assert in_order(browser) == ["0", "1", "2", "3", "4", "5", "10"]
    assert browser.errors == []


def test_pointing_at_a_job_shows_what_it_is(browser: Browser, sweep_page: Path) -> None:
    browser.open(sweep_page, DESK)
    browser.run("document.querySelector('.point.best').scrollIntoView({block: 'center'})")
    place = browser.run(
        "(box => [box.x + box.width / 2, box.y + box.height / 2])"
        "(document.querySelector('.point.best[data-jobs=\"1\"] circle').getBoundingClientRect())"
    )
    browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=place[0], y=place[1])
    told = browser.run("document.getElementById('told').textContent")
    assert told.startswith("job 1: 97.00 ± 1.00 %, energy per classification 100 nJ to 500 nJ")
    assert "optimizer.learning_rate=0.002" in told
    assert browser.run("document.querySelector('tr.shown').dataset.jobs") == "1"
    assert browser.errors == []


def test_a_script_error_would_be_seen(browser: Browser, tmp_path: Path) -> None:
    page = tmp_path / "broken.html"
    page.write_text("<script>nothing.there()</script>")
    browser.open(page)
    assert len(browser.errors) == 1


def test_the_best_run_stands_at_the_top(browser: Browser, sweep_page: Path) -> None:
    browser.open(sweep_page, PHONE, 844)
    told = browser.run("document.querySelector('.winner-card').innerText")
    assert "job 10 test accuracy 99.00 ± 1.00 %" in told
    assert "optimizer.learning_rate=0.02" in told
    assert browser.run("document.querySelector('.winner-card').getBoundingClientRect().bottom") < 844


def test_a_page_that_is_followed_loads_itself_again(browser: Browser, tmp_path: Path) -> None:
    path, _ = write_sweep_report(test_sweep_report.sweep_of(tmp_path), again=0.2)
    browser.open(path, DESK)
    browser.run("window.mark = 1")
    end = time.monotonic() + 10
    while browser.run("window.mark") == 1 and time.monotonic() < end:
        time.sleep(0.1)
    assert browser.run("window.mark") is None
