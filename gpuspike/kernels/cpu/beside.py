"""A second process, which compiles a part of a training step's job while this one compiles the rest.

Numba compiles one function after the other, whatever the number of cores. Here a fork of this process compiles the pieces
that are marked as the second process's, hands their code over, and goes on with small jobs, which it leaves on the disk
for this one to find. The job is put together here, of the same pieces: it has the same bits. Where there is no fork, no
second core, or nothing comes, this process compiles everything, as it would have done.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import llvmlite.binding as llvm
import numba
from numba.core import serialize
from numba.core.compiler import CompilerBase, CompileResult, DefaultPassBuilder
from numba.core.compiler_lock import global_compiler_lock
from numba.core.compiler_machinery import AnalysisPass, register_pass
from numba.core.typed_passes import NopythonTypeInference

from gpuspike.forks import Line, Second, second_process
from gpuspike.kernels.cache import folder
from gpuspike.kernels.cpu.compiler import IS_KNOWN, Piece, make_known, pieces, renumber, shared

_offered: list[Sequence[Callable[[], object]]] = []
_begun: list[Second] = []


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
        while _begun:
            _begun.pop().close()


def _join() -> None:
    for second in _begun:
        second.join()


def compiled(job: Any, types: tuple[Any, ...]) -> Any:
    """The machine code of a job for arguments of these types."""
    is_there = types in job.overloads or getattr(job._cache, "has", lambda *_: False)(types, job.targetctx)
    if not _offered or is_there or not IS_KNOWN:
        return job.compile(types)
    second = _begin(job, types, _offered[-1])
    try:
        return job.compile(types)
    finally:
        if second is not None and shared.wait is not None:  # nobody has asked for its pieces
            shared.wait = None
            _forget(second)


def _begin(job: Any, types: tuple[Any, ...], more: Sequence[Callable[[], object]]) -> Second | None:
    known = {(name, key) for name, piece in pieces.items() for key in piece.overloads}

    def work(first: Line) -> None:
        global_compiler_lock.release()
        _offered.clear()
        _begun.clear()
        if not renumber():
            return
        _compile_pieces(job, types)
        first.say(_made("second", known))
        if _take_over(first.heard()) and folder() is not None:  # else nobody would find what is compiled
            for do in more:
                do()

    with global_compiler_lock:  # which another thread may have
        second = second_process(work)
    if second is None:
        return None
    _begun.append(second)

    def wait() -> None:
        shared.wait = None
        if _take_over(second.heard()):
            second.say(_made("first", known))
        else:
            _forget(second)

    shared.wait = wait
    return second


def _forget(second: Second) -> None:
    _begun.remove(second)
    second.close()


def _compile_pieces(job: Any, types: tuple[Any, ...]) -> None:
    """What the second process compiles of a job."""
    shared.only_second = True
    with suppress(_Typed):
        numba.jit(pipeline_class=_Typing, **job.targetoptions)(job.py_func).compile(types)
    shared.only_second = False


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


def _take_over(data: bytes) -> bool:
    """Whether the other process's pieces have come; if so, they are known here."""
    try:
        made = [
            (pieces[name], types, _received(pieces[name], *sent)) for name, types, sent in pickle.loads(data)
        ]
    except Exception:  # it has come to nothing
        return False
    for piece, types, result in made:
        piece.overloads.setdefault(types, result)
    return True


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
