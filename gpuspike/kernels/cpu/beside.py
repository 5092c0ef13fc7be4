"""A second process, which compiles a part of a training step's job while this one compiles the rest.

Numba compiles one function after the other, whatever the number of cores. Here a fork of this process compiles the pieces
that are marked as the second process's, hands their code over, and goes on with small jobs, which it leaves on the disk
for this one to find. The job is put together here, of the same pieces: it has the same bits. Where there is no fork, no
second core, or nothing comes, this process compiles everything, as it would have done.
"""

from __future__ import annotations

import itertools
import os
import pickle
import signal
import socket
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, NoReturn

import llvmlite.binding as llvm
import numba
from numba.core import serialize
from numba.core.bytecode import FunctionIdentity
from numba.core.compiler import CompilerBase, CompileResult, DefaultPassBuilder
from numba.core.compiler_lock import global_compiler_lock
from numba.core.compiler_machinery import AnalysisPass, register_pass
from numba.core.typed_passes import NopythonTypeInference

from gpuspike.backend import thread_count
from gpuspike.kernels.cpu.compiler import IS_KNOWN, Piece, make_known, pieces, shared

_NUMBERS = "_unique_ids"
"""Numba's counter of what it has compiled, which names are made of; not of its public interface."""

_FAR = 1 << 40
"""Where the second process begins to count: two functions of one name and number would be taken for each other."""

_offered: list[Sequence[Callable[[], object]]] = []
_children: list[int] = []


class _Typed(BaseException):
    """The types of a job are known, and with them all pieces that it calls."""


@register_pass(mutates_CFG=False, analysis_only=True)
class _Stop(AnalysisPass):
    _name = "stop"

    def __init__(self) -> None:
        super().__init__()

    def run_pass(self, state: Any) -> Any:
        raise _Typed


class _Typing(CompilerBase):
    def define_pipelines(self) -> list[Any]:
        passes = DefaultPassBuilder.define_nopython_pipeline(self.state)
        passes.add_pass_after(_Stop, NopythonTypeInference)
        passes.finalize()
        return [passes]


@contextmanager
def offered(more: Sequence[Callable[[], object]]) -> Iterator[Callable[[], None]]:
    """Lets `compiled` have a second process, which calls `more` in the end; it does not outlive this.

    Yields:
        What waits until there is no second process, or no more.
    """
    _offered.append(more)
    try:
        yield _join
    finally:
        _offered.pop()
        for child in _children:
            os.kill(child, signal.SIGKILL)
        _join()


def _join() -> None:
    while _children:
        with suppress(ChildProcessError):  # where somebody else has waited for it
            os.waitpid(_children[-1], 0)
        _children.pop()


def compiled(job: Any, types: tuple[Any, ...]) -> Any:
    """The machine code of a job for arguments of these types."""
    if not _offered or not _is_possible() or types in job.overloads or _is_kept(job, types):
        return job.compile(types)
    with ExitStack() as ends:
        with suppress(OSError):  # no memory, or too many processes
            _begin(job, types, _offered[-1], ends)
        return job.compile(types)


def _is_possible() -> bool:
    # macOS has fork, but not for processes that have used its libraries.
    return IS_KNOWN and sys.platform == "linux" and thread_count() > 1 and hasattr(FunctionIdentity, _NUMBERS)


def _is_kept(job: Any, types: tuple[Any, ...]) -> bool:
    return getattr(job._cache, "has", lambda *_: False)(types, job.targetctx)


def _begin(job: Any, types: tuple[Any, ...], more: Sequence[Callable[[], object]], ends: ExitStack) -> None:
    known = _known()
    ours, theirs = map(ends.enter_context, socket.socketpair())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about threads: the child waits for none of them
        child = os.fork()
    if child == 0:
        ours.close()
        _be_second(job, types, theirs, known, more)
    theirs.close()
    _children.append(child)

    def wait() -> None:
        shared.wait = None
        _take_over(_heard(ours))
        _tell(ours, _made("first", known))

    shared.wait = wait
    ends.callback(setattr, shared, "wait", None)


def _be_second(
    job: Any,
    types: tuple[Any, ...],
    first: socket.socket,
    known: set[Any],
    more: Sequence[Callable[[], object]],
) -> NoReturn:
    """The life of the second process."""
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process says when it is over
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        nowhere = os.open(os.devnull, os.O_RDWR)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        setattr(FunctionIdentity, _NUMBERS, itertools.count(_FAR))
        _offered.clear()
        _compile_pieces(job, types)
        _tell(first, _made("second", known))
        _take_over(_heard(first))
        for do in more:
            do()
    finally:
        os._exit(0)


def _tell(other: socket.socket, data: bytes) -> None:
    with suppress(OSError):  # nobody hears
        other.sendall(data)
        other.shutdown(socket.SHUT_WR)


def _heard(other: socket.socket) -> bytes:
    with other.makefile("rb") as file:
        return file.read()


def _compile_pieces(job: Any, types: tuple[Any, ...]) -> None:
    """What the second process compiles of a job."""
    shared.only_second = True
    with suppress(_Typed):
        numba.jit(pipeline_class=_Typing, **job.targetoptions)(job.py_func).compile(types)
    shared.only_second = False


def _known() -> set[tuple[str, Any]]:
    return {(name, types) for name, piece in pieces.items() for types in piece.overloads}


def _made(process: str, known: set[tuple[str, Any]]) -> bytes:
    """The pieces of this process, but for what is known to the other one, to be sent."""
    made = [
        (name, types, _sent(result))
        for name, piece in pieces.items()
        if piece.process == process
        for types, result in piece.overloads.items()
        if (name, types) not in known
    ]
    return serialize.dumps(made)


@global_compiler_lock
def _sent(result: Any) -> tuple[Any, ...]:
    """A compiled piece as another process can have it."""
    result.fndesc.typemap = result.fndesc.calltypes = None
    result.library._ensure_finalized()  # with what it calls
    return (
        result.library.name,
        result.library._final_module.as_bitcode(),
        result.fndesc,
        result.environment,
        result.signature,
        result.reload_init,
        tuple(result._find_referenced_environments()),
    )


def _take_over(data: bytes) -> None:
    try:
        made = pickle.loads(data)
    except Exception:  # the other process has come to nothing
        return
    for name, key, sent in made:
        pieces[name].overloads.setdefault(key, _received(pieces[name], *sent))


def _received(
    piece: Any, name: str, code: bytes, fndesc: Any, environment: Any, signature: Any, begin: Any, others: Any
) -> Any:
    for start in begin or ():
        start()
    target = piece.targetctx
    library: Any = Piece(target.codegen(), name)
    library._final_module = llvm.parse_bitcode(code)
    library._finalize_final_module()
    return CompileResult(
        typing_context=piece.typingctx,
        target_context=target,
        entry_point=make_known(target, fndesc, library),
        typing_error=None,
        type_annotation="",
        signature=signature,
        objectmode=False,
        lifted=(),
        fndesc=fndesc,
        library=library,
        call_helper=None,
        environment=environment,
        metadata=None,
        reload_init=begin,
        referenced_envs=others,
    )
