"""Jobs of a sweep: each runs once, however often its sweep is started; a stopped one goes on."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from gpuspike.config.schema import Config
from gpuspike.errors import DataError, OutputError
from gpuspike.runs.run import go_on, run
from gpuspike.store.identity import fingerprint
from gpuspike.store.run_folder import CONFIG, SUMMARY, check_writable, replace_text
from gpuspike.store.sweep_folder import JOBS


def check_sweep(folder: Path) -> None:
    """Makes sure that a sweep can be written to a folder, or go on there, without creating it.

    Raises:
        OutputError: the folder holds runs that are no sweep's, or nothing can be written there.
    """
    check_writable(folder)
    runs = (folder / CONFIG).exists() or any(folder.glob(f"*/{CONFIG}"))
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
) -> dict[str, Any]:
    """Runs a job, goes on with it where it was stopped, or finds that it is finished.

    Args:
        sweep: the sweep's folder.
        folder: the job's, if no other job has been there.
        watch: called with each new line of metrics.jsonl.

    Returns:
        The job's summary.

    Raises:
        GpuspikeError: bad input, or a folder that cannot be read or written.
    """
    mark = sweep / JOBS / f"{fingerprint(config)}.json"
    entry = _read(mark)
    place = sweep / entry["folder"] if entry else folder
    if entry and entry["finished"] and (place / SUMMARY).is_file():
        console.print(f"finished before: {place}", soft_wrap=True)
        return _summary(place / SUMMARY)
    if entry and (place / CONFIG).is_file():
        summary = go_on(place, console, begun=(experiment, overrides), watch=watch)
    else:
        if any((folder / name).exists() for name in (CONFIG, SUMMARY)):  # from the sweep as it was before
            folder = folder.with_name(f"{folder.name}-{mark.stem[:8]}")
        place = folder
        _write(mark, sweep, place, finished=False)
        summary = run(config, experiment, place, console, overrides, watch=watch)
    if not summary["run"]["interrupted"]:
        _write(mark, sweep, place, finished=True)
    return summary


def _read(mark: Path) -> dict[str, Any] | None:
    try:
        entry = json.loads(mark.read_text(encoding="utf-8"))
        return {"folder": str(entry["folder"]), "finished": bool(entry["finished"])}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{mark} cannot be read, remove it to run its job again: {error!r}") from None


def _write(mark: Path, sweep: Path, folder: Path, finished: bool) -> None:
    try:
        mark.parent.mkdir(parents=True, exist_ok=True)
        where = folder.absolute().relative_to(sweep.absolute()).as_posix()
        replace_text(mark, json.dumps({"folder": where, "finished": finished}) + "\n")
    except OSError as error:
        raise OutputError(f"cannot write {mark}: {error.strerror or error}") from None


def _summary(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
