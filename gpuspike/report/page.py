"""What the pages have in common: look, numbers for a reader, tables, and a file that is whole or not there.

A page is one file that asks for nothing from outside, for a phone or a printer too; its content policy
makes the browser refuse whatever would.
"""

from __future__ import annotations

import base64
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from numbers import Integral, Real
from pathlib import Path
from typing import Any, TypeGuard
from urllib.parse import quote

from gpuspike.strangers import write_new

NONE = "-"
CSS = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #5b6570; --line: #d5dae0; --page: #fff;
  --card: #f4f6f8; --mark: #0072b2; --other: #d55e00; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ec; --soft: #9aa5b1; --line: #3a424b;
  --page: #15181c; --card: #1f242a; --mark: #56b4e9; --other: #ff9e57; } }
body { margin: 0 auto; max-width: 58rem; padding: 1.5rem 1rem 3rem; background: var(--page);
  color: var(--ink); font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { line-height: 1.2; margin: .4rem 0; }
h2 { margin: 2.2rem 0 .7rem; font-size: 1.15rem; break-after: avoid; }
.soft, figcaption, th { color: var(--soft); } .figures { --least: 22rem; } a { color: var(--mark); }
.tiles, .figures { display: grid; gap: .8rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, var(--least, 15rem)), 1fr)); }
.figures { gap: 1.6rem 1.2rem; }
.tile, .notice, pre { background: var(--card); border-radius: .5rem; padding: .7rem .9rem; }
.tile b { display: block; font-size: 1.35rem; line-height: 1.3; color: var(--mark); }
.tile span, figcaption, pre { font-size: .87rem; }
.notice, .accuracy tr:nth-last-child(-n+3) { font-weight: 600; }
.tile i { display: block; font-style: normal; font-size: .8rem; }
.wide { margin: .7rem 0; } .wide, pre { overflow-x: auto; } pre { white-space: pre-wrap; }
summary { cursor: pointer; color: var(--mark); }
table { border-collapse: collapse; overflow-wrap: normal; font-size: .92rem;
  font-variant-numeric: tabular-nums; }
th, td { padding: .25rem 1.1rem .25rem 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--line); font-weight: inherit; } td:last-child { padding-right: 0; }
.facts td:first-child { color: var(--soft); } .numbers td { white-space: nowrap; }
.facts td:last-child:nth-child(2) { overflow-wrap: anywhere; } .cards { overflow-wrap: break-word; }
code { font-size: .87rem; } img { display: block; width: 100%; }
figure, tr, .tile { break-inside: avoid; margin: 0; } figure { max-width: 44rem; }
figcaption { margin-top: .3rem; }
figure .open { display: block; cursor: zoom-in; } figure .close { display: none; }
figure:target { position: fixed; inset: 0; z-index: 9; max-width: none; overflow: auto;
  padding: 1rem; background: var(--page); }
figure:target img { width: auto; max-width: 100%; height: calc(100vh - 8rem); object-fit: contain; }
figure:target .close { display: block; position: fixed; top: .5rem; right: 1rem; font-size: 1.2rem; }
@media screen and (prefers-color-scheme: dark) {
  img { filter: invert(1) hue-rotate(180deg); mix-blend-mode: screen; } }
@media screen and (max-width: 46rem) { .cards thead { display: none; }
  .cards, .cards tbody, .cards tr, .cards td { display: block; } .cards td { border: 0; padding: .1rem 0; }
  .cards tr { border-bottom: 1px solid var(--line); padding: .5rem 0; }
  .cards td:empty { display: none; }
  .cards td::before { content: attr(data-label) "\\a0 "; color: var(--soft); } }
@media print { :root { color-scheme: light; --ink: #000; --soft: #444; --line: #bbb; --page: #fff;
  --card: #fff; --mark: #000; --other: #444; } body { padding: 0; font-size: 9pt; max-width: none; }
  .tile { border: 1px solid var(--line); padding: .3rem .6rem; } .wide { overflow: visible; }
  h2 { margin: 1rem 0 .3rem; } .tiles { --least: 11rem; } .figures { --least: 12rem; gap: .5rem 1rem; }
  .tile b { font-size: 1.1rem; } figcaption { font-size: 7pt; } .screen { display: none; }
  table { font-size: 8pt; line-height: 1.3; } th, td { padding: .05rem .8rem .05rem 0; } }
"""


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a value is a finite number; booleans are none."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def readable(value: Any, unit: str = "") -> str:
    """A value for a reader: four digits at most, small seconds and joules in ms, µJ and so on.

    A sequence is a band from low to high, a mapping lists its entries, None and nan are "-".
    """
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {readable(entry, unit)}" for key, entry in value.items()) or NONE
    if isinstance(value, list | tuple):
        return " to ".join(dict.fromkeys(readable(entry, unit) for entry in value)) or NONE
    if not is_number(value):
        return NONE if value is None or isinstance(value, Real) else str(value)
    if unit == "%":
        return f"{100 * value:.2f} %"
    if unit in ("s", "J", "J s") and 0 < abs(value) < 1:
        step = min(4, math.ceil(-math.log10(abs(value)) / 3))
        return f"{value * 1000**step:.4g} {'mµnp'[step - 1]}{unit}"
    digits = ",.0f" if isinstance(value, Integral) or abs(value) >= 1000 else ".4g"
    return f"{value:{digits}} {unit}".rstrip()


def section(summary: Mapping[str, Any], *keys: str) -> Mapping[str, Any]:
    """The mapping under `keys`, empty where there is none."""
    for key in keys:
        inner = summary.get(key)
        summary = inner if isinstance(inner, Mapping) else {}
    return summary


def table(rows: Iterable[Iterable[Any]], head: Sequence[str] = (), style: str = "facts") -> str:
    """An HTML table of escaped cells, None as "-".

    Args:
        head: names of the columns.
        style: "facts", or "cards", whose rows stand column below column where a screen is narrow; with
            "numbers" beside it no cell goes over lines. Only what is longer than a line is broken: a table
            that is too wide scrolls.
    """
    body = ""
    for row in rows:
        texts = [NONE if cell is None else escape(str(cell)) for cell in row]
        labels = [f' data-label="{escape(name)}"' for name in head] or [""] * len(texts)
        cells = (f"<td{label}>{text}</td>" for label, text in zip(labels, texts, strict=False))
        body += f"<tr>{''.join(cells)}</tr>\n"
    names = "".join(f"<th>{escape(name)}</th>" for name in head)
    top = f"<thead><tr>{names}</tr></thead>" if names else ""
    return f'<div class="wide"><table class="{style}">{top}<tbody>{body}</tbody></table></div>'


def picture(path: Path, caption: str, page: Path, number: int = 1) -> str:
    """A PNG as part of a page: it opens large, and links to the PDF of its name where there is one.

    Args:
        page: the file that shows it;  number: its own there.
    """
    name, text = f"figure_{number}", escape(caption)
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    pdf, more = path.with_suffix(".pdf"), ""
    if pdf.is_file():
        place = quote(os.fsencode(os.path.relpath(pdf, page.parent)))
        more = f' <a class="screen" href="{place}">PDF</a>'
    return (
        f'<figure id="{name}"><a class="open" href="#{name}">'
        f'<img alt="{text}" src="data:image/png;base64,{data}"></a>'
        f'<figcaption>{text}{more}</figcaption><a class="close" href="#top">close</a></figure>'
    )


def write_page(path: Path, title: str, body: str, style: str = "", script: str = "") -> Path:
    """Writes a page, whole or not at all.

    Args:
        title: in the browser's tab; escaped here.
        body: HTML.
        style: CSS beside what all pages have.
        script: JavaScript; without one the page may run none.
    """
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    if script:
        policy, script = f"{policy}; script-src 'unsafe-inline'", f"<script>{script}</script>\n"
    page = f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{escape(title)}</title>
<style>{CSS}{style}</style></head>
<body>{body}
{script}</body></html>
"""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        # Half a surrogate pair, which JSON and YAML can hold and UTF-8 cannot, becomes "?".
        with write_new(temporary, "wb") as file:
            file.write(page.encode("utf-8", "replace"))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path
