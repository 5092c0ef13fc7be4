"""NVIDIA's run-time compiler, driven without a GPU or a driver: its wheels hold all it needs."""

from __future__ import annotations

import ctypes
import re
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Compiled:
    """The compiler's answer.

    Attributes:
        resources: by kernel (stack bytes, spilled bytes, registers), where ptxas was asked for them.
        cubin: machine code, where an architecture is one that exists (sm_90), else empty.
    """

    log: str
    ok: bool
    resources: dict[str, tuple[int, int, int]]
    cubin: bytes


def folders() -> list[Path]:
    """Installed packages of NVIDIA's."""
    roots = (Path(entry, "nvidia") for entry in sys.path if entry)
    return [folder for root in roots if root.is_dir() for folder in (*root.iterdir(), *root.glob("*/lib"))]


@cache
def compilers() -> dict[int, ctypes.CDLL]:
    """The compilers installed, by CUDA generation."""
    found = {}
    for folder in folders():
        for file in folder.glob("libnvrtc.so.*"):
            generation = file.name.removeprefix("libnvrtc.so.")
            if generation.isdigit():
                found[int(generation)] = ctypes.CDLL(str(file))
    return found


def compiler_for(arch: int) -> ctypes.CDLL | None:
    """The oldest installed compiler that knows an architecture."""
    for _, library in sorted(compilers().items()):
        count = ctypes.c_int()
        library.nvrtcGetNumSupportedArchs(ctypes.byref(count))
        known = (ctypes.c_int * count.value)()
        library.nvrtcGetSupportedArchs(known)
        if arch in list(known):
            return library
    return None


def compile_text(library: ctypes.CDLL, text: str, options: list[str], names: list[str]) -> Compiled:
    """Compiles CUDA text, with CuPy's options beside the given ones.

    Args:
        names: instances of templates to compile as well.
    """
    program = ctypes.c_void_p()
    library.nvrtcCreateProgram(ctypes.byref(program), text.encode(), b"kernels.cu", 0, None, None)
    for name in names:
        library.nvrtcAddNameExpression(program, name.encode())
    words = [option.encode() for option in ["-ftz=true", "--device-as-default-execution-space", *options]]
    code = library.nvrtcCompileProgram(program, len(words), (ctypes.c_char_p * len(words))(*words))
    log = _read(library.nvrtcGetProgramLogSize, library.nvrtcGetProgramLog, program).rstrip(b"\0").decode()
    cubin = b"" if code else _read(library.nvrtcGetCUBINSize, library.nvrtcGetCUBIN, program)
    library.nvrtcDestroyProgram(ctypes.byref(program))
    resources = {}
    for part in log.split("Compiling entry function '")[1:]:
        stack = re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores", part)
        registers = re.search(r"Used (\d+) registers", part)
        assert stack is not None
        assert registers is not None
        resources[part.split("'")[0]] = (int(stack[1]), int(stack[2]), int(registers[1]))
    return Compiled(log, code == 0, resources, cubin)


def _read(size_of: Any, get: Any, program: ctypes.c_void_p) -> bytes:
    size = ctypes.c_size_t()
    size_of(program, ctypes.byref(size))
    buffer = ctypes.create_string_buffer(size.value)
    get(program, buffer)
    return buffer.raw
