"""The folder of a run: free or taken, claimed by one process, and gone again if nothing came of it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from gpuspike.errors import OutputError
from gpuspike.strangers import write_new

CONFIG, CHECKPOINT, METRICS, SUMMARY = "config.yaml", "checkpoint.npz", "metrics.jsonl", "summary.json"
LOG = "log.txt"
"""What a job of a sweep has said; a single run says it on the screen."""


def check_folder(folder: Path) -> None:
    """Makes sure that a run can be written to a folder, without creating it.

    Raises:
        OutputError: the folder holds a run already, or nothing can be written there.
    """
    check_writable(folder)
    if (folder / CONFIG).exists() or any(map(of_a_run, folder.glob(f"*/{CONFIG}"))):
        raise _used(folder)


def of_a_run(path: Path) -> bool:
    """Whether a file is there that is a run's configuration; Hydra's own begin with what they take in."""
    try:
        return not any(line.startswith("defaults:") for line in path.read_text("utf-8").splitlines())
    except FileNotFoundError:
        return False
    except (OSError, ValueError):
        return True


def check_writable(folder: Path) -> None:
    """Makes sure that something can be written to a folder, without creating it.

    Raises:
        OutputError: it cannot.
    """
    try:
        ancestor = folder.absolute()
        while not os.path.lexists(ancestor):
            ancestor = ancestor.parent
        if not ancestor.exists():
            raise OutputError(f"the output folder must be writable, got {ancestor}, a link to nowhere")
        with tempfile.TemporaryFile(dir=ancestor):
            pass
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(
            f"the output folder must be writable, got {folder}: {error.strerror or error}"
        ) from None


def reserve(folder: Path) -> Path:
    """Makes a new folder: that one, or one with a number where another run has begun in the same second.

    Raises:
        OutputError: it cannot be made.
    """
    for number in count(2):
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            stem = folder.name if number == 2 else folder.name.rpartition("_")[0]
            folder = folder.with_name(f"{stem}_{number}")
        except OSError as error:
            raise OutputError(f"cannot write the run to {folder}: {error.strerror or error}") from None
    raise AssertionError


def _used(folder: Path) -> OutputError:
    return OutputError(f"the output folder must be new, got {folder}, which holds a run")


def existing(folder: Path) -> set[Path]:
    """Those of a folder and the folders around it that are there."""
    folder = folder.absolute()
    return {place for place in (folder, *folder.parents) if os.path.lexists(place)}


def claim(folder: Path, config: str) -> None:
    """Makes the folder this run's: of two runs that want it, one gets it and the other is refused.

    Raises:
        OutputError: the folder holds a run, or cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / CONFIG, "x", encoding="utf-8") as file:
            file.write(config)
    except FileExistsError:
        raise _used(folder) from None
    except OSError as error:
        raise OutputError(f"cannot write the run to {folder}: {error.strerror or error}") from None


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps other processes from resuming what this one is running; the system frees it even after kill -9.

    Raises:
        OutputError: another process runs there, or there is no such folder.
    """
    try:
        import fcntl
    except ImportError:  # not on Windows
        yield
        return
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise OutputError(f"cannot open the folder {folder}: {error.strerror or error}") from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutputError(f"{folder} is in use by a run that has not ended") from None
        except OSError:
            pass  # some network file systems cannot lock a folder
        yield
    finally:
        os.close(handle)


@contextmanager
def used(folder: Path) -> Iterator[None]:
    """Lets others see, by `in_use`, that something runs in a folder; several processes may do so at once."""
    try:
        import fcntl

        handle = os.open(folder, os.O_RDONLY)
    except (ImportError, OSError):  # who cannot tell is taken for running
        yield
        return
    try:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_SH)
        yield
    finally:
        os.close(handle)


def in_use(folder: Path) -> bool:
    """Whether something runs in a folder; where the system cannot tell, it does."""
    try:
        import fcntl

        handle = os.open(folder, os.O_RDONLY)
    except (ImportError, OSError):
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(handle)
    return False


def refuse_links(folder: Path) -> None:
    """Makes sure that what a run adds to in place lies in its folder, and is no link to elsewhere.

    Raises:
        OutputError: such a link.
    """
    for name in (METRICS, LOG, "figures", "evaluations", "tensorboard", "wandb"):
        if (folder / name).is_symlink():
            raise OutputError(f"{folder / name} must lie in the run's folder itself, got a link to elsewhere")


def replace_text(path: Path, text: str) -> None:
    """Writes a file; whoever reads it finds the old text or the new one, also after a crash."""
    partial = path.with_name(path.name + ".partial")
    try:
        with write_new(partial, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def release(folder: Path, keep: set[Path]) -> None:
    """Removes what a run without a single epoch has written."""
    for tracker in ("wandb", "tensorboard"):
        shutil.rmtree(folder / tracker, ignore_errors=True)
    with suppress(OSError):
        (folder / CONFIG).unlink()
    remove_empty(folder, keep)


def remove_empty(folder: Path, keep: set[Path]) -> None:
    """Removes a folder and the ones around it as far as they are empty and not to be kept."""
    folder = folder.absolute()
    for place in (folder, *folder.parents):
        if place in keep:
            return
        try:
            place.rmdir()
        except OSError:
            return
