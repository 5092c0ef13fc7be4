"""What pip is told, as options of uv."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts/uv_options.py"


@pytest.fixture
def options() -> Callable[[str], list[str]]:
    """That function of the script."""
    return runpy.run_path(str(SCRIPT))["options"]


@pytest.mark.parametrize(
    ("told", "given"),
    [
        ("", []),
        (":env:.default-timeout='180'\nglobal.cert='/etc/ssl/x.crt'", []),
        ("global.index-url='https://one/simple'", ["--index-url=https://one/simple"]),
        (
            "user.extra-index-url='https://a/simple https://b/simple'",
            [
                "--extra-index-url=https://a/simple",
                "--extra-index-url=https://b/simple",
                "--index-strategy=unsafe-best-match",
            ],
        ),
        ("site.find-links='\\n/a\\n/b'", ["--find-links=/a", "--find-links=/b"]),
        (":env:.constraint='/etc/pip/constraints.txt'", ["--constraint=/etc/pip/constraints.txt"]),
    ],
)
def test_what_pip_is_told_is_told_to_uv(
    told: str, given: list[str], options: Callable[[str], list[str]]
) -> None:
    assert options(told) == given


@pytest.mark.parametrize("told", ["global.proxy='http://p:1'", ":env:.no-index='1'", "user.trusted-host='h'"])
def test_what_uv_cannot_be_told_leaves_it_to_pip(told: str, options: Callable[[str], list[str]]) -> None:
    with pytest.raises(ValueError, match="uv cannot be told pip's"):
        options(told)
