"""Following a run: what goes wrong with a dashboard is said once and costs the run only that dashboard."""

from __future__ import annotations

import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console

from gpuspike.config.schema import Config
from gpuspike.runs.dashboards import MAKERS, PATIENCE, Tracker, address, epoch_figures, run_id
from gpuspike.screen import LINE, warn


@cache
def unreachable(server: str) -> str | None:
    """Why a server does not answer within `PATIENCE`; None: it does, whatever. Asked once a process.

    A sweep whose server is not there then waits for it once, not with each job.
    """
    found = [f"no answer within {PATIENCE:g} s"]

    def ask() -> None:
        try:
            urllib.request.urlopen(server, timeout=PATIENCE).close()
        except urllib.error.HTTPError:  # an answer too
            found[0] = ""
        except Exception as error:  # what a network comes up with
            found[0] = str(getattr(error, "reason", None) or error)
        else:
            found[0] = ""

    # In a thread: a timeout is that of each piece of an answer, which may come byte by byte.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(PATIENCE)
    return found[0] or None


class Tracking:
    """The chosen tracker, if any, for the time of a run. The first thing that goes wrong is the last."""

    _told: set[str] = set()  # noqa: RUF012
    """Servers of which this process has said that they do not answer."""

    def __init__(
        self, config: Config, console: Console, watch: Callable[[Mapping[str, Any]], None] | None = None
    ) -> None:
        self._config, self._console, self._watch = config, console, watch
        maker = MAKERS.get(config.tracking.name)
        self._tracker = maker() if maker is not None else None

    def start(self, experiment: str, folder: Path, records: Sequence[Mapping[str, Any]]) -> None:
        """Begins to follow a run, after epochs whose lines the tracker gets where it lacks them."""
        config, server = self._config, address(self._config)
        if server is not None and (reason := unreachable(server)) is not None:
            self._tracker = None
            said = f"tracking={config.tracking.name.value} is left out, {server} does not answer: {reason}"
            if server in self._told:
                self._console.print(said, **LINE)
            else:
                warn(f"{said}; metrics.jsonl has all", self._console)
            self._told.add(server)
            return

        def begin(tracker: Tracker) -> None:
            where = tracker.start(config, experiment, folder, run_id(config, folder), len(records))
            known = tracker.known() if records else ()
            for line in records:
                if line["epoch"] not in known:
                    tracker.log(epoch_figures(line), line["epoch"])
            self._console.print(f"tracking {where}", **LINE)

        self._attempt(begin)

    def log(self, line: Mapping[str, Any]) -> None:
        """A line of metrics.jsonl. Who watches may end the run by what it raises."""
        self._attempt(lambda tracker: tracker.log(epoch_figures(line), line["epoch"]))
        if self._watch is not None:
            self._watch(line)

    def finish(self, summary: Mapping[str, Any], figures: Path, checkpoint: Path) -> None:
        """The summary, the folder of the figures, and the checkpoint."""
        pictures = sorted(figures.glob("*.png"))
        self._attempt(lambda tracker: tracker.finish(summary, pictures, checkpoint))

    def __enter__(self) -> Tracking:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._attempt(lambda tracker: tracker.close(error))

    def _attempt(self, action: Callable[[Tracker], None]) -> None:
        if self._tracker is None:
            return
        try:
            action(self._tracker)
        except Exception as error:  # whatever a library, a network or a disk comes up with
            tracker, self._tracker = self._tracker, None
            with suppress(Exception):  # the next job of a sweep must not find it open
                tracker.close(error)
            reason = " ".join(str(error).split()) or type(error).__name__
            name = self._config.tracking.name.value
            left_out = "failed and is left out from here on; metrics.jsonl has all"
            warn(f"tracking={name} {left_out}: {reason}", self._console)
