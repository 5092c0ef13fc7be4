"""Waiting for jobs on a cluster: one that ends badly costs itself, and whoever waits may go and come back."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus

from gpuspike.errors import OutputError
from gpuspike.reading import text_of
from gpuspike.screen import line
from gpuspike.store.run_folder import replace_text

ALIVE = ("PENDING", "RUNNING", "REQUEUED", "CONFIGURING", "COMPLETING", "SUSPENDED", "RESIZING")
"""States of a job that will still say how it went. Source: slurm.schedmd.com, sacct, "Job state codes"."""
QUEUE = ("squeue", "--me", "--array", "--states=all", "--noheader", "--format=%i|%T|%N")
"""All jobs of this user that the cluster still knows. Source: slurm.schedmd.com, squeue."""
LOOK_AGAIN = 60
"""Seconds after which a job's state is asked for again, at the latest."""


class Awaited:
    """A job that has been submitted; `results` waits for it, and tells of a bad end in one line."""

    def __init__(self, job: Any, number: int, overrides: Sequence[str], all_ids: Sequence[str]) -> None:
        self._job, self._number, self._overrides, self._all_ids = job, number, overrides, all_ids

    def results(self) -> list[Any]:
        """What the job has returned, or that it failed, as Hydra's launchers tell it.

        Raises:
            KeyboardInterrupt: again, with how to cancel the jobs, which run on.
        """
        from submitit.core.utils import FailedSubmissionError, UncompletedJobError

        try:
            return self._job.results()
        except KeyboardInterrupt:
            ids = " ".join(dict.fromkeys(job.partition("_")[0] for job in self._all_ids))
            told = f"jobs run on: scancel {ids} cancels them, the same command waits for them again"
            raise KeyboardInterrupt(told) from None
        except (UncompletedJobError, FailedSubmissionError) as error:
            state, log = str(self._job.state).lower(), self._job.paths.stderr
            reason = str(error).strip().splitlines()[0] if state in ("completed", "unknown") else state
            failed = OutputError(
                f"job {self._number} was {self._job.job_id} on the cluster, which ended without a result "
                f"({reason}): see {log}; the same command goes on with it"
            )
            print(f"gpuspike-train: job {self._number} failed: {line(str(failed))}", file=sys.stderr)
            return [JobReturn(self._overrides, status=JobStatus.FAILED, _return_value=failed)]


@contextmanager
def patient(sweep: Path) -> Iterator[None]:
    """Lets submitit's launchers wait for all jobs of a sweep, those of an earlier command too.

    Raises:
        OutputError: the cluster is not there, or refuses the jobs.
    """
    import submitit
    from submitit.core.utils import FailedJobError, FailedSubmissionError
    from submitit.slurm.slurm import SlurmJob

    given, watcher, notes = submitit.AutoExecutor, SlurmJob.watcher, sweep / ".submitit" / "jobs.json"

    class Executor(given):
        def map_array(self, function: Any, *columns: Any) -> list[Any]:  # type: ignore[override]
            rows = {" ".join(sorted(row[0])): row for row in zip(*columns, strict=True)}
            running = _running(notes)
            jobs = {key: running[key] for key in rows if key in running}
            new = {key: row for key, row in rows.items() if key not in jobs}
            if new:
                made = super().map_array(function, *zip(*new.values(), strict=True))
                jobs |= dict(zip(new, made, strict=True))
            told = {key: [str(job.job_id), str(job.paths.folder)] for key, job in (running | jobs).items()}
            replace_text(notes, json.dumps(told) + "\n")
            ids = [str(job.job_id) for job in jobs.values()]
            return [Awaited(jobs[key], row[2], row[0], ids) for key, row in rows.items()]

    submitit.AutoExecutor, SlurmJob.watcher = Executor, _watcher()
    try:
        yield
    except (FailedJobError, FailedSubmissionError) as error:
        raise OutputError(f"the cluster refuses the jobs: {_last_line(error)}") from None
    except RuntimeError as error:
        if "slurm" not in str(error).lower():
            raise
        raise OutputError(f"no cluster takes jobs here: {_last_line(error)}") from None
    finally:
        submitit.AutoExecutor, SlurmJob.watcher = given, watcher


def _watcher() -> Any:
    """Asks for the states of jobs as submitit does, of squeue where the cluster keeps no accounts for sacct.

    Otherwise a job that is cancelled there would be waited for without end.
    """
    from submitit.slurm.slurm import SlurmInfoWatcher

    class Watcher(SlurmInfoWatcher):
        def update(self) -> None:
            command, waiting = self._make_command(), self._registered - self._finished
            if command is None:
                return
            self._num_calls += 1
            told = _output(command)
            if told is not None:
                self._info_dict.update(self.read_info(told))
            elif (told := _output(QUEUE)) is not None:
                listed = self.read_info(f"JobID|State|NodeList\n{told}")
                gone = {name: {"JobID": name, "State": "COMPLETED"} for name in waiting}
                self._info_dict.update({name: listed.get(name, gone[name]) for name in waiting})
            self._last_status_check = time.time()
            self._finished |= {name for name in waiting if self.is_done(name, mode="cache")}

    return Watcher(delay_s=LOOK_AGAIN)


def _output(command: Sequence[str]) -> str | None:
    """What a program says; None where it fails, or is not there."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None


def _running(notes: Path) -> dict[str, Any]:
    """Jobs that an earlier command has submitted and that have not ended, by their overrides."""
    from submitit.slurm.slurm import SlurmJob

    try:
        known = {str(key): (str(one), str(place)) for key, (one, place) in json.loads(text_of(notes)).items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}
    jobs = {key: SlurmJob(folder=place, job_id=one, tasks=[0]) for key, (one, place) in known.items()}
    return {key: job for key, job in jobs.items() if _alive(job)}


def _alive(job: Any) -> bool:
    try:
        return str(job.watcher.get_state(job.job_id, mode="force")) in ALIVE
    except Exception:  # a cluster that does not say is asked to run the job again
        return False


def _last_line(error: Exception) -> str:
    lines = [text.strip() for text in str(error).splitlines() if text.strip()]
    return line(lines[-1]) if lines else type(error).__name__
