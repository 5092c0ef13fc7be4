"""What clusters, odd machines and strangers do to a run: kills, full disks, servers, damaged files.

    python scripts/torture.py [--only WORD] [--short] [--minutes 15] [--jobs 2] [--hang 60]

Drives the installed commands. A case is data: what is prepared, what is run, and what must hold afterwards.
Whatever the case, a command must end within a minute, with 0, 2 (and a line that says why) or 130, never with
a traceback, and what it had finished must still be there. Prints one table: tried, held, lost; returns 1 if
any was lost.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from gpuspike.backend import usable_cores

SIZES = ("dataset.n_train=300", "dataset.n_validation=100", "dataset.n_test=100", "backend=cpu")
RUN = ("train", *SIZES, "training.epochs=2", "hydra.run.dir=run")
LONG = ("train", *SIZES, "training.epochs=60", "hydra.run.dir=run")
SWEEP = ("train", "-m", *SIZES, "training.epochs=2", "seed=0,1", "hydra.sweep.dir=swept")
HANG = 60.0
"""Seconds after which a command is taken for stuck, on a quiet machine; kernels are compiled before."""
# Gives the program that follows files of at most so many bytes, with an error in place of a signal.
LIMITED = """import os, resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
os.execvp(sys.argv[2], sys.argv[2:])"""


@dataclass(frozen=True)
class Case:
    """One thing that is done to one command.

    Attributes:
        kind: of the thing, by which the table counts.
        words: the command without gpuspike-, and its arguments.
        prepare: makes the folder ready that the command runs in.
        environment: variables.
        codes: exit codes that hold.
        kill: a signal, once metrics.jsonl has so many lines.
        limit: bytes that a file may have, as on a disk that is full.
        output: a file for standard output.
        after: what must be true of the folder.
    """

    kind: str
    name: str
    words: Sequence[str]
    prepare: Callable[[Path], None] = lambda folder: None
    environment: Mapping[str, str] = field(default_factory=dict)
    codes: Sequence[int] = (0, 2)
    kill: tuple[signal.Signals, int] | None = None
    limit: int | None = None
    output: str | None = None
    after: Callable[[Path], bool] = lambda folder: True


def program(name: str) -> str:
    """The installed command beside this Python."""
    found = shutil.which(f"gpuspike-{name}", path=str(Path(sys.executable).parent))
    if found is None:
        raise SystemExit(f"gpuspike-{name} is not installed beside {sys.executable}")
    return found


def finished(folder: Path) -> bool:
    """Whether a run has its summary and its report."""
    return (folder / "run" / "summary.json").is_file() and (folder / "run" / "report.html").is_file()


def goes_on(folder: Path, n_epochs: int = 60) -> bool:
    """Whether a run that was stopped goes on, and ends with all of its epochs."""
    if not (folder / "run" / "checkpoint.npz").exists():
        return not (folder / "run" / "metrics.jsonl").exists()
    before = epochs(folder)
    command = [program("train"), "resume=run"]
    done = subprocess.run(command, cwd=folder, capture_output=True, timeout=10 * HANG, check=False)
    every = list(range(1, n_epochs + 1))
    return done.returncode == 0 and finished(folder) and epochs(folder) == every and len(before) > 0


def whole_again(folder: Path) -> bool:
    """Whether a full disk left no half-written file, and a run that had begun goes on."""
    return not list(folder.glob("run/*.partial")) and goes_on(folder, n_epochs=2)


def epochs(folder: Path) -> list[int]:
    """Epochs of metrics.jsonl whose line is whole."""
    path = folder / "run" / "metrics.jsonl"
    text = path.read_text() if path.exists() else ""
    return [json.loads(line)["epoch"] for line in text.splitlines() if line.endswith("}")]


def given(template: Path) -> Callable[[Path], None]:
    """A finished run, and a finished sweep, in the folder."""

    def copy(folder: Path) -> None:
        shutil.copytree(template / "run", folder / "run")
        shutil.copytree(template / "swept", folder / "swept")

    return copy


def spoilt(template: Path, name: str, content: bytes | None, *, pipe: bool = False) -> Callable[[Path], None]:
    """The same, with one file replaced by something else; None: cut in half."""

    def make(folder: Path) -> None:
        given(template)(folder)
        path = folder / name
        half = path.read_bytes()[: path.stat().st_size // 2] if content is None else content
        path.unlink()
        if pipe:
            os.mkfifo(path)
        else:
            path.write_bytes(half)

    return make


def own_data(**arrays: object) -> Callable[[Path], None]:
    """A data set of one's own, data.npz, with some arrays changed."""

    def make(folder: Path) -> None:
        rng, found = np.random.default_rng(0), {}
        for split in ("train", "validation", "test"):
            found |= {f"{split}_values": rng.random((210, 4)), f"{split}_labels": np.arange(210) % 3}
        np.savez(folder / "data.npz", **{**found, **arrays})  # type: ignore[arg-type]

    return make


def gone(folder: Path) -> None:
    """The folder itself is removed, while the command stands in it."""
    folder.rmdir()


KINDS_OF_DAMAGE: Mapping[str, bytes | None] = {
    "empty": b"",
    "cut in half": None,
    "zeros": bytes(4096),
    "text": b"[/b] \x1b[2J {]\n",
    "deep": b"[" * 100_000,
}
FILES = ("config.yaml", "checkpoint.npz", "metrics.jsonl", "summary.json")


def cases(template: Path, ports: Mapping[str, int], cache: Path) -> Iterator[Case]:
    """All of them, the quick ones of each kind first."""
    ready = given(template)
    for encoding in ("ascii", "gbk", "cp932", "utf-16"):
        variables = {"PYTHONIOENCODING": encoding}
        yield Case(
            "encodings", f"a run in {encoding}", RUN, environment=variables, codes=(0,), after=finished
        )
        for words in (("report", "swept"), ("evaluate", "run=run"), ("train", "--help"), ("doctor",)):
            yield Case("encodings", f"{words[0]} in {encoding}", words, ready, variables, codes=(0,))
    chinese = "\N{CJK UNIFIED IDEOGRAPH-4E2D}"
    names = [["price_in_$", "a$b$c", "[/b]"], ["_a", "\x1b[2J", chinese], ["x" * 5000, "", "\n"]]
    of_own = (
        "train",
        "dataset=npz",
        "dataset.path=data.npz",
        "experiment=own",
        "training.epochs=1",
        "hydra.run.dir=run",
    )
    for number, own in enumerate(names):
        made = own_data(class_names=np.array(own))
        yield Case("words of users", f"class names {number}", of_own, made, codes=(0, 2))
    for folder in ("[old]", "100%", "what?", "a#b", "{x}", "sp ace", "it's"):
        quoted = folder.replace("'", "\\'")
        words = (*RUN[:-1], f"hydra.run.dir='{quoted}'")
        place = folder
        yield Case(
            "words of users", f"a run in {folder}", words, codes=(0,),
            after=lambda at, place=place: (at / place / "summary.json").is_file(),
        )  # fmt: skip

    for name in FILES:
        for damage, content in KINDS_OF_DAMAGE.items():
            made = spoilt(template, f"run/{name}", content)
            yield Case("damaged files", f"resume, {name} {damage}", ("train", "resume=run"), made)
            yield Case("damaged files", f"evaluate, {name} {damage}", ("evaluate", "run=run"), made)
            made = spoilt(template, f"swept/0/{name}", content)
            yield Case("damaged files", f"report, {name} {damage}", ("report", "swept"), made)
        made = spoilt(template, f"run/{name}", b"", pipe=True)
        yield Case("hostile files", f"resume, {name} a pipe", ("train", "resume=run"), made)
        yield Case("hostile files", f"evaluate, {name} a pipe", ("evaluate", "run=run"), made)
        made = spoilt(template, f"swept/0/{name}", b"", pipe=True)
        yield Case("hostile files", f"report, {name} a pipe", ("report", "swept"), made)
    yield Case(
        "hostile files", "a link to nowhere", RUN, lambda at: (at / "run").symlink_to("nowhere"), codes=(2,)
    )
    yield Case("hostile files", "a file in the place of figures", ("train", "resume=run"), lambda at: (
        ready(at), shutil.rmtree(at / "run" / "figures"), (at / "run" / "figures").write_text("")
    ) and None)  # fmt: skip
    for name, arrays in {
        "NaN": {"train_values": np.full((210, 4), np.nan)},
        "labels of 2**63": {"train_labels": np.full(210, 2**63, np.uint64)},
        "labels below 0": {"train_labels": np.full(210, -1)},
        "no samples": {"train_values": np.empty((0, 4)), "train_labels": np.empty(0, int)},
        "objects": {"train_values": np.array([object()])},
    }.items():
        yield Case("hostile files", f"data with {name}", of_own, own_data(**arrays), codes=(2,))

    yield Case("machines", "a deleted working folder", RUN, gone, codes=(2,))
    yield Case(
        "machines",
        "MPLBACKEND=nonsense",
        RUN,
        environment={"MPLBACKEND": "nonsense"},
        codes=(0,),
        after=finished,
    )
    yield Case("machines", "hydra.job.chdir", (*RUN, "hydra.job.chdir=true"), codes=(0,), after=finished)
    yield Case(
        "machines", "64 threads", RUN, environment={"NUMBA_NUM_THREADS": "64"}, codes=(0,), after=finished
    )
    nowhere = dict.fromkeys(("HOME", "XDG_CACHE_HOME"), "/dev/null/x") | {"NUMBA_CACHE_DIR": str(cache)}
    yield Case(
        "machines", "a HOME that cannot be written", RUN, environment=nowhere, codes=(0,), after=finished
    )

    for size in (0, 2_000, 20_000, 60_000):
        name = f"files of {size} bytes at most"
        # None of these has room for a report; with room again, all that was begun is brought to its end.
        yield Case("full disks", name, RUN, limit=size, codes=(2,), after=whole_again)
    yield Case("full disks", "a full standard output", RUN, output="/dev/full", codes=(0,), after=finished)

    for name, port in ports.items():
        for tracker in (f"tracking=mlflow tracking.uri=http://127.0.0.1:{port}", "tracking=wandb"):
            variables = {
                "WANDB_BASE_URL": f"http://127.0.0.1:{port}",
                "WANDB_API_KEY": "0" * 40,
                "WANDB_SILENT": "true",
            }
            words = (*SWEEP, *tracker.split())
            yield Case(
                "servers",
                f"{tracker.split()[0]}, a server that {name}",
                words,
                environment=variables,
                codes=(0,),
            )
        url = f"tune.storage=mysql+pymysql://me:hush@127.0.0.1:{port}/studies"
        yield Case(
            "servers", f"a study, a server that {name}", ("tune", "tune.trials=1", url, *SIZES), codes=(2,)
        )

    for damage, content in KINDS_OF_DAMAGE.items():

        def spoil(folder: Path, content: bytes | None = content) -> None:
            own = shutil.copytree(cache, folder / "kernels")
            # Not of the step's kernels, which take as long to compile as all others together.
            indexes, data = (
                [path for path in sorted(own.rglob(f"*.{kind}")) if not path.name.startswith("step.")]
                for kind in ("nbi", "nbc")
            )
            for path in indexes[::2] + data[1::2]:
                path.write_bytes(path.read_bytes()[:100] if content is None else content)

        variables = {"NUMBA_CACHE_DIR": "kernels"}
        yield Case(
            "damaged caches", f"kept kernels, {damage}", RUN, spoil, variables, codes=(0,), after=finished
        )

    for sign in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT):
        for line in (0, 1, 7, 23, 59):
            yield Case(
                "kills",
                f"{sign.name} after {line} epochs",
                LONG,
                codes=(0, 130, -sign),
                kill=(sign, line),
                after=goes_on,
            )


def outcome(case: Case, folder: Path, hang: float = HANG) -> str:
    """What was lost; "" where all held."""
    case.prepare(folder)
    variables = {**os.environ, **case.environment}
    command = [program(case.words[0]), *case.words[1:]]

    if case.limit is not None:  # by a program of its own: a preexec_fn forks, which JAX's threads forbid
        command = [sys.executable, "-c", LIMITED, str(case.limit), *command]
    if not folder.exists():  # for the command alone
        folder.mkdir()
        command = ["sh", "-c", 'rmdir "$PWD"; exec "$@"', "sh", *command]
    # Not in files, which have a limit of their own here.
    out = os.open(case.output, os.O_WRONLY) if case.output else subprocess.PIPE
    process = subprocess.Popen(command, cwd=folder, env=variables, stdout=out, stderr=subprocess.PIPE)
    if case.output:
        os.close(out)
    if case.kill is not None:
        sign, lines = case.kill
        while process.poll() is None and len(epochs(folder)) < lines:
            time.sleep(0.002)
        process.send_signal(sign)
    try:
        said, errors = process.communicate(timeout=hang)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()  # also closes its pipes
        return f"still running after {hang:g} s"
    told = (said or b"") + errors
    if process.returncode not in case.codes:
        return f"exit code {process.returncode}: {told[-300:]!r}"
    if b"Traceback" in told or b"Exception ignored" in told:
        return f"a traceback: {told[told.index(b'Traceback') :][-300:]!r}"
    if process.returncode == 2 and len(errors.strip().splitlines()) > 3:
        return f"more than a line: {errors[-300:]!r}"
    if b"hush" in told:
        return f"a password: {told[-300:]!r}"
    if b"\x1b[2J" in told:
        return "a command to the terminal"
    return "" if case.after(folder) else f"the folder is not as it should be: {told[-200:]!r}"


def listening(kind: str) -> socket.socket:
    """A server that refuses, or one that takes connections and says nothing."""
    server = socket.socket()
    server.bind(("127.0.0.1", 0))
    if kind == "says nothing":
        server.listen(64)
    return server


def in_turn(chosen: Sequence[Case]) -> list[Case]:
    """Turn and turn about, so that a time that is too short costs each kind its last cases."""
    n_of, places = Counter(case.kind for case in chosen), Counter[str]()
    ranks = []
    for case in chosen:
        ranks.append(places[case.kind] / n_of[case.kind])
        places[case.kind] += 1
    return [chosen[k] for k in sorted(range(len(chosen)), key=lambda k: (ranks[k], k))]


@dataclass
class Table:
    """What came of the cases: by kind, how many were tried and held, and the seconds that they took."""

    end: float
    hang: float = HANG
    counts: dict[str, list[float]] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)
    skipped: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def try_out(self, case: Case, folder: Path) -> None:
        """One case, unless the time is up."""
        start = time.monotonic()
        if start > self.end:
            with self.lock:
                self.skipped += 1
            return
        folder.mkdir()
        reason = outcome(case, folder, self.hang)
        shutil.rmtree(folder, ignore_errors=True)
        with self.lock:
            tally = self.counts.setdefault(case.kind, [0, 0, 0.0])
            for k, more in enumerate((1, not reason, time.monotonic() - start)):
                tally[k] += more
            if reason:
                self.lost.append(f"{case.kind}, {case.name}: {reason}")
                print(f"lost  {self.lost[-1]}", flush=True)

    def show(self) -> None:
        """Prints it."""
        width = max(map(len, self.counts), default=4)
        print(f"{'':{width}}  tried  held  lost  seconds")
        total = [sum(tally[k] for tally in self.counts.values()) for k in range(3)]
        for kind, (tried, held, seconds) in [*self.counts.items(), ("all", total)]:
            print(f"{kind:{width}}  {tried:5}  {held:4}  {tried - held:4}  {seconds:7.0f}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Tries all cases and prints the table; 1 if anything was lost."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="cases whose kind or name has this in it")
    parser.add_argument("--short", action="store_true", help="the first of each kind alone")
    parser.add_argument("--minutes", type=float, default=15.0, help="after which no further case is begun")
    parser.add_argument("--jobs", type=int, default=usable_cores(), help="cases at once")
    parser.add_argument(
        "--hang", type=float, default=HANG, help="seconds that no command may take; more on a busy machine"
    )
    asked = parser.parse_args(arguments)
    # A shell's background ignores it, and so would all that is started here.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    start = time.monotonic()
    table = Table(start + 60.0 * asked.minutes, asked.hang)
    with tempfile.TemporaryDirectory(prefix="gpuspike-torture-") as root:
        base = Path(root)
        template, cache = base / "template", base / "kernels"
        template.mkdir()
        for words in (RUN, SWEEP):  # compiles what all of them need
            subprocess.run([program(words[0]), *words[1:]], cwd=template, check=True, capture_output=True)
        place = subprocess.run(
            [sys.executable, "-c", "from gpuspike.kernels import cache; print(cache.folder())"],
            capture_output=True, text=True, check=True,
        ).stdout.strip()  # fmt: skip
        shutil.copytree(place, cache / Path(place).name)
        servers = {kind: listening(kind) for kind in ("refuses", "says nothing")}
        ports = {kind: server.getsockname()[1] for kind, server in servers.items()}
        chosen = [case for case in cases(template, ports, cache) if asked.only in f"{case.kind} {case.name}"]
        if asked.short:
            chosen = list({case.kind: case for case in reversed(chosen)}.values())[::-1]
        with ThreadPoolExecutor(asked.jobs) as pool:
            folders = (base / f"case_{number}" for number in range(len(chosen)))
            for _ in pool.map(table.try_out, in_turn(chosen), folders):
                pass  # raises what a case has raised
        for server in servers.values():
            server.close()
    table.show()
    left = f"; {table.skipped} cases not begun within the time" if table.skipped else ""
    spent = sum(os.times()[2:4])  # by what has ended
    print(f"{time.monotonic() - start:.0f} s, {asked.jobs} at once, {spent:.0f} s of a core{left}")
    return 1 if table.lost else 0


if __name__ == "__main__":
    sys.exit(main())
