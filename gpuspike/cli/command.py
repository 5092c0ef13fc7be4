"""What is around the work of every command: its output, and the one line in which it refuses."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from typing import NoReturn

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from gpuspike import plugins, screen
from gpuspike.config.hints import one_line
from gpuspike.config.keys import twice
from gpuspike.errors import ConfigError, GpuspikeError, OutputError

BAD_INPUT = 2
INTERRUPTED = 130


@contextmanager
def command(name: str, what: str) -> Iterator[None]:
    """Ends the program as a command does: 2 and one line for what cannot be, 130 for Ctrl-C.

    Keys that are given twice are noted first.

    Args:
        what: may not fit into memory: "the run".
    """
    screen.open_streams()
    for note in twice(sys.argv[1:]):
        print(f"{name}: note: {screen.line(note)}", file=sys.stderr)
    if "--version" in sys.argv[1:]:
        print(f"{name} {metadata.version('gpuspike')}")
        sys.exit(0)
    try:
        _check_here()
        yield
    except GpuspikeError as error:
        refuse(name, error)
    except (HydraException, OmegaConfBaseException) as error:
        refuse(name, ConfigError(one_line(error)))
    except MemoryError as error:
        refuse(name, too_large(what, error))
    except BrokenPipeError:  # whoever read the output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(BAD_INPUT)
    except OSError as error:
        refuse(name, plugins.blamed(error) or OutputError(in_words(error)))
    except KeyboardInterrupt as stop:
        print(f"{name}: interrupted {screen.line(str(stop))}".rstrip(), file=sys.stderr)
        sys.exit(INTERRUPTED)
    except Exception as error:
        if (told := plugins.blamed(error)) is None:
            raise
        refuse(name, told)


def refuse(name: str, error: GpuspikeError) -> NoReturn:
    """Ends a command with an error in one line."""
    untold = isinstance(error, plugins.FailedError) and not os.environ.get(plugins.TRACEBACK)
    hint = f"; {plugins.TRACEBACK}=1 shows how it came there" if untold else ""
    print(f"{name}: error: {screen.line(str(error))}{hint}", file=sys.stderr)
    sys.exit(BAD_INPUT)


def too_large(what: str, error: MemoryError) -> ConfigError:
    """That something does not fit into memory, with what Python says of it, which may be nothing."""
    return ConfigError(f"{what} does not fit into memory: {error}".removesuffix(": "))


def in_words(error: OSError) -> str:
    """What the system says of a file, and of which."""
    named = [str(name) for name in (error.filename, error.filename2) if name is not None]
    return ": ".join([" and ".join(named), error.strerror or str(error)] if named else [str(error)])


def _check_here() -> None:
    """Raises OutputError where the working folder has been deleted."""
    try:
        os.getcwd()
    except OSError as error:
        raise OutputError(
            f"the working folder must exist, got one that has been deleted: {error.strerror}"
        ) from None
