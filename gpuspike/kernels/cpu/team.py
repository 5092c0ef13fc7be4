"""A team of threads for the CPU kernels: pieces of work are taken from a counter, without Python (Numba).

Waking a thread costs some 50 us, as much as a small network's whole layer, and so does waiting for Python's lock. So
a helper that has nothing to do looks out for the next job for a while before it sleeps, and takes its pieces in the
same compiled function as the caller. The caller works too and waits only for pieces that a helper has begun: on a
machine shared with others, a helper that comes late just helps less. Which thread takes a piece never
changes what is computed.

A job is a compiled function that begins with `control` and `is_caller` and has the shape

    enter(control, is_caller)
    while (piece := take(control)) < n_pieces: ...; finish(control)
    return leave(control, is_caller, n_pieces)
"""

from __future__ import annotations

import os
import threading
from typing import Any

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import typeof, types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from gpuspike.backend import thread_count
from gpuspike.kernels.cpu.beside import compiled
from gpuspike.kernels.cpu.compiler import njit

PIECES_PER_THREAD = 4
"""Pieces that the work is cut into for each thread, so that an uneven load evens out."""

SAMPLES_PER_TASK = 16
"""Samples that share a tile's weights while these are in the second-level cache."""

PATIENCE = 90_000
"""Looks for a next job before a helper sleeps: some 900 us, more than the time between the jobs of a training step."""

_NEXT, _DONE, _FAILED, _NEWS, _SEEN, _MODE = 0, 8, 16, 24, 25, 26
_SIZE, _NO_MORE = 32, 1 << 62
"""Places in `control`, on cache lines of their own where threads write: pieces taken, pieces done, whether a helper
has failed, the address of the team's counter of jobs, its value when this job was posted, the caller's
floating-point mode. A counter of pieces set to
_NO_MORE ends the job."""

_INT64 = ir.IntType(64)
_HAS_YIELD = bool(llvm.address_of_symbol("sched_yield"))
_IS_X86 = llvm.get_process_triple().startswith(("x86_64", "i686", "i386"))


def _pointer(builder: ir.IRBuilder, address: Any) -> Any:
    return builder.inttoptr(address, _INT64.as_pointer())


def _make_add(typingctx: Any, address: Any, value: Any) -> Any:
    """Adds to the int64 at an address, as one step for all threads; what was there before."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return builder.atomic_rmw("add", _pointer(builder, args[0]), args[1], "seq_cst")

    return types.int64(types.int64, types.int64), codegen


def _make_load(typingctx: Any, address: Any) -> Any:
    """The int64 at an address, with all that was written before it was."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return builder.load_atomic(_pointer(builder, args[0]), "seq_cst", 8)

    return types.int64(types.int64), codegen


def _make_pause(typingctx: Any, long: Any) -> Any:
    """Tells the processor that a thread is waiting; after long, lets another one have it."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        if _IS_X86:
            kind = ir.FunctionType(ir.VoidType(), [])
            builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.sse2.pause"), [])
        if _HAS_YIELD:
            kind = ir.FunctionType(ir.IntType(32), [])
            with builder.if_then(args[0]):
                builder.call(cgutils.get_or_insert_function(builder.module, kind, "sched_yield"), [])
        return context.get_dummy_value()

    return types.void(types.boolean), codegen


def _make_flush(typingctx: Any, mode: Any) -> Any:
    """Sets the processor's floating-point mode; what it was before. A mode of -1 flushes underflow to 0."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        if not _IS_X86:
            return args[0]
        kind = ir.FunctionType(ir.VoidType(), [ir.PointerType(ir.IntType(8))])
        place = cgutils.alloca_once(builder, ir.IntType(32))
        address = builder.bitcast(place, ir.PointerType(ir.IntType(8)))

        def call(name: str) -> None:
            builder.call(cgutils.get_or_insert_function(builder.module, kind, name), [address])

        call("llvm.x86.sse.stmxcsr")
        before = builder.load(place)
        flushing = builder.or_(before, ir.Constant(ir.IntType(32), 0x8000))
        wanted = builder.trunc(args[0], ir.IntType(32))
        flush = builder.icmp_signed("<", args[0], ir.Constant(_INT64, 0))
        builder.store(builder.select(flush, flushing, wanted), place)
        call("llvm.x86.sse.ldmxcsr")
        return builder.zext(before, _INT64)

    return types.int64(types.int64), codegen


# Numba adds the first argument itself.
_flush: Any = intrinsic(_make_flush)
_add: Any = intrinsic(_make_add)
_load: Any = intrinsic(_make_load)
_pause: Any = intrinsic(_make_pause)


@njit(error_model="numpy")
def enter(control, is_caller):
    """Announces the job, now that the caller is out of Python; numbers that underflow become 0 until `leave`.

    A cold softmax has gradients below 1e-38, and processors are slow at arithmetic on float32 numbers so small. As
    in the CUDA kernels, they are 0.
    """
    mode = _flush(-1)
    if is_caller:
        control[_MODE] = mode
        _add(control[_NEWS], 1)


@njit()
def _restore(control):
    """Gives a caller that has failed its floating-point mode back, if the job has changed it."""
    if control[_MODE] > 0:
        _flush(control[_MODE])


@njit(error_model="numpy")
def take(control):
    """The next piece's number."""
    return _add(control.ctypes.data + 8 * _NEXT, 1)


@njit(error_model="numpy")
def finish(control):
    """A piece is done."""
    _add(control.ctypes.data + 8 * _DONE, 1)


@njit(error_model="numpy")
def tasks(control, n_tasks, n_pieces):
    """The numbers of the tasks that this thread gets: piece by piece, those next to each other."""
    while True:
        piece = take(control)
        if piece >= n_pieces:
            return
        for task in range(piece * n_tasks // n_pieces, (piece + 1) * n_tasks // n_pieces):  # noqa: UP028
            yield task  # Numba has no `yield from`
        finish(control)


@njit(error_model="numpy")
def wait_for(control, n_pieces):
    """Waits until `n_pieces` are done, or a helper has failed; whether they are done."""
    done, failed = control.ctypes.data + 8 * _DONE, control.ctypes.data + 8 * _FAILED
    turns = 0
    while _load(done) < n_pieces and _load(failed) == 0:
        turns += 1
        _pause(turns > PATIENCE)
    return _load(failed) == 0


@njit(error_model="numpy")
def leave(control, is_caller, n_pieces):
    """The caller waits for pieces that others have begun; a helper waits for the next job.

    Returns:
        Whether there is a next job.
    """
    if is_caller:
        _flush(control[_MODE])
        wait_for(control, n_pieces)
        return False
    news, seen = control[_NEWS], control[_SEEN]
    for _ in range(PATIENCE):
        if _load(news) > seen + 1:
            return True
        _pause(False)
    return False


def samples_of_a_piece(n_samples: int) -> int:
    """Samples that are taken together, so that there are enough pieces for all threads."""
    return max(1, min(SAMPLES_PER_TASK, -(-n_samples // (PIECES_PER_THREAD * thread_count()))))


def settled(job: Any, arguments: tuple[Any, ...]) -> Any:
    """The machine code of a job for arguments of the types that these have; `run` takes it as it does the job.

    A job looks for it at each call, which takes 6 us where arguments are records.
    """
    return compiled(job, tuple(typeof(x) for x in (_control(), True, *arguments)))


def run(job: Any, arguments: tuple[Any, ...], *, keep: Any = None, parallel: bool = True) -> None:
    """Calls job(control, is_caller, *arguments), on all threads at once if `parallel`.

    Args:
        keep: whatever owns arrays that the job knows by their addresses only; they live as long as any thread
            may still be at work on them, even where the caller is interrupted.
    """
    team = _team(thread_count() - 1, os.getpid()) if parallel else None
    if team is None or not team.run(_Job(job, _control(team.news), arguments, keep)):
        job(_control(), True, *arguments)


def _control(news: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
    control = np.zeros(_SIZE, np.int64)
    source = control[_SEEN:] if news is None else news
    control[_NEWS] = source.ctypes.data
    control[_SEEN] = source[0]
    return control


class _Job:
    """A job as the threads see it."""

    def __init__(self, job: Any, control: NDArray[np.int64], arguments: tuple[Any, ...], keep: Any) -> None:
        self._call: tuple[Any, ...] | None = (job, control, arguments, keep)
        self._error: BaseException | None = None

    def lead(self) -> None:
        """The caller's part: works, waits for what others have begun, and lets the arrays go."""
        assert self._call is not None
        job, control, arguments, _ = self._call
        try:
            job(control, True, *arguments)
            if self._error is not None:
                raise self._error
        except BaseException:
            control[_NEXT] = _NO_MORE  # nobody begins another piece, or waits for one
            control[_FAILED] = 1
            _restore(control)
            raise
        finally:
            self._call = None

    def help(self) -> bool:
        """Takes pieces as long as there are any; whether the next job came while looking out for it."""
        call = self._call  # held here, so that the arrays outlive the work
        if call is None:
            return False
        job, control, arguments, _ = call
        try:
            return job(control, False, *arguments)
        except BaseException as error:  # raised by `lead`, in the caller's thread
            self._error = error
            control[_FAILED] = 1
            return False


class _Team:
    """Helper threads and the job that they look at; the caller of `run` is the team's first worker."""

    def __init__(self, n_helpers: int, process: int) -> None:
        self.news = np.zeros(1, np.int64)
        self._busy = threading.Lock()
        self._current: _Job | None = None
        self._asleep = [False] * n_helpers
        self._alarms = [threading.Semaphore(0) for _ in range(n_helpers)]
        for number in range(n_helpers):
            name = f"gpuspike-{process}-{number}"
            threading.Thread(target=self._serve, args=(number,), name=name, daemon=True).start()

    def run(self, job: _Job) -> bool:
        """Does the job; False, and nothing is done, if another thread has the team."""
        if not self._busy.acquire(blocking=False):
            return False
        try:
            self._current = job
            for number, asleep in enumerate(self._asleep):
                if asleep:
                    self._asleep[number] = False
                    self._alarms[number].release()
            job.lead()
        finally:
            self._busy.release()
        return True

    def _serve(self, number: int) -> None:
        last: _Job | None = None
        while True:
            self._asleep[number] = True
            # Asleep first, then a look: a job posted in between either is seen here or rings the alarm.
            if self._current is last:
                self._alarms[number].acquire()
            self._asleep[number] = False
            more = True
            while more:
                last = self._current
                more = last is not None and last.help()


_making = threading.Lock()
_teams: dict[tuple[int, int], _Team] = {}


def _team(n_helpers: int, process: int) -> _Team | None:
    """The team of this process (a forked child has none of its parent's threads)."""
    if n_helpers == 0:
        return None
    team = _teams.get((n_helpers, process))
    if team is None:
        with _making:
            team = _teams.get((n_helpers, process)) or _Team(n_helpers, process)
            _teams[n_helpers, process] = team
    return team
