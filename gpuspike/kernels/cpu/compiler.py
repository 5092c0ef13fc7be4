"""Numba's `njit`, for kernels that are made of many small functions.

Numba optimises each function that another one calls, makes machine code of it and of what Python would call it by, and
then links it into its caller, to optimise all of it again there: what lies six calls deep, six times. Here a function
that is not cached is a piece of jobs: translated once for the types of its arguments, and optimised as a part of each
job that it is linked into. That takes less than half the time, and jobs come out the same: LLVM sees the same functions.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numba
from numba.core import codegen, event, types
from numba.core.bytecode import FunctionIdentity
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import LoweringPass, register_pass
from numba.core.typed_passes import NativeLowering
from numba.core.typing.templates import make_concrete_template

from gpuspike.errors import BackendError
from gpuspike.kernels.cache import njit as kept_njit

if numba.config.DISABLE_JIT:  # type: ignore[attr-defined]
    raise BackendError(
        "the kernels of the CPU are compiled code, which NUMBA_DISABLE_JIT forbids: unset it, or choose "
        "backend=reference"
    )

_njit: Any = numba.njit
_Base: Any = codegen.JITCodeLibrary
_STEPS = ("_optimize_final_module", "_finalize_dynamic_globals", "_finalize_final_module")
IS_KNOWN = all(hasattr(_Base, step) for step in _STEPS)
"""Whether Numba links and optimises in the steps that a piece leaves out; they are not of its public interface."""

_NUMBERS = "_unique_ids"
"""Numba's counter of what it compiles, which names are made of; not of its public interface."""

_INHERITED = {"error_model": "python", "fastmath": False, "forceinline": False}
"""What Numba takes from the first caller where a function does not say it: then its bits would depend on which job was
compiled first."""


def renumber() -> bool:
    """Numbers what is compiled from now on as nobody else's is; False, and nothing is done, with an unknown Numba.

    Numba counts from 1 in each process and names types without their modules. Losses of two files, both with a class
    Numbers, then have one name, and of what is loaded under one name, from the disk or from another process, the first
    is taken for all.
    """
    if hasattr(FunctionIdentity, _NUMBERS):
        setattr(FunctionIdentity, _NUMBERS, itertools.count(int.from_bytes(os.urandom(8), "big")))
        return True
    return False


renumber()

pieces: dict[str, Any] = {}
"""Those of modules, by their names."""


class _Shared:
    """How the pieces of a job are shared with another process; see `beside`."""

    wait: Callable[[], None] | None = None
    """Waits for what the other process compiles."""

    only_second = False
    """In that process, which leaves out what the first one compiles."""


shared = _Shared()


class Piece(_Base):
    """Code to be linked into a job's."""

    def _optimize_final_module(self) -> None:
        """With the job."""

    def _finalize_final_module(self) -> None:
        self._finalize_dynamic_globals()
        self._finalized = True


@register_pass(mutates_CFG=False, analysis_only=True)
class _MakeKnown(LoweringPass):
    """Lets callers find a piece, which has no machine code to be found by: they ask for a key."""

    _name = "make_known"

    def __init__(self) -> None:
        super().__init__()

    def run_pass(self, state: Any) -> Any:
        state.cr = state.cr._replace(cfunc=make_known(state.targetctx, state.cr.fndesc, state.library))
        return False


def make_known(target: Any, fndesc: Any, library: Any) -> object:
    """The key that callers of a piece ask for."""
    key = object()
    target.insert_user_function(key, fndesc, [library])
    return key


class _PieceCompiler(CompilerBase):
    def define_pipelines(self) -> list[Any]:
        state: Any = self.state
        state.library = Piece(state.targetctx.codegen(), state.func_id.func_qualname)
        state.flags.no_compile = state.flags.no_cpython_wrapper = state.flags.no_cfunc_wrapper = True
        passes = DefaultPassBuilder.define_nopython_pipeline(state)
        passes.add_pass_after(_MakeKnown, NativeLowering)
        passes.finalize()
        return [passes]


def njit(**options: Any) -> Any:
    """As `numba.njit`; without a cache, the function is a piece of those that call it.

    A piece is the same in all its callers. Python may call it too; it is then compiled once more, as Numba does it.

    Args:
        process: "first" or "second", where two processes compile a job; see `beside`. What is the first one's returns
            nothing.
    """
    options = _INHERITED | options
    process = options.pop("process", None)
    if options.pop("cache", False):
        return kept_njit(no_cfunc_wrapper=True, **options)
    if not IS_KNOWN:
        return _njit(**options)

    def declare(function: Any) -> Any:
        piece = _njit(pipeline_class=_PieceCompiler, **options)(function)
        whole = _njit(**options)(function)

        def keep(result: Any) -> None:  # out of reach of calls from Python
            piece.overloads[tuple(result.signature.args)] = result

        def template(args: Any, named: Any, find: Any = piece.get_call_template) -> Any:
            # A constant argument gets no code of its own.
            args, named = tuple(map(types.unliteral, args)), {k: types.unliteral(t) for k, t in named.items()}
            if process == "first" and shared.only_second:
                signature, args = piece._compiler.fold_argument_types(args, named)
                return (
                    make_concrete_template(function.__name__, function, [types.none(*args)]),
                    signature,
                    args,
                    {},
                )
            if process == "second" and shared.wait is not None:
                shared.wait()
            return find(args, named)

        piece.add_overload, piece._compile_for_args = keep, lambda *_args, **_named: whole
        piece.get_call_template, piece.process = template, process
        pieces[f"{function.__module__}.{function.__qualname__}"] = piece
        return piece

    return declare


class _First(event.Listener):
    """Hears of the first of what happens."""

    def __init__(self, begin: Callable[[], None]) -> None:
        self._begin, self._heard, self._process = begin, False, os.getpid()

    def on_start(self, event: Any) -> None:
        if not self._heard and os.getpid() == self._process:
            self._heard = True
            self._begin()

    def on_end(self, event: Any) -> None:
        """Nothing to do."""


@contextmanager
def compiling(begin: Callable[[], None]) -> Iterator[None]:
    """Calls `begin` before the first function is compiled, if any is: what is kept on the disk is only read."""
    with event.install_listener("numba:compile", _First(begin)):
        yield
