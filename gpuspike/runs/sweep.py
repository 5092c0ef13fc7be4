"""Jobs of a sweep: each runs once, however often its sweep is started; a stopped one goes on.

A job says one line on the screen; all that its run says goes to log.txt in its folder.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import IO, Any, cast

from rich.console import Console
from rich.text import Text

from gpuspike import plugins
from gpuspike.config.schema import Config, to_yaml
from gpuspike.errors import DataError, GpuspikeError, OutputError
from gpuspike.reading import text_of
from gpuspike.runs.progress import TimeLeft, duration
from gpuspike.runs.run import go_on, run
from gpuspike.screen import Screen, clean
from gpuspike.store import own_prices
from gpuspike.store.identity import fingerprint
from gpuspike.store.run_folder import (
    CONFIG,
    LOG,
    SUMMARY,
    check_writable,
    existing,
    of_a_run,
    remove_empty,
    replace_text,
    used,
)
from gpuspike.store.sweep_folder import JOBS


def check_sweep(folder: Path) -> None:
    """Makes sure that a sweep can be written to a folder, or go on there, without creating it.

    Raises:
        OutputError: the folder holds runs that are no sweep's, or nothing can be written there.
    """
    check_writable(folder)
    runs = (folder / CONFIG).exists() or any(map(of_a_run, folder.glob(f"*/{CONFIG}")))
    if runs and not (folder / JOBS).is_dir():
        raise OutputError(f"the sweep folder must be new or a sweep's, got {folder}, which holds a run")


def run_once(
    config: Config,
    experiment: str,
    sweep: Path,
    folder: Path,
    console: Console,
    overrides: Sequence[str] = (),
    watch: Callable[[Mapping[str, Any]], None] | None = None,
    *,
    label: str = "",
    of: int | None = None,
    live: bool = True,
    split: str = "test",
) -> dict[str, Any]:
    """Runs a job, goes on with it where it was stopped, or finds that it is finished.

    Args:
        sweep: the sweep's folder.
        folder: the job's, if no other job has been there.
        console: gets a line when the job is over, and warnings.
        watch: called with each new line of metrics.jsonl.
        label: what the job is called on the screen; "": by its folder.
        of: jobs that the sweep will have, where that is known.
        live: whether a terminal shows how far the job has come; not where several jobs share it.
        split: whose accuracy the screen is told.

    Returns:
        The job's summary.

    Raises:
        GpuspikeError: bad input, or a folder that cannot be read or written.
    """
    mark, label = sweep / JOBS / f"{fingerprint(config)}.json", label or f"job {folder.name}"
    entry, asked = _read(mark), folder
    place = sweep / entry["folder"] if entry else folder
    if entry and entry["finished"] and (place / SUMMARY).is_file():
        summary = _summary(place / SUMMARY)
        name = config.substrate.prices
        other = own_prices.of_run(name, own_prices.kept({}, place, name), "")[1]
        then = f", priced by other values than {name} has now" if other else ""
        _say(f"{label}  {_result(summary, split)}finished before{then}: {place}", console)
        return summary
    begun = entry is not None and (place / CONFIG).is_file()
    if not begun and any((folder / name).exists() for name in (CONFIG, SUMMARY)):  # from the sweep before
        folder = folder.with_name(f"{folder.name}-{mark.stem[:8]}")
    if not begun:
        place = folder
    _write(mark, sweep, place, finished=False, of=of)  # also where it had failed
    around, left = existing(place), config.training.epochs
    with (
        used(sweep),
        _Followed(label, left, console, live) as followed,
        _logged(place, around, label, console) as log,
    ):

        def line_by_line(line: Mapping[str, Any]) -> None:
            followed.epoch(line)
            if watch is not None:
                watch(line)

        try:
            if begun:
                summary = go_on(place, log, begun=(experiment, overrides), watch=line_by_line)
            else:
                summary = run(config, experiment, place, log, overrides, watch=line_by_line)
        except OutputError:  # a full disk, or another process is at this job: it has not failed
            raise
        except Exception as error:
            short = isinstance(error, (GpuspikeError, MemoryError))
            why = error if short else plugins.blamed(error)
            if why is None:
                raise
            with suppress(OutputError):
                # It may have no folder, and so no config.yaml.
                about = {"failed": str(why) or "out of memory", "config": to_yaml(config)}
                _write(mark, sweep, place, finished=False, of=of, about=about)
            raise why from None
    words = [_result(summary, split) + duration(summary["emulator"]["wall_s"])]
    if summary["run"]["resumed"]:
        words.append(f"resumed after epoch {summary['run']['resumed'][-1]}")
    if place != asked:
        words.append(f"in {place}")
    if summary["run"]["interrupted"]:
        words.append(f"stopped after epoch {summary['run']['epochs_done']}")
    _say(f"{label}  {', '.join(word for word in words if word)}", console)
    if not summary["run"]["interrupted"]:
        _write(mark, sweep, place, finished=True, of=of)
    return summary


def _say(text: str, console: Console) -> None:
    console.print(text, soft_wrap=True, markup=False, highlight=False)


def _result(summary: Mapping[str, Any], split: str) -> str:
    """An accuracy in a few words, "" where none is known."""
    reached = summary.get("accuracy", {}).get(split, {})
    if not isinstance(reached.get("mean"), float):
        return ""
    spread = "" if reached.get("std") is None else f" ± {100 * reached['std']:.2f}"
    return f"{split} {100 * reached['mean']:.2f}{spread} %, "


class _Followed:
    """How far a job has come: a line that changes on a terminal, elsewhere one every half minute."""

    SECONDS_BETWEEN_LINES = 30.0

    def __init__(self, label: str, n_epochs: int, console: Console, live: bool) -> None:
        self._label, self._console = label, console
        self._left = TimeLeft(n_epochs)
        self._next = time.monotonic() + self.SECONDS_BETWEEN_LINES
        self._status = (
            console.status(Text(clean(f"{label}  begins"))) if live and console.is_terminal else None
        )

    def __enter__(self) -> _Followed:
        if self._status is not None:
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._status is not None:
            self._status.stop()

    def epoch(self, line: Mapping[str, Any]) -> None:
        """A line of metrics.jsonl."""
        told = f"{self._label}  epoch {line['epoch']}/{self._left.n_epochs}{self._left.after(line['epoch'])}"
        now = time.monotonic()
        if self._status is not None:
            self._status.update(Text(clean(told)))
        elif now >= self._next:
            self._next = now + self.SECONDS_BETWEEN_LINES
            _say(told, self._console)


class _Log(io.TextIOBase):
    """A file that begins with its first line; what a user should know goes on to the screen."""

    PASSED_ON = ("warning", "kernels")

    def __init__(self, path: Path, label: str, screen: Console) -> None:
        self._path, self._screen = path, screen
        self._name = label.partition("  ")[0]  # without its values, which its last line has

    def write(self, text: str) -> int:
        """Appends to the file."""
        with open(self._path, "a", encoding="utf-8", errors="replace") as file:
            file.write(text)
        for said in text.splitlines():
            if said.startswith(self.PASSED_ON):
                _say(f"{self._name}  {said}", self._screen)
        return len(text)


@contextmanager
def _logged(place: Path, around: set[Path], label: str, screen: Console) -> Iterator[Console]:
    """A console whose words go to log.txt of a job, which goes again where the job has left nothing else."""
    log = place / LOG
    try:
        yield Screen(file=cast(IO[str], _Log(log, label, screen)), width=100, no_color=True)
    finally:
        if not any(place.glob("checkpoint*.npz")) and not (place / CONFIG).exists():
            with suppress(OSError):
                log.unlink(missing_ok=True)
            remove_empty(place, around)


def _read(mark: Path) -> dict[str, Any] | None:
    try:
        entry = json.loads(text_of(mark))
        folder = PurePosixPath(str(entry["folder"]))
        inside = (mark.parent.parent / folder).resolve().is_relative_to(mark.parent.parent.resolve())
        if folder.is_absolute() or ".." in folder.parts or not folder.parts or not inside:
            raise DataError(f"{mark} must name a folder within its sweep's, got {str(folder)!r}")
        return {"folder": str(folder), "finished": bool(entry["finished"])}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{mark} cannot be read, remove it to run its job again: {error!r}") from None


def _write(
    mark: Path,
    sweep: Path,
    folder: Path,
    finished: bool,
    of: int | None,
    about: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    try:
        mark.parent.mkdir(parents=True, exist_ok=True)
        where = folder.absolute().relative_to(sweep.absolute()).as_posix()
        entry = {"folder": where, "finished": finished} | ({} if of is None else {"of": of}) | dict(about)
        replace_text(mark, json.dumps(entry) + "\n")
    except OSError as error:
        raise OutputError(f"cannot write {mark}: {error.strerror or error}") from None


def _summary(path: Path) -> dict[str, Any]:
    try:
        return json.loads(text_of(path))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
