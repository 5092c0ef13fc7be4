"""Parts by their names: found, imported late, added, refused."""

from __future__ import annotations

import subprocess
import sys

import pytest

from gpuspike.errors import ConfigError
from gpuspike.registry import Registry


def shapes() -> Registry[type]:
    return Registry("shape", {"array": "numpy:ndarray", "number": "numbers:Number"})


def test_a_part_is_found_by_its_name_and_names_keep_their_order() -> None:
    import numbers

    assert shapes()["number"] is numbers.Number
    assert list(shapes()) == ["array", "number"]
    assert "array" in shapes()
    assert "arrays" not in shapes()


def test_a_part_is_imported_only_when_it_is_asked_for() -> None:
    code = (
        "import sys; from gpuspike.registry import Registry\n"
        "r = Registry('part', {'a': 'colorsys:rgb_to_hls'}); assert 'colorsys' not in sys.modules\n"
        "r['a']; assert 'colorsys' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "arrey",
            r"there are array, number; did you mean array\?",
        ),
        ("circle", "there is no shape 'circle'; there are array, number$"),
        ("", "there is no shape ''"),
        ("a", "there are array, number"),
    ],
)
def test_an_unknown_name_is_refused_with_those_that_there_are(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        shapes()[name]


def test_a_user_s_part_is_added_once_and_replaces_none() -> None:
    class Mine:
        pass

    registry = shapes()
    registry.add("mine", Mine)
    registry.add("mine", Mine)
    assert registry["mine"] is Mine
    assert list(registry) == ["array", "number", "mine"]
    with pytest.raises(ConfigError, match="there is a shape 'array' already"):
        registry.add("array", Mine)
    with pytest.raises(ConfigError, match="the name of a shape must be an identifier, got 'my part'"):
        registry.add("my part", Mine)
