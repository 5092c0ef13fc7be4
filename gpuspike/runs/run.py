"""One run from configuration to report: glue, in the order in which values flow."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from rich.console import Console

from gpuspike import plugins
from gpuspike.accountant import neurobench
from gpuspike.config.schema import Config, ScheduleName, to_yaml
from gpuspike.errors import OutputError
from gpuspike.network.parameters import Parameters
from gpuspike.report import run_page as report
from gpuspike.report.captions import captions
from gpuspike.report.comparison import of_ties
from gpuspike.report.figures.names import boxes
from gpuspike.report.steps import of_steps
from gpuspike.runs.drawing import draw
from gpuspike.runs.experiment import Experiment, build, new_trainer
from gpuspike.runs.measure import chip_arrays, examine, measure, on_chip, summarize
from gpuspike.runs.memory import keep_freed_memory
from gpuspike.runs.progress import (
    MetricsFile,
    ProgressDisplay,
    plain,
    record_line,
    say_step,
    say_what_runs,
)
from gpuspike.runs.rehearsal import StopRequest, prepare_kernels, rehearse_steps
from gpuspike.runs.tracking import Tracking
from gpuspike.runs.units import unit_note
from gpuspike.screen import LINE, discreet, warn
from gpuspike.store import checkpoint, own_data, own_prices, resume
from gpuspike.store.identity import to_values
from gpuspike.store.provenance import provenance_of
from gpuspike.store.resume import Stopped
from gpuspike.store.run_folder import (
    CHECKPOINT,
    METRICS,
    SUMMARY,
    check_folder,
    claim,
    existing,
    locked,
    release,
    replace_text,
)
from gpuspike.training.evaluation import Labelled
from gpuspike.training.trainer import Trainer

Array = NDArray[Any]


Watch = Callable[[Mapping[str, Any]], None]
"""Called with each new line of metrics.jsonl once it is written; what it raises ends the run there."""


def run(
    config: Config,
    experiment: str,
    folder: Path,
    console: Console,
    overrides: Sequence[str] = (),
    watch: Watch | None = None,
) -> dict[str, Any]:
    """Trains, evaluates, draws and reports.

    Args:
        experiment: its name, for the report.
        folder: where the run is written; must not hold a run.
        overrides: what the command line changed, for the summary.
        watch: follows the epochs.

    Returns:
        The summary that summary.json holds.

    Raises:
        GpuspikeError: bad input, before anything is written.
        KeyboardInterrupt: again, if the run was interrupted before its first epoch was over.
    """
    parts = build(config)
    check_folder(folder)
    before = existing(folder)
    claim(folder, to_yaml(parts.config))
    try:
        with locked(folder), _readable(folder), Tracking(parts.config, console, watch) as tracking:
            return _run(parts, experiment, folder, console, overrides, tracking)
    finally:
        if not any(folder.glob("checkpoint*.npz")):  # nothing is worth keeping
            release(folder, before)


def go_on(
    folder: Path,
    console: Console,
    asked: Config | None = None,
    overrides: Sequence[str] = (),
    begun: tuple[str, Sequence[str]] = ("custom", ()),
    watch: Watch | None = None,
) -> dict[str, Any]:
    """Goes on with the run in a folder, as `run` would have done.

    Args:
        asked, overrides: what a command line asks for; see `resume.read` for what it may change.
        begun: experiment and overrides of a run that was stopped before it could write them down.
        watch: follows the epochs that are left.

    Raises:
        GpuspikeError: bad input, before anything is written.
    """
    with locked(folder), _readable(folder):
        stopped = resume.read(folder, asked, overrides, begun)
        own_data.refuse_others(stopped.config, stopped.data, folder)
        parts, note = resumable(stopped)
        if note:
            warn(note, console)
        with Tracking(stopped.config, console, watch) as tracking:
            return _run(parts, stopped.experiment, folder, console, stopped.overrides, tracking, stopped)


def resumable(stopped: Stopped) -> tuple[Experiment, str]:
    """The parts of a stopped run, with the prices that it has kept, and what its user should know of these.

    Raises:
        GpuspikeError: what was expected, and what was got.
    """
    way = "substrate.prices=FILE"
    prices, note = own_prices.of_run(stopped.config.substrate.prices, stopped.prices, way)
    return build(stopped.config, prices=prices), note


@contextmanager
def _readable(folder: Path) -> Iterator[None]:
    """What the system says about a file, as an error of ours."""
    try:
        yield
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        if told := plugins.blamed(error):
            raise told from None
        raise OutputError(f"cannot write the run to {folder}: {error.strerror or error}") from None


def _run(
    parts: Experiment,
    experiment: str,
    folder: Path,
    console: Console,
    overrides: Sequence[str],
    tracking: Tracking,
    stopped: Stopped | None = None,
) -> dict[str, Any]:
    start, began = time.perf_counter(), time.strftime("%Y-%m-%d %H:%M")
    config = parts.config
    provenance = provenance_of(config)  # now: the code may be another one by the time that training ends
    keep_freed_memory()
    say_what_runs(parts, experiment, folder, console, overrides)
    trainer = new_trainer(parts)
    say_step(trainer.step.kind, console)
    if stopped is None and (lost := unit_note(parts, trainer.weights, overrides)):
        warn(lost, console)
    book: dict[str, Any] = {
        "experiment": experiment,
        "overrides": [discreet(text) for text in overrides],
        "config": to_values(config),
        "seeds": parts.seeds,
        "chip_seeds": parts.chip_seeds,
        "gpuspike": provenance["gpuspike"],
        "git": provenance["git"],
        own_data.DATA: own_data.digests(config),
        own_prices.PRICES: parts.prices.kept(),
        resume.IMAGE: parts.dataset.image_shape,
        "resumed": [],
        "resumptions": [],
        "date": began,
    }
    records: list[dict[str, Any]] = []
    if stopped is not None:
        records = stopped.records
        now = {"epoch": stopped.epoch, "date": began, "given": [discreet(text) for text in stopped.given]}
        book |= {"resumed": [*stopped.resumed, stopped.epoch], "date": stopped.date}
        book |= {"resumptions": [*stopped.resumptions, now]}
        if stopped.epoch == 0:  # nothing was kept: it begins now
            book["date"] = began
        start -= stopped.wall_s
        _restore(trainer, stopped, [book["gpuspike"], book["git"], *config.plugin], folder, console)
    prepare_kernels(parts, console, lambda: rehearse_steps(parts, [parts.prices]))
    data = {
        name: Labelled(
            # Training alone sees the same times often enough for their order to be worth its memory.
            parts.receive(split.features, again=name == "train" and parts.rule.keeps_inputs),
            split.labels,
        )
        for name, split in parts.dataset.splits.items()
    }

    tracking.start(experiment, folder, records)
    records, interrupted = _train(parts, trainer, data, folder, console, records, book, tracking, start)
    if not records:
        raise KeyboardInterrupt("before the first epoch was over; nothing was saved")

    parameters = _kept(folder / CHECKPOINT, parts)
    parts, examined = parts.having(parameters, trainer.examined)
    weights = parameters.weights
    measured = measure(parts, examined, weights, data, "test", [parts.prices])
    results = measured.results
    summary = summarize(parts, experiment, trainer.step.kind, records, measured, interrupted)
    summary |= on_chip(parts, measured, parts.prices) | {"neurobench": neurobench(measured.activity)}
    summary |= {"substrate": examine(parts, examined, weights, data)} | {"provenance": provenance}
    summary["run"] |= {key: book[key] for key in ("overrides", "resumed", "resumptions", "date")}
    with console.status("drawing figures"):
        missing = draw(parts, weights, data["test"], results["test"], records, folder / "figures", summary)
    if lacking := boxes(parts.dataset.class_names):
        warn(lacking, console)
    for name, reason in missing.items():
        warn(f"no figure {name}, the rest of the run is there: {reason}", console)
    summary["emulator"]["wall_s"] = time.perf_counter() - start
    summary = plain(summary)
    replace_text(folder / SUMMARY, json.dumps(summary, indent=2) + "\n")
    plane, names = parts.dataset.plane, parts.dataset.class_names
    ties = summary["chip"].get("tied_share") or 0.0
    told = captions(names, borders=plane is not None and bool(plane.borders), ties=ties)
    report.write_report(folder, experiment, summary, records, discreet(to_yaml(config)), told)
    tracking.finish(summary, folder / "figures", folder / CHECKPOINT)
    console.print(report.final_table(summary))
    if (chip := report.chip_table(summary["chip"])) is not None:
        console.print(chip)
    if note := of_ties(summary["chip"]):
        warn(f"{note}: spikes of one time are told apart by nothing but their class", console)
    if note := of_steps(summary["chip"]):
        warn(f"{summary['chip']['name']}: {note}", console)
    console.print(f"report   {folder / 'report.html'}", **LINE)
    console.print(f"figures  {folder / 'figures'}", **LINE)
    return summary


def _restore(trainer: Trainer, stopped: Stopped, code: list[Any], folder: Path, console: Console) -> None:
    """Takes over a stopped run, and says what its user should know."""
    warnings = [text for text in (stopped.damaged, stopped.doubt) if text]
    if stopped.code not in (None, code):
        warnings.append(
            f"begun with another gpuspike, {stopped.code}, now {code}: results may differ from either's"
        )
    if stopped.name != stopped.config.name:
        warnings.append(f"name={stopped.config.name} is the title from now on, the folder stays {folder}")
    for warning in warnings:
        warn(warning, console)
    if stopped.arrays is not None:
        trainer.restore(stopped.arrays, stopped.epoch)
    resume.prepare(stopped, folder)
    left = stopped.config.training.epochs - stopped.epoch
    longer = stopped.config.optimizer.schedule is not ScheduleName.cosine  # which ends where it was to
    more = "; training.epochs=N adds more" if longer else ""
    to_go = f"{left} to go" if left else f"none to go: evaluated and drawn again{more}"
    console.print(f"resumed  after epoch {stopped.epoch}, {to_go}", **LINE)


def _train(
    parts: Experiment,
    trainer: Trainer,
    data: dict[str, Labelled],
    folder: Path,
    console: Console,
    records: list[dict[str, Any]],
    book: Mapping[str, Any],
    tracking: Tracking,
    start: float,
) -> tuple[list[dict[str, Any]], bool]:
    """Trains and keeps the books; returns the records and whether the user stopped it.

    Args:
        records: of the epochs that were done before.
        book: what every checkpoint says beside the state.
        start: of the run by time.perf_counter, what it took before it was stopped taken off.
    """
    n_epochs = parts.config.training.epochs
    metrics = MetricsFile(folder / METRICS)
    records = list(records)
    chip = chip_arrays(trainer.examined)
    interrupted = False
    with StopRequest() as stop, ProgressDisplay(console, n_epochs) as display:

        def on_batch(done: int, total: int) -> None:
            if stop.asked:
                raise KeyboardInterrupt
            display.batch(trainer.epoch, done, total)

        try:
            for record in trainer.train(data["train"], data["validation"], n_epochs, on_batch):
                line = record_line(record)
                # The line is in the checkpoint too: a run killed between the two writes loses neither.
                header = {**book, "epoch": record.epoch, "record": line}
                header["wall_s"] = time.perf_counter() - start
                checkpoint.save(folder / CHECKPOINT, trainer.state() | chip, header)
                metrics.write(line)
                tracking.log(line)
                records.append(line)
                display.epoch(record)
                if record.warning:
                    warn(record.warning, console)
                if stop.asked:
                    raise KeyboardInterrupt
        except KeyboardInterrupt:
            interrupted = True
    if interrupted and records:
        console.print(f"stopped by the user; epoch {records[-1]['epoch']} is the last one kept")
    return records, interrupted


def _kept(path: Path, parts: Experiment) -> Parameters:
    """What the last full epoch has learnt, from its checkpoint: a stopped run is already within the next."""
    arrays, _ = checkpoint.load(path)
    replicas, dtype = parts.config.replicas, parts.config.dtype.value
    return Parameters.from_arrays(arrays, parts.network.layers, replicas, dtype, str(path), parts.trained)
