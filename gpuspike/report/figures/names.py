"""Names of classes in figures: how wide they are, and how long ones are shortened."""

from __future__ import annotations

import functools
import itertools
import warnings
from collections.abc import Sequence

from gpuspike.report.figures.library import lazy_matplotlib
from gpuspike.screen import clean

LONGEST, IN_LEGEND, BESIDE = 40, 20, 16
"""Of a name that a figure shows, in `letters`: at most, in a legend, and beside a panel."""

AVERAGE = 0.56
"""Width of a letter, in sizes of its font: the mean of a to z in Matplotlib's own."""
NO_GLYPH = "Glyph .* missing"
"""What Matplotlib says of a script that its font lacks."""


def as_text(words: str, longest: int = LONGEST) -> str:
    """A user's words for a figure: no mathematics, nothing that a legend would leave out, not endless.

    Args:
        longest: in `letters`; of more, the first two thirds and the last ones stay, in which names often
            differ.
    """
    words = clean(words.encode("utf-8", "replace").decode())
    if letters(words) > longest:
        end = "…" + words[len(words) - _room_for(words[::-1], longest // 3) :]
        words = words[: _room_for(words, longest - letters(end))] + end
    return (" " if words.startswith("_") else "") + words.replace("$", r"\$")


def as_texts(names: Sequence[str], longest: int = LONGEST) -> list[str]:
    """Names of classes, each as `as_text`."""
    return [as_text(name, longest) for name in names]


def letters(words: str) -> float:
    """How wide some words are, in letters of average width: ten W take the place of eighteen."""
    return sum(map(_width, words))


def _room_for(words: str, room: float) -> int:
    """How many characters of some words have room in so many `letters`."""
    return sum(taken <= room for taken in itertools.accumulate(map(_width, words)))


@functools.cache
def _width(letter: str) -> float:
    """Of a character as it will be drawn, that of a box where the font lacks it; a to z are 1 on average."""
    mpl = lazy_matplotlib()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", NO_GLYPH, UserWarning)
        font = mpl.font_manager.FontProperties(size=10)
        width, _, _ = mpl.textpath.text_to_path.get_text_width_height_descent(letter, font, False)
    return width / 10 / AVERAGE


def fonts(words: Sequence[str]) -> tuple[list[str], str]:
    """Families of fonts that have the letters of some words between them, Matplotlib's own first.

    Returns:
        These, and the letters that no installed font has.
    """
    manager = lazy_matplotlib().font_manager
    own = list(lazy_matplotlib().rcParams["font.family"])
    lacking = {ord(letter) for word in words for letter in clean(word) if not letter.isspace()}
    lacking -= set(manager.get_font(manager.findfont(manager.FontProperties())).get_charmap())
    # Those for many scripts, and for one with plain letters, before whatever else has a letter.
    installed = sorted(manager.fontManager.ttflist, key=lambda font: ("Sans" not in font.name, font.name))
    for font in installed if lacking else ():
        try:
            has = lacking & set(manager.get_font(font.fname).get_charmap())
        except (OSError, RuntimeError):  # gone since Matplotlib has listed it
            continue
        if has and "lastresort" not in font.name.lower().replace(" ", ""):  # all of whose letters are boxes
            own.append(font.name)
            lacking -= has
    return own, "".join(map(chr, sorted(lacking)))


def boxes(words: Sequence[str]) -> str:
    """That letters of some words are drawn as boxes, and the way out; "" where a font has them."""
    _, lacking = fonts(words)
    if not lacking:
        return ""
    shown = lacking if len(lacking) <= 6 else f"{lacking[:6]}…"
    return (
        f"no installed font has {shown} of the names of classes, which figures show as boxes: Noto Sans CJK "
        "has those of China, Japan and Korea (apt-get install fonts-noto-cjk), Noto Sans others; "
        f"Matplotlib finds a new font once its list in {lazy_matplotlib().get_cachedir()} is removed"
    )
