"""What a run hands to its reader: a table for the terminal and a page to keep.

The page is one file without scripts, links or outside requests, for a phone or a printer too.
"""

from __future__ import annotations

import base64
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from itertools import zip_longest
from numbers import Integral, Real
from pathlib import Path
from typing import Any, TypeGuard

from rich.table import Column, Table
from rich.text import Text

NONE = "-"
SPLITS = ("train", "validation", "test")
IDEAL = "<p>No chip was emulated: the substrate is ideal.</p>"
PRICED = (
    "<p>No chip was emulated: the substrate is ideal. This is what the chip would have needed, had it made"
    " the network's spikes on the test samples.</p>"
)
CAPTIONS = {
    "learning_curves": "Error, loss, silent neurons of each layer and steps with raised weights,"
    " epoch by epoch: mean over the replicas, and the band from the lowest to the highest.",
    "yin_yang_plane": "Answers of the network over the plane, with the true boundaries. Dots are"
    " test samples in the colour of their class; rings mark the misclassified.",
    "confusion_matrix": "Test samples by class and answer of the network; the mistakes are shaded by"
    " their number, answers without an output spike are under none.",
    "misclassified": "Misclassified test images, each under its class, with the times of the two"
    " earliest output spikes.",
    "spike_time_histograms": "Spike times of the output neurons, one panel for the samples of"
    " each class. The neuron of the class itself is filled: it should be the first.",
    "anytime": "If one stops listening early: the share of test samples that have an answer by then, and the"
    " right one; the energy if every sample ran until then, and if each stopped at its decision.",
    "membrane_traces": "One sample on its way through the network: input spikes, membranes of"
    " the hidden neurons (grey: silent) with their spikes above, membranes of the output.",
}
CHIP_ROWS = (
    ("setting", "setting", ""),
    ("time_to_decision_s", "time to decision", "s"),
    ("undecided_share", "without a decision", "%"),
    ("slowest", "slowest class", ""),
    ("seconds_per_sample", "time per sample", "s"),
    ("samples_per_s", "throughput", "samples/s"),
    ("energy_per_classification_J", "energy per classification", "J"),
    ("energy_until_decision_J", "energy, stopping at the decision", "J"),
    ("energy_terms_J", "energy by term", "J"),
    ("energy_delay_product_Js", "energy x time per sample", "J s"),
    ("refused", "refused", ""),
    ("spikes_per_sample", "spikes per sample", ""),
    ("synaptic_events_per_sample", "synaptic events per sample", ""),
    ("chips_needed", "chips needed, at least", ""),
    ("chip_share", "share of them in use", "%"),
    ("does_not_fit", "does not fit", ""),
    ("emulator_time_ratio", "emulation's time / chip's", ""),
    ("emulator_energy_ratio", "emulation's energy / chip's", ""),
    ("evidence", "evidence", ""),
    ("time_evidence", "evidence for times", ""),
)
DRAWS = (
    ("time_constants_drawn_again", "time constants drawn again"),
    ("neurons_always_on", "neurons always on"),
)
"""Draws that left the physics, shown where there were any."""

ALWAYS = {
    "time_to_decision_s", "seconds_per_sample", "samples_per_s", "energy_per_classification_J",
    "energy_terms_J", "spikes_per_sample", "synaptic_events_per_sample", "evidence",
}  # fmt: skip
"""Rows of a chip that are shown even if there is nothing to show."""
CSS = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #5b6570; --line: #d5dae0; --page: #fff;
  --card: #f4f6f8; --mark: #0072b2; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ec; --soft: #9aa5b1; --line: #3a424b;
  --page: #15181c; --card: #1f242a; --mark: #56b4e9; } }
body { margin: 0 auto; max-width: 58rem; padding: 1.5rem 1rem 3rem; background: var(--page);
  color: var(--ink); font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h2 { margin: 2.2rem 0 .7rem; font-size: 1.15rem; break-after: avoid; }
.soft, figcaption, th { color: var(--soft); } .figures { --least: 22rem; }
.tiles, .figures { display: grid; gap: .8rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, var(--least, 15rem)), 1fr)); }
.tile, .notice, pre { background: var(--card); border-radius: .5rem; padding: .7rem .9rem; }
.tile b { display: block; font-size: 1.35rem; line-height: 1.3; color: var(--mark); }
.tile span, figcaption, pre { font-size: .87rem; }
.wide, pre { overflow-x: auto; overflow-wrap: normal; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92rem; }
th, td { padding: .25rem 1.1rem .25rem 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--line); font-weight: inherit; }
.accuracy tr:nth-last-child(-n+3), .notice { font-weight: 600; }
img { width: 100%; box-sizing: border-box; background: #fff; border-radius: .4rem; padding: .4rem; }
figure, tr, .tile { break-inside: avoid; margin: 0; }
@media print { :root { color-scheme: light; --ink: #000; --soft: #444; --line: #bbb; --page: #fff;
  --card: #fff; --mark: #000; } body { padding: 0; font-size: 10pt; }
  pre { white-space: pre-wrap; } }
"""


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def readable(value: Any, unit: str = "") -> str:
    """A value for a reader: four digits at most, small seconds and joules in ms, µJ and so on.

    A sequence is a band from low to high, a mapping lists its entries, None and nan are "-".
    """
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {readable(entry, unit)}" for key, entry in value.items()) or NONE
    if isinstance(value, list | tuple):
        return " to ".join(dict.fromkeys(readable(entry, unit) for entry in value)) or NONE
    if not _is_number(value):
        return NONE if value is None or isinstance(value, Real) else str(value)
    if unit == "%":
        return f"{100 * value:.2f} %"
    if unit in ("s", "J", "J s") and 0 < abs(value) < 1:
        step = min(4, math.ceil(-math.log10(abs(value)) / 3))
        return f"{value * 1000**step:.4g} {'mµnp'[step - 1]}{unit}"
    digits = ",.0f" if isinstance(value, Integral) or abs(value) >= 1000 else ".4g"
    return f"{value:{digits}} {unit}".rstrip()


def _part(summary: Mapping[str, Any], *keys: str) -> Mapping[str, Any]:
    """The mapping under `keys`, empty where there is none."""
    for key in keys:
        summary = summary.get(key) or {}
    return summary


def _accuracies(summary: Mapping[str, Any]) -> list[tuple[str, str, str, int]]:
    """Split, mean, standard deviation ("-" for one replica) and replicas, of each known split."""
    rows = []
    for split in SPLITS:
        if part := _part(summary, "accuracy", split):
            count = len(part.get("per_replica") or ())
            std = part.get("std") if count > 1 else None
            rows.append((split, readable(part.get("mean"), "%"), readable(std, "%"), count))
    return rows


def _emulator_rows(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    part = _part(summary, "emulator")
    wall = readable(seconds := part.get("wall_s"), "s")
    if _is_number(seconds) and seconds >= 60:
        wall = "{} min {} s".format(*divmod(round(seconds), 60))
    return [
        ("training", readable(part.get("train_samples_per_s"), "samples/s")),
        ("inference", readable(part.get("inference_samples_per_s"), "samples/s")),
        ("wall time", wall),
        ("backend", readable(part.get("backend"))),
        ("device", readable(part.get("device"))),
    ]


def _chip_rows(chip: Mapping[str, Any]) -> list[tuple[str, str]]:
    if chip.get("name") is None:
        return []
    values = {**chip, "energy_until_decision_J": _part(chip, "until_decision").get("energy_J")}
    if slowest := _part(chip, "slowest_class"):
        values["slowest"] = f"{slowest.get('class')}, mean {readable(slowest.get('mean_s'), 's')}"
    rows = [
        (name, readable(values.get(key), unit))
        for key, name, unit in CHIP_ROWS
        if key in ALWAYS or values.get(key) is not None
    ]
    return [("chip", str(chip["name"])), *rows]


def _substrate_rows(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What the emulated chip did to the network; empty where there was none."""
    part = _part(summary, "substrate")
    if not part.get("chip_seeds"):
        return []

    def spread(key: str, unit: str) -> str:
        known = _part(part, key)
        std = known.get("std")
        return readable(known.get("mean"), unit) + (f" ± {readable(std, unit)}" if _is_number(std) else "")

    seeds, counts = part["chip_seeds"], {key: part.get(key) for key, _ in DRAWS}
    return [
        ("substrate", f"{part.get('name')}, gradient {part.get('gradient')}"),
        ("chip seeds", f"{seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else str(seeds[0])),
        *((name, readable(counts[key])) for key, name in DRAWS if counts[key]),
        ("test accuracy without it", spread("test_accuracy_without_chip", "%")),
        ("nominal to exact gradient", spread("gradient_angle_degrees", "°")),
    ]


def final_table(summary: Mapping[str, Any]) -> Table:
    """Accuracies and time to solution of a summary.json, for the terminal."""
    table = Table("", "result", "std", "replicas", title="Result")
    for split, mean, std, count in _accuracies(summary):
        table.add_row(f"{split} accuracy", mean, std, str(count))
    for rows in (_substrate_rows(summary), _emulator_rows(summary)):
        table.add_section()
        # A device's name may hold brackets, which a plain string would make markup.
        for name, value in rows:
            table.add_row(name, Text(value))
    return table


def chip_table(chip: Mapping[str, Any]) -> Table | None:
    """What a chip would have needed, for the terminal; None if no chip was accounted for."""
    rows = _chip_rows(chip)
    if not rows:
        return None
    table = Table("for one classification", Column(Text(rows[0][1])), title="On the chip")
    for name, value in rows[1:]:
        table.add_row(name, Text(value))
    return table


def _table(rows: Iterable[Iterable[Any]], head: Sequence[str] = (), style: str = "plain") -> str:
    """An HTML table of escaped cells, None as "-"."""
    lines = ["".join(f"<th>{escape(cell)}</th>" for cell in head)] if head else []
    for row in rows:
        texts = (NONE if cell is None else escape(str(cell)) for cell in row)
        lines.append("".join(f"<td>{text}</td>" for text in texts))
    body = "".join(f"<tr>{line}</tr>\n" for line in lines)
    return f'<div class="wide"><table class="{style}">{body}</table></div>'


def _headline(summary: Mapping[str, Any]) -> str:
    tiles = []
    for split, mean, std, count in reversed(_accuracies(summary)):
        band = f" (± {std}, {count} replicas)" if count > 1 else ""
        tiles.append((mean, f"{split} accuracy{band}"))
    tiles += [(value, name) for name, value in _emulator_rows(summary)[:3]]
    cells = (f"<b>{escape(value)}</b><span>{escape(name)}</span>" for value, name in tiles)
    return '<div class="tiles">' + "".join(f'<div class="tile">{c}</div>' for c in cells) + "</div>"


def _accuracy(summary: Mapping[str, Any]) -> str:
    known = _accuracies(summary)
    values = [_part(summary, "accuracy", row[0]).get("per_replica") or () for row in known]
    rows = [[i, *(readable(v, "%") for v in row)] for i, row in enumerate(zip_longest(*values))]
    rows += [["mean", *(row[1] for row in known)], ["std", *(row[2] for row in known)]]
    losses = (_part(summary, "loss", row[0]).get("mean") for row in known)
    rows.append(["mean loss", *map(readable, losses)])
    return _table(rows, ["replica", *(row[0] for row in known)], style="accuracy")


def _chip(chip: Mapping[str, Any]) -> str:
    """The chip's figures, then every number behind them with its evidence."""
    if chip.get("name") is None:
        return IDEAL
    text = (PRICED if chip.get("substrate") == "ideal" else "") + _table(_chip_rows(chip))
    numbers = _part(chip, "numbers")
    if not numbers:
        return text
    rows = [
        (name, _with_unit(entry), entry.get("grade"), entry.get("source"), entry.get("includes", ""))
        for name, entry in numbers.items()
    ]
    return f"{text}\n<p></p>" + _table(rows, ["number", "value", "grade", "source", "includes"])


def _with_unit(entry: Mapping[str, Any]) -> str:
    """A price as its file writes it, "-" where no figure is known."""
    value, unit = entry.get("value"), str(entry.get("unit"))
    ends = value if isinstance(value, list | tuple) else [value]
    return NONE if value is None else f"{' to '.join(map(str, ends))} {'' if unit == '1' else unit}".rstrip()


def _figures(folder: Path) -> str:
    """Every PNG of the folder as a data URI, those of `CAPTIONS` first and in its order."""
    known = [path for name in CAPTIONS if (path := folder / f"{name}.png").is_file()]
    shown = []
    for path in known + sorted(set(folder.glob("*.png")) - set(known)):
        caption = escape(CAPTIONS.get(path.stem, path.stem.replace("_", " ")))
        data = base64.b64encode(path.read_bytes()).decode("ascii")
        image = f'<img alt="{caption}" src="data:image/png;base64,{data}">'
        shown.append(f"<figure>{image}<figcaption>{caption}</figcaption></figure>")
    return f'<div class="figures">{"".join(shown)}</div>' if shown else "<p>No figures.</p>"


def _ending(records: Sequence[Mapping[str, Any]]) -> str:
    """The last record: mean over the replicas and their range."""
    rows = []
    for key, value in records[-1].items() if records else ():
        unit, name = "%" if key.endswith(("accuracy", "fraction")) else "", key.replace("_", " ")
        layers = {name: value}
        if key == "silent_fraction":
            layers = {f"{name}, layer {k}": entry for k, entry in enumerate(value or (), 1)}
        for label, entry in layers.items():
            replicas = entry if isinstance(entry, list | tuple) else [entry]
            known = [number for number in replicas if _is_number(number)]
            mean = sum(known) / len(known) if len(known) > 1 else (*known, *replicas, None)[0]
            span = readable((min(known), max(known)), unit) if len(known) > 1 else ""
            rows.append((label, readable(mean, unit), span))
    return _table(rows, ["", "mean", "range"]) if rows else "<p>No epoch was finished.</p>"


def write_report(
    folder: Path,
    experiment: str,
    summary: Mapping[str, Any],
    records: Sequence[Mapping[str, Any]],
    config_yaml: str,
) -> Path:
    """Writes folder/report.html, whole or not at all.

    Args:
        folder: of the run; its figures/*.png go into the page.
        summary: what summary.json holds; accuracies in 0..1.
        records: one an epoch; the last of them tells how the run ended.
    """
    run, chip = _part(summary, "run"), _part(summary, "chip")
    facts = [f"{readable(run.get('epochs'))} epochs", readable(run.get("dtype"))]
    facts += [value for _, value in _emulator_rows(summary)[3:]]
    notice = "The run was interrupted: these are the numbers it had reached by then."
    sections = {
        "Accuracy": _accuracy(summary),
        "Substrate": _table(_substrate_rows(summary)) if _substrate_rows(summary) else "",
        "Chip": _chip(chip),
        "Figures": _figures(Path(folder, "figures")),
        "How it ended": _ending(records),
        "Configuration": f"<pre>{escape(config_yaml)}</pre>",
        "Provenance": _table(_part(summary, "provenance").items()),
    }
    parts = (f"<section><h2>{name}</h2>\n{text}</section>" for name, text in sections.items() if text)
    page = f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(experiment)} - gpuspike</title>
<style>{CSS}</style></head>
<body><h1>{escape(experiment)}</h1>
<p class="soft">{escape(", ".join(facts))}</p>
{f'<p class="notice">{notice}</p>' if run.get("interrupted") else ""}
{_headline(summary)}
{"".join(parts)}
</body></html>
"""
    path, temporary = Path(folder, "report.html"), Path(folder, f".report.html.{os.getpid()}.tmp")
    try:
        temporary.write_text(page, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path
