"""What a run hands to its reader: a table for the terminal and a page to keep, without scripts."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from html import escape
from itertools import zip_longest
from pathlib import Path
from typing import Any

from rich.table import Column, Table
from rich.text import Text

from gpuspike.accountant.account import UNKNOWN
from gpuspike.report.captions import CAPTIONS
from gpuspike.report.page import NONE, is_number, picture, readable, section, table, write_page
from gpuspike.report.steps import in_steps_told
from gpuspike.screen import clean

SPLITS = ("train", "validation", "test")
IDEAL = "<p>No chip was emulated: the substrate is ideal.</p>"
PRICED = (
    "<p>No chip was emulated: the substrate is ideal. This is what the chip would have needed, had it made"
    " the network's spikes on the test samples.</p>"
)
UNPRICED = "no total: a price is not known"
CHIP_ROWS = (
    ("setting", "setting", ""),
    ("time_to_decision_s", "time to decision", "s"),
    ("undecided_share", "without a decision", "%"),
    ("tied_share", "decided by a tie, for the lowest class", "%"),
    ("between_steps_share", "decided between two of its time steps", "%"),
    ("in_steps", "with spikes at its time steps", ""),
    ("within", "accuracy, these counted as wrong", "%"),
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
    ("fit_unknown", "room for it", ""),
    ("joined", "circuits joined for a neuron, by layer", ""),
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


def _accuracies(summary: Mapping[str, Any]) -> list[tuple[str, str, str, int]]:
    """Split, mean, standard deviation ("-" for one replica) and replicas, of each known split."""
    rows = []
    for split in SPLITS:
        if part := section(summary, "accuracy", split):
            count = len(part.get("per_replica") or ())
            std = part.get("std") if count > 1 else None
            rows.append((split, readable(part.get("mean"), "%"), readable(std, "%"), count))
    return rows


def _emulator_rows(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    part = section(summary, "emulator")
    wall = readable(seconds := part.get("wall_s"), "s")
    if is_number(seconds) and seconds >= 60:
        wall = "{} min {} s".format(*divmod(round(seconds), 60))
    return [
        ("training", readable(part.get("train_samples_per_s"), "samples/s")),
        ("inference", readable(part.get("inference_samples_per_s"), "samples/s")),
        ("wall time", wall),
        ("backend", readable(part.get("backend"))),
        ("device", readable(part.get("device"))),
        ("training step", _step(part)),
    ]


def _step(emulator: Mapping[str, Any]) -> str:
    """Which one the training had, and why a slow one."""
    reason = emulator.get("step_reason")
    return readable(emulator.get("step")) if reason is None else f"piecewise, since {readable(reason)}"


def _chip_rows(chip: Mapping[str, Any]) -> list[tuple[str, str]]:
    if chip.get("name") is None:
        return []
    values = {**chip, "energy_until_decision_J": section(chip, "until_decision").get("energy_J")}
    if max(chip.get("circuits_per_neuron") or (1,)) > 1:
        values["joined"] = " ".join(map(str, chip["circuits_per_neuron"]))
    if values.get("does_not_fit") == UNKNOWN:
        values["fit_unknown"] = f"unknown: {values.pop('does_not_fit')}"
    for key in ("tied_share", "between_steps_share"):
        if not chip.get(key):
            values.pop(key, None)
    values["in_steps"] = in_steps_told(chip) or None
    if chip.get("undecided_share"):
        values["within"] = chip.get("accuracy")
    slowest = section(chip, "slowest_class")
    if is_number(slowest.get("mean_s")):
        values["slowest"] = f"{slowest.get('class')}, mean {readable(slowest.get('mean_s'), 's')}"
    rows = [
        (name, readable(values.get(key), unit))
        for key, name, unit in CHIP_ROWS
        if key in ALWAYS or values.get(key) is not None
    ]
    return [("chip", str(chip["name"])), *rows]


ROUNDING = 1e-6
"""Percentages and degrees below which a figure is what is left of 0."""


def _substrate_rows(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What the emulated chip did to the network; empty where there was none."""
    part = section(summary, "substrate")
    if not part.get("chip_seeds"):
        return []

    def spread(key: str, unit: str) -> str:
        known = section(part, key)
        mean, std = known.get("mean"), known.get("std")
        if is_number(mean) and abs(mean) < ROUNDING:
            mean = 0.0
        return readable(mean, unit) + (f" ± {readable(std, unit)}" if is_number(std) else "")

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
    known = _accuracies(summary)
    several = any(row[3] > 1 for row in known)
    lines = Table("", "result", *(("std", "replicas") if several else ()), title="Result")
    for split, mean, std, count in known:
        lines.add_row(f"{split} accuracy", mean, *((std, str(count)) if several else ()))
    for rows in (_substrate_rows(summary), _emulator_rows(summary)):
        lines.add_section()
        # A device's name may hold brackets, which a plain string would make markup.
        for name, value in rows:
            lines.add_row(name, Text(clean(value)))
    return lines


def chip_table(chip: Mapping[str, Any]) -> Table | None:
    """What a chip would have needed, for the terminal; None if no chip was accounted for."""
    rows = _chip_rows(chip)
    if not rows:
        return None
    lines = Table("for one classification", Column(Text(clean(rows[0][1]))), title="On the chip")
    for name, value in rows[1:]:
        lines.add_row(name, Text(clean(value)))
    return lines


def _headline(summary: Mapping[str, Any]) -> str:
    """Accuracy, energy and time to decision, each with its evidence, then what the emulation took."""
    tiles = []
    emulated = section(summary, "substrate").get("name") or "ideal"
    seen = "simulated" if emulated == "ideal" else f"simulated, on an emulated {emulated}"
    for split, mean, std, count in _accuracies(summary)[-1:]:  # the others stand below
        band = f" (± {std}, {count} replicas)" if count > 1 else ""
        tiles.append((mean, f"{split} accuracy{band}", seen))
    tiles += _chip_tiles(section(summary, "chip"))
    tiles += [(value, name, "emulation; measured") for name, value in _emulator_rows(summary)[:3]]
    cells = (
        f'<div class="tile"><b>{escape(value)}</b><span>{escape(name)}</span>'
        f'<i class="soft">{escape(evidence)}</i></div>'
        for value, name, evidence in tiles
    )
    return f'<div class="tiles">{"".join(cells)}</div>'


def _chip_tiles(chip: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Value, name and evidence of what the chip would have needed; none without a chip."""
    name = chip.get("name")
    if name is None:
        return []
    joules = chip.get("energy_per_classification_J")
    known = f"simulated; prices {chip.get('evidence') or NONE}"
    time = section(chip, "time_to_decision_s").get("mean")
    grade = f"simulated; chip's times {chip.get('time_evidence') or chip.get('evidence') or NONE}"
    whole, stopping = f"energy per classification on {name}", section(chip, "until_decision").get("energy_J")
    if chip.get("energy_is_the_trials"):
        chips = chip.get("chips_needed") or 1
        whole += ": of the trial, for any network" + (f" on {chips} chips" if chips > 1 else "")
    told = []
    if joules is not None and stopping is not None:  # which tells networks apart
        told = [(readable(stopping, "J"), f"energy on {name} if it stopped at the decision", known)]
    return [
        (readable(joules, "J"), whole, known if joules is not None else UNPRICED),
        *told,
        (readable(time, "s"), f"mean time to decision on {name}", grade),
    ]


def _accuracy(summary: Mapping[str, Any]) -> str:
    known = _accuracies(summary)
    values = [section(summary, "accuracy", row[0]).get("per_replica") or () for row in known]
    losses = [readable(section(summary, "loss", row[0]).get("mean")) for row in known]
    splits = [row[0] for row in known]
    if all(row[3] <= 1 for row in known):
        return table([["accuracy", *(row[1] for row in known)], ["loss", *losses]], ["", *splits])
    rows = [[i, *(readable(v, "%") for v in row)] for i, row in enumerate(zip_longest(*values))]
    rows += [["mean", *(row[1] for row in known)], ["std", *(row[2] for row in known)]]
    rows.append(["mean loss", *losses])
    return table(rows, ["replica", *splits], style="accuracy numbers")


def _chip(summary: Mapping[str, Any]) -> str:
    """The chip's figures, then every number behind them with its evidence."""
    chip = section(summary, "chip")
    # What was emulated: chip["substrate"] of older runs has the preset's name alone, however distorted.
    emulated = section(summary, "substrate").get("name") or chip.get("substrate")
    if chip.get("name") is None:
        return IDEAL if emulated in (None, "ideal") else ""
    text = (PRICED if emulated == "ideal" else "") + table(_chip_rows(chip))
    numbers = section(chip, "numbers")
    if not numbers:
        return text
    rows = [
        (name, _with_unit(entry), entry.get("grade"), entry.get("source"), entry.get("includes", ""))
        for name, entry in numbers.items()
    ]
    return text + table(rows, ["number", "value", "grade", "source", "includes"], style="cards")


def _with_unit(entry: Mapping[str, Any]) -> str:
    """A price as its file writes it, "-" where no figure is known."""
    value, unit = entry.get("value"), str(entry.get("unit"))
    ends = value if isinstance(value, list | tuple) else [value]
    return NONE if value is None else f"{' to '.join(map(str, ends))} {'' if unit == '1' else unit}".rstrip()


def _figures(folder: Path, page: Path, told: Mapping[str, str]) -> str:
    """Every PNG of the folder, those that have captions first and in their order."""
    known = [path for name in told if (path := folder / f"{name}.png").is_file()]
    shown = [
        picture(path, told.get(path.stem, path.stem.replace("_", " ")), page, number)
        for number, path in enumerate(known + sorted(set(folder.glob("*.png")) - set(known)), 1)
    ]
    return f'<div class="figures">{"".join(shown)}</div>' if shown else "<p>No figures.</p>"


FIRST = '<p class="soft">Samples, answers and neurons in the figures are those of the first replica.</p>'

WHILE_TRAINING = (
    '<p class="soft">Train loss and accuracy are means over the epoch, in which weights were still changing'
    " and inputs may have been noisy; those under Accuracy are of the finished network.</p>"
)


def _ending(records: Sequence[Mapping[str, Any]]) -> str:
    """The last record: mean over the replicas and their range."""
    rows: list[tuple[str, str, str]] = []
    for key, value in records[-1].items() if records else ():
        if key == "never_spiking":
            continue  # the figure tells
        unit, name = "%" if key.endswith(("accuracy", "fraction")) else "", key.replace("_", " ")
        layers = {name: value}
        if key == "silent_fraction":
            layers = {f"{name}, layer {k}": entry for k, entry in enumerate(value or (), 1)}
        for label, entry in layers.items():
            replicas = entry if isinstance(entry, list | tuple) else [entry]
            known = [number for number in replicas if is_number(number)]
            mean = sum(known) / len(known) if len(known) > 1 else (*known, *replicas, None)[0]
            span = readable((min(known), max(known)), unit) if len(known) > 1 else ""
            rows.append((label, readable(mean, unit), span))
    if not rows:
        return "<p>No epoch was finished.</p>"
    if any(span for _, _, span in rows):
        return WHILE_TRAINING + table(rows, ["", "mean", "range"])
    return WHILE_TRAINING + table(row[:2] for row in rows)


def _resumed(run: Mapping[str, Any]) -> str | None:
    """After which epochs, when and with which values; None where it was not."""
    known = {one["epoch"]: one for one in run.get("resumptions") or ()}  # older runs tell the epochs alone
    told = []
    for epoch in run.get("resumed") or ():
        one = known.get(epoch, {})
        when, given = one.get("date"), shlex.join(map(str, one.get("given") or ()))
        told.append(f"after epoch {epoch}" + (f", {when}" if when else "") + (f", {given}" if given else ""))
    return "; ".join(told) or None


def _facts(experiment: str, summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What the run is; what an older run does not tell is left out."""
    run, made = section(summary, "run"), section(summary, "provenance")
    epochs = readable(run.get("epochs_done", run.get("epochs")))
    if run.get("epochs_done") not in (None, run.get("epochs")):
        epochs += f" of {readable(run.get('epochs'))}"
    seed, count = made.get("seed"), made.get("replicas")
    seeds = None
    if is_number(seed) and is_number(count):
        seeds = f"{seed}" if count == 1 else f"{seed} to {seed + count - 1}, a replica each"
    overrides = run.get("overrides")
    command = None
    if isinstance(overrides, list):
        command = shlex.join(["gpuspike-train", *map(str, overrides)])
    emulator = section(summary, "emulator")
    step = f"training step {_step(emulator)}" if "step" in emulator else None  # older runs do not tell
    where = [
        readable(run.get("dtype")),
        *(readable(emulator.get(name)) for name in ("backend", "device")),
        step,
    ]
    rows = (
        ("experiment", run.get("experiment") if run.get("experiment") != experiment else None),
        ("network", run.get("network")),
        ("data set", run.get("dataset")),
        ("trained", f"{epochs} epochs, {', '.join(part for part in where if part)}"),
        ("seeds" if count != 1 else "seed", seeds),
        ("begun", run.get("date")),
        ("resumed", _resumed(run)),
        ("command", command),
    )
    return [(name, str(value)) for name, value in rows if value is not None]


def write_report(
    folder: Path,
    experiment: str,
    summary: Mapping[str, Any],
    records: Sequence[Mapping[str, Any]],
    config_yaml: str,
    told: Mapping[str, str] = CAPTIONS,
) -> Path:
    """Writes folder/report.html, whole or not at all.

    Args:
        folder: of the run; its figures/*.png go into the page.
        summary: what summary.json holds; accuracies in 0..1.
        records: one an epoch; the last of them tells how the run ended.
        told: captions of the figures, by name.
    """
    run, path = section(summary, "run"), Path(folder, "report.html")
    notice = "The run was interrupted: these are the numbers it had reached by then."
    made = [
        (name, value) for name, value in section(summary, "provenance").items() if value not in (None, [])
    ]
    sections = {
        "Accuracy": _accuracy(summary),
        "Figures": ("" if section(summary, "provenance").get("replicas") in (None, 1) else FIRST)
        + _figures(Path(folder, "figures"), path, told),
        "Substrate": table(_substrate_rows(summary)) if _substrate_rows(summary) else "",
        "Chip": _chip(summary),
        "Last epoch": _ending(records),
        "Provenance": table(made),
        "Configuration": f"<details><summary>config.yaml</summary><pre>{escape(config_yaml)}</pre></details>",
    }
    parts = (f"<section><h2>{name}</h2>\n{text}</section>" for name, text in sections.items() if text)
    title = str(run.get("name") or experiment)
    body = f"""<h1>{escape(title)}</h1>
{table(_facts(title, summary))}
{f'<p class="notice">{notice}</p>' if run.get("interrupted") else ""}
{_headline(summary)}
{"".join(parts)}"""
    return write_page(path, f"{title} - gpuspike", body)
