"""The page of one evaluation: how right the network is, on how many chips, and what each would need."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from gpuspike.report.comparison import LEGEND, MARKED, NOTES, names_apart, of_chip, time_mark
from gpuspike.report.page import picture, readable, section, table, write_page


def headline(answer: Mapping[str, Any]) -> str:
    """The accuracy of an evaluation in words: of all chips where it asked more than the run's own."""
    split, accuracy = answer["split"], answer["accuracy"]
    if population := section(answer, "population"):
        mean, std = (readable(population[key], "%") for key in ("mean", "std"))
        deviation = "" if population["std"] is None else f" ± {std}"
        count, networks = population["chips"], len(population["per_replica_and_chip"])
        whose = f"{count} chip{'' if count == 1 else 's'}"
        whose = f"{networks} networks on {whose} each" if networks > 1 else whose
        return f"{split} accuracy {mean}{deviation}, mean and deviation of {whose}"
    values = accuracy["per_replica"]
    over = f", mean of {len(values)} replicas" if len(values) > 1 else ""
    return f"{split} accuracy {readable(accuracy['mean'], '%')}{over}"


def population_lines(population: Mapping[str, Any]) -> list[str]:
    """What a population of chips is worth, line by line; of all such chips only where none was trained on."""
    n_chips, each = population["chips"], len(population["per_replica_and_chip"])
    lines = _first_lines(population)
    if _alike(population):
        return lines
    if each > 1:
        lines.append(f"what a share of the chips reaches, on each the mean of the {each} networks:")
    lines += [
        f"{count:>6} of {n_chips} reach {readable(value, '%')}"
        + (f", {share} of all such chips" if share else "")
        for count, value, share in _reached(population)
    ]
    return lines


def _first_lines(population: Mapping[str, Any]) -> list[str]:
    """Those above the yield."""
    n_chips, first = population["chips"], population["first_seed"]
    each = len(population["per_replica_and_chip"])
    lines = [asked_on(first, n_chips) + (f", each with the networks of {each} replicas" if each > 1 else "")]
    lines += _seen_lines(population)
    if _alike(population):
        return [*lines, "these chips answer alike: one is enough"]
    three = ", ".join(f"{key} {readable(population[key], '%')}" for key in ("best", "median", "worst"))
    lines.append(f"of {each * n_chips} pairs of a network and a chip: {three}" if each > 1 else three)
    if population["mean_interval"] and not seen_chips(population):
        low, high = (readable(value, "%") for value in population["mean_interval"])
        lines.append(f"the mean over all such chips lies between {low} and {high}, with 95 %")
    return lines


def _alike(population: Mapping[str, Any]) -> bool:
    each = population["per_replica_and_chip"]
    return population["chips"] > 1 and all(min(own) == max(own) for own in each)


def seen_chips(population: Mapping[str, Any]) -> list[int]:
    """Seeds of those chips that training was on, which an answer from before does not tell."""
    asked = range(population["first_seed"], population["first_seed"] + population["chips"])
    return sorted(set(population.get("trained_on", ())) & set(asked))


def _seen_lines(population: Mapping[str, Any]) -> list[str]:
    """That there are such chips, which are no sample of all of the kind."""
    if not (seen := seen_chips(population)):
        return []
    which = f"{asked_on(seen[0], len(seen))} {'is' if len(seen) == 1 else 'are'}"
    leave = "it" if len(seen) == 1 else "them"
    return [
        f"{which} what training was on, not unseen, and so nothing is told of all such chips: "
        f"chip_seed={seen[-1] + 1} leaves {leave} out"
    ]


def asked_on(first: int, n_chips: int) -> str:
    """Chips by their seeds."""
    return f"chips {first} to {first + n_chips - 1}" if n_chips > 1 else f"chip {first}"


def counted_on(answer: Mapping[str, Any]) -> str:
    """On which chips the spikes were counted that an evaluation of many chips has priced."""
    seeds = section(answer, "substrate")["chip_seeds"]
    which = f"chip {seeds[0]}" if len(seeds) == 1 else f"chips {seeds[0]} to {seeds[-1]}, one a replica"
    return f"accuracy: mean over all chips; spikes, and so times and energies, as counted on {which}"


def _reached(population: Mapping[str, Any]) -> list[tuple[int, float, str]]:
    """The yield without shares that so few chips cannot tell apart; and what is known of all chips."""
    n_chips = population["chips"]
    intervals = {} if seen_chips(population) else section(population, "yield_interval")
    reached = {}
    for share, value in population["yield"].items():
        interval = intervals.get(share)  # which older answers do not have
        told = "" if interval is None else f"{100 * interval[0]:.1f} % to {100 * interval[1]:.1f} %"
        reached[math.ceil(float(share) * n_chips)] = value, told
    most: dict[float, tuple[int, float, str]] = {}  # of what several counts reach, the most chips
    for count, (value, told) in sorted(reached.items(), reverse=True):
        most.setdefault(value, (count, value, told))
    return list(most.values())


def write_evaluation_page(path: Path, answer: Mapping[str, Any], network: str) -> Path:
    """Writes the page beside an answer, whole or not at all.

    Args:
        path: of the answer; its figures begin with its stem.
        answer: what it holds.
        network: its layers, as text.
    """
    population = section(answer, "population")
    body = [
        f"<h1>{escape(network)}: {escape(headline(answer))}</h1>",
        table(_facts(answer)),
        *(f'<p class="notice">{escape(note)}</p>' for note in answer.get("notes", ())),
    ]
    if population:
        tiles = (
            ("mean", "mean"),
            ("std", "deviation"),
            ("median", "median"),
            ("worst", "worst"),
            ("best", "best"),
        )
        body.append(
            '<div class="tiles">'
            + "".join(
                f'<div class="tile"><span>{name}</span><b>{readable(population[key], "%")}</b></div>'
                for key, name in tiles
            )
            + "</div>"
        )
        several = len(population["per_replica_and_chip"]) > 1
        counted = "pairs of a network and a chip" if several else "chips"
        seen = seen_chips(population)
        around = "; around it, for each count, the 95 % interval of the share of all such chips"
        body.append(
            f"<h2>Yield</h2>\n<p>{escape('; '.join(_first_lines(population)))}.</p>"
            + picture(
                path.with_name(f"{path.stem}_yield.png"),
                f"Above: how many {counted} have which accuracy. Below: the share of the chips that reach an"
                " accuracy, on each the mean of its networks (thin lines: one by one)"
                f"{'' if seen else f'{around} (Clopper and Pearson)'}.",
                path,
            )
        )
        rows = [
            (f"{count} of {population['chips']}", readable(value, "%"), *(() if seen else (share,)))
            for count, value, share in _reached(population)
        ]
        reach = "reach, on each the mean of its networks" if several else "reach"
        body.append(table(rows, ["chips", reach, *([] if seen else ["of all such chips, with 95 %"])]))
    body.append(f"<h2>One classification on a chip</h2>\n{_chips(answer)}")
    if population:
        body.append(f'<p class="soft">{escape(counted_on(answer))}</p>')
    body.append(f"<h2>Provenance</h2>\n{table(section(answer, 'provenance').items())}")
    title = f"{answer['split']}, {path.stem} - gpuspike"
    return write_page(path.with_suffix(".html"), title, "\n".join(body))


def _facts(answer: Mapping[str, Any]) -> list[tuple[str, str]]:
    seeds = section(answer, "substrate").get("chip_seeds") or []
    on = str(section(answer, "substrate").get("name"))
    if population := section(answer, "population"):
        on += f", {population_lines(population)[0]}"
    elif seeds:
        on += f", {asked_on(seeds[0], len(seeds))}" + (", one a replica" if len(seeds) > 1 else "")
    samples = answer.get("samples")  # which older answers do not tell, nor date and command
    rows = (
        ("run", f"{answer['run']}, epoch {answer['epoch']}"),
        ("asked on", on),
        ("split", answer["split"] + ("" if samples is None else f", {readable(samples)} samples")),
        ("emulated at", readable(section(answer, "emulator").get("inference_samples_per_s"), "samples/s")),
        ("begun", answer.get("date")),
        ("command", answer.get("command")),
    )
    return [(name, value) for name, value in rows if value is not None]


def _chips(answer: Mapping[str, Any]) -> str:
    rows: list[Sequence[Any]] = []
    chips = list(answer["chips"].values())
    for name, chip in zip(names_apart(chips), chips, strict=True):
        rows.append((name, *of_chip(chip)[1:], "; ".join(filter(None, (of_one(chip) for of_one in NOTES)))))
    head = [
        "chip",
        "accuracy",
        "energy",
        "evidence",
        "stopping at the decision",
        "median latency",
        "samples/s",
    ]
    marked = any(time_mark(chip) for chip in answer["chips"].values())
    foot = "".join(f'\n<p class="soft">{text}</p>' for text in (LEGEND, *([MARKED] if marked else [])))
    return table(rows, [*head, "note"], style="cards") + foot
