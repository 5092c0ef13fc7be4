"""What `gpuspike-need` does: asks, says what it finds, and keeps it. Glue."""

from __future__ import annotations

import hashlib
import json
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from gpuspike.config.checks import trained_on
from gpuspike.config.fitting import chip_label
from gpuspike.config.need import NeedConfig
from gpuspike.config.schema import Config
from gpuspike.errors import ConfigError, GpuspikeError, OutputError
from gpuspike.neuron import of_values
from gpuspike.reading import text_of
from gpuspike.report.figures import need as plots
from gpuspike.report.need_page import head_of, how, looks, repeats, rows, write_need_page
from gpuspike.report.sweep_results import as_typed
from gpuspike.runs.bench import Bench, Reached, Training
from gpuspike.runs.drawing import drawn
from gpuspike.runs.need import CONFIDENCE, UNDECIDED, Border, Map, Point, Question, draw_map, search
from gpuspike.runs.progress import duration, plain
from gpuspike.screen import LINE, warn
from gpuspike.store.identity import fingerprint
from gpuspike.store.provenance import provenance_of
from gpuspike.store.run_folder import check_writable, locked, replace_text
from gpuspike.substrate.axes import NAMED, Axis, axis
from gpuspike.substrate.unit import units_of

SEEN = 0.001
"""Share of samples from which on a cost is told."""

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def answer(
    asked: NeedConfig, config: Config, experiment: str, console: Console, overrides: Sequence[str] = ()
) -> dict[str, Any]:
    """Searches, or draws a map, and keeps the answer with its figures and its page.

    Args:
        config: that is trained, or that a finished run was trained with;  experiment: its name.
        overrides: the command line.

    Returns:
        What the file holds.

    Raises:
        GpuspikeError: bad input, before any work, or a folder that cannot be used.
    """
    start = time.perf_counter()
    training = Training.RUN if asked.run else Training(asked.train.value)
    folder = Path(asked.folder or (f"{asked.run}/need" if asked.run else f"outputs/need/{experiment}"))
    run = Path(asked.run) if asked.run else None
    check_writable(folder)
    bench = Bench(config, training, folder, console, run=run, together=asked.replicas)
    if bench.note:
        warn(bench.note, console)
    units = units_of(of_values(config.model))
    axes = [axis(name).in_units(units) for name in asked.distortion]
    bench.check({})
    if run is None and (note := bench.unit_note(overrides, [key for one in axes for key in one.parts])):
        warn(note, console)
    for one in axes:  # what no chip of the kind can have is refused before any work
        try:
            bench.check(one.changes(vars(config.substrate), one.start))
        except GpuspikeError as error:
            if not one.name.startswith("-"):
                raise
            other = one.name.removeprefix("-")
            raise ConfigError(f"distortion={one.name}: {error}; did you mean distortion={other}?") from None
    provenance = provenance_of(config)
    question = Question(asked.accuracy, asked.replicas, asked.seeds, asked.resolution, asked.split.value)
    told: dict[str, Any] = {
        "experiment": experiment,
        "question": vars(question)
        | {"distortion": asked.distortion, "training": training.value, "run": asked.run}
        | {"networks": config.replicas if run else 1}
        | _trained(asked, config),
        "command": shlex.join(["gpuspike-need", *overrides]),
        "confidence": CONFIDENCE,
        "borders": [],
    }
    console.print(how(told | {"map": asked.map}), soft_wrap=True, highlight=False)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write to {folder}: {error.strerror or error}") from None
    figures: dict[str, Callable[[], Figure]] = {}
    with locked(folder), _going_on(folder):
        path = _place(folder / f"{_stem(asked, training)}.json", plain(told["question"]))
        stem = path.stem
        if asked.map:
            found = _map(bench, (axes[0], axes[1]), asked, question, console)
            told["map"] = found.plain()
            figures[f"{stem}_map"] = lambda: plots.pair(
                found.means(),
                found.values,
                question.accuracy,
                (found.axes[0].label, found.axes[1].label),
                question.split,
                found.undecided(),
            )
        for one in () if asked.map else axes:
            added = _added(one, config)
            border = search(bench, one, question, _teller(console, asked.run, f"off{_with(added)}"))
            words = border.told(repeats(asked.run)) + _with(added) + _elsewhere(one, added, border)
            words += border.rises(bench.n_samples(question.split))
            if added and training in (Training.RUN, Training.NONE):  # elsewhere it would take a training
                words += _alone(border, bench.examined({}, question.replicas, question.split), added)
            told["borders"].append(border.plain() | {"told": words})
            figures[f"{stem}_{one.name}"] = lambda border=border: _drawn(border, question)
            _table([border.off, *border.points], words, asked.run, console)
        told |= {"wall_s": time.perf_counter() - start, "provenance": provenance}
        told = plain(told)
        for name, reason in drawn(figures, folder).items():
            warn(f"no figure {name}, the rest of the answer is there: {reason}", console)
        try:
            replace_text(path, json.dumps(told, indent=2) + "\n")
            page = write_need_page(path, told)
        except OSError as error:
            raise OutputError(f"cannot write {path} and its page: {error.strerror or error}") from None
    console.print(f"answer   {path}", **LINE)
    console.print(f"page     {page}", **LINE)
    return told


@contextmanager
def _going_on(folder: Path) -> Iterator[None]:
    """Has Ctrl-C say what is lost: nothing but the seeds that were being computed."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"; what is known is kept in {folder}, the same command goes on") from None


def _map(
    bench: Bench,
    axes: tuple[Axis, Axis],
    asked: NeedConfig,
    question: Question,
    console: Console,
) -> Map:
    names = " ".join(one.name for one in axes)
    first, second = asked.values or (axes[0].grid, axes[1].grid)

    def say(pair: Sequence[float], point: Point) -> None:
        _say(names, point, console, asked.run, " ".join(f"{value:g}" for value in pair))

    found = draw_map(bench, axes, (first, second), question, say)
    table = Table()
    for name in ("", *(f"{value:g}" for value in found.values[0])):
        table.add_column(name, justify="right")
    for value, row in zip(found.values[1], found.points, strict=True):
        marks = {"reached": "", "missed": " -", "undecided": " ?"}
        cells = (
            f"{100 * p.accuracy.mean():.1f}{marks[p.verdict]}" if len(p.accuracy) else p.verdict for p in row
        )
        table.add_row(f"{value:g}", *cells)
    console.print(table)
    console.print(
        f"mean accuracy in %, {axes[0].name} across, {axes[1].name} down: - is certainly below "
        f"{100 * question.accuracy:g} %, ? is undecided",
        soft_wrap=True,
        highlight=False,
    )
    return found


def _added(one: Axis, config: Config) -> dict[str, Any]:
    """What the distortion needs and the chip has not."""
    return {key: value for key, value in one.needs.items() if not vars(config.substrate)[key]}


def _with(added: Mapping[str, Any]) -> str:
    return "".join(f", with {key}={as_typed(value)}" for key, value in added.items())


def _alone(border: Border, without: Reached, added: Mapping[str, Any]) -> str:
    """What the added values cost by themselves, where it is more than a deviation over seeds or chips."""
    mean, off = without.accuracy.mean(), border.off.accuracy.mean()
    if mean - off <= max(without.accuracy.std(ddof=1), border.off.accuracy.std(ddof=1), SEEN):
        return ""
    names = " and ".join(f"{key}={as_typed(value)}" for key, value in added.items())
    return f"; {names} alone has {100 * off:.2f} %, and {100 * mean:.2f} without it"


def _elsewhere(one: Axis, added: Mapping[str, Any], border: Border) -> str:
    """How other values of what was added are looked at, for a reader."""
    unsure = border.off.verdict == UNDECIDED  # whatever the others are
    others = [other.name for other in NAMED.values() if set(other.parts) == set(added) and not unsure]
    return "".join(f"; distortion={one.name},{name} map=true looks at others" for name in others)


def _teller(console: Console, run: str, off: str) -> Callable[[Axis, Point], None]:
    """Says what has just been examined; `off` is the network without the distortion."""
    return lambda one, point: _say(one.name, point, console, run, off if point.value is None else "")


def _drawn(border: Border, question: Question) -> Figure:
    one = border.axis
    return plots.border(border.plain(), question.accuracy, one.label, question.split, whole=one.whole)


def _say(name: str, point: Point, console: Console, run: str, value: str = "") -> None:
    """A line for what has just been examined."""
    value = value or f"{point.value:g}"
    if len(point.accuracy):
        low, high = (100 * end for end in point.interval)
        words = f"{100 * point.accuracy.mean():6.2f} %, {low:.2f} to {high:.2f}"
        seen = looks(point.accuracy.tolist(), repeats(run))
        text = f"{words}, {seen}, {point.verdict}, {'kept' if point.kept else duration(point.seconds)}"
    else:
        text = f"{point.verdict}: {point.reason}"
    console.print(f"{name} {value:10} {text}", soft_wrap=True, highlight=False)


def _table(points: Sequence[Point], told: str, run: str, console: Console) -> None:
    table = Table()
    for name in head_of(run):
        table.add_column(name, justify="left" if name == "verdict" else "right")
    for cells in rows([plain(point.plain()) for point in points]):
        table.add_row(*cells)
    console.print(table)
    console.print(told, soft_wrap=True, highlight=False, style="bold")


def _trained(asked: NeedConfig, config: Config) -> dict[str, Any]:
    """What is asked of which networks on which chips, beside the question's own values."""
    return {
        "map": asked.map,
        "values": asked.values,
        "substrate": chip_label(config.substrate),
        "chip_seed": config.seed if config.chip_seed is None else config.chip_seed,
        "seed": config.seed,
        "epochs": config.training.epochs,
        "n_train": trained_on(config),
        # All of them, but for what only says where and how fast they are computed.
        "configuration": fingerprint(
            config, ("name", "resume", "tracking", "backend", "training.cuda_graph")
        ),
    }


def _stem(asked: NeedConfig, training: Training) -> str:
    """Of an answer's files: what one tells questions apart by first."""
    names = ("map_" if asked.map else "") + "_".join(asked.distortion)
    split = "" if asked.split.value == "test" else f"_{asked.split.value}"
    return f"{names}_{training.value}_{100 * asked.accuracy:g}{split}"


def _place(path: Path, question: Mapping[str, Any]) -> Path:
    """The file of an answer: the plain one, unless another question's answer is there."""
    with suppress(OSError, ValueError, AttributeError, RecursionError):  # not an answer: replaced
        there = json.loads(text_of(path)).get("question", question)
        if there != question:
            digest = hashlib.sha256(json.dumps(question, sort_keys=True).encode()).hexdigest()[:8]
            return path.with_stem(f"{path.stem}_{digest}")
    return path
