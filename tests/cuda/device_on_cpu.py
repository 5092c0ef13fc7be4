"""The CUDA backend without a GPU: its device code built by g++, and a module that stands for CuPy.

The stand-in keeps arrays in the computer's memory and runs kernels as shim.h says. It is strict where CuPy
and the driver are silent: every argument's type is compared with the kernel's.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from gpuspike.kernels import cuda_source as src

SHIM = Path(__file__).with_name("shim.h")
C_TYPES = {"float32": "float", "float64": "double", "int32": "int", "int64": "long long", "bool": "bool"}
ELEMENTWISE = [
    *(make(regime) for make in (src.prepare_kernel, src.slopes_kernel) for regime in range(5)),
    *(src.slopes_kernel(regime, at_crossing=True) for regime in range(5)),
    *(src.forward_kernel(regime, lifted) for lifted in (False, True) for regime in range(4)),
    *(src.mixed_kernel(lifted) for lifted in (False, True)),
    src.sum_kernel(),
    *(src.normals_kernel(jitter) for jitter in (False, True)),
    src.adam_kernel(),
]
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g")


def parameters(text: str) -> list[tuple[bool, str, str]]:
    """(raw?, dtype or "T", name) of each parameter in the notation of ElementwiseKernel."""
    words = [part.split() for part in text.split(",")]
    return [(part[0] == "raw", part[-2], part[-1]) for part in words]


def elementwise_code(kernel: src.Elementwise, dtype: str) -> str:
    """A loop over `i` around the operation, as CuPy writes one, for plain pointers."""
    arguments, inside = ["long long shim_size"], ""
    for text, const in ((kernel.in_params, "const "), (kernel.out_params, "")):
        for raw, kind, name in parameters(text):
            c_type = C_TYPES[dtype if kind == "T" else kind]
            if raw:
                arguments.append(f"{const}{c_type}* {name}")
            elif const:
                arguments.append(f"{c_type} {name}")
            else:
                arguments.append(f"{c_type}* shim_{name}")
                inside += f"{c_type}& {name} = shim_{name}[i]; "
    return (
        f'extern "C" void {kernel.name}_{dtype}({", ".join(arguments)}) {{\n  typedef {C_TYPES[dtype]} T;\n'
        f"  for (ptrdiff_t i = 0; i < shim_size; ++i) {{ {inside}{kernel.operation}; }}\n}}\n"
    )


def symbol(instance: str) -> str:
    """A C name for an instance of a template."""
    return "".join(c if c.isalnum() else "_" for c in instance)


def translation_unit() -> str:
    """The unmodified device code between the shim and an entry for every kernel."""
    parts = [f'#include "{SHIM}"\n', src.source()]
    for dtype in ("float32", "float64"):
        parts += [elementwise_code(kernel, dtype) for kernel in ELEMENTWISE]
        for regime in range(5):
            for instance in src.block_kernels(np.dtype(dtype), regime).values():
                parts.append(
                    f'extern "C" int {symbol(instance)}(unsigned grid, unsigned block, void** args, '
                    f"const char* codes) {{ return shim::launch({instance}, grid, block, args, codes); }}\n"
                )
    return "\n".join(parts)


def build(folder: Path, *options: str) -> Path:
    """Path of the shared library; built anew only where the code or the options have changed."""
    text = translation_unit()
    digest = hashlib.sha256("\n".join([text, SHIM.read_text(), *options]).encode()).hexdigest()[:16]
    library = folder / f"device-{digest}.so"
    if not library.exists():
        unit = folder / f"device-{digest}.cpp"
        unit.write_text(text)
        command = ["g++", "-std=c++17", "-O1", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror"]
        command += ["-Wno-unknown-pragmas", *options, str(unit), "-o", f"{library}.new"]
        subprocess.run(command, check=True)
        Path(f"{library}.new").rename(library)
    return library


# --- a module that stands for CuPy ----------------------------------------------------------


class FakeArray(np.ndarray):
    """An array "on a device": no NumPy array as far as gpuspike can see, though it is one underneath."""

    device_id = 0

    def __array_finalize__(self, other: Any) -> None:
        self.device_id = getattr(other, "device_id", 0)

    def get(self) -> np.ndarray:
        return np.asarray(self)

    @property
    def device(self) -> SimpleNamespace:  # type: ignore[override]
        return SimpleNamespace(id=self.device_id)


def fake(array: Any) -> FakeArray:
    return np.ascontiguousarray(array).view(FakeArray)


class FakeElementwiseKernel:
    def __init__(self, in_params: str, out_params: str, operation: str, name: str, **other: Any) -> None:
        assert set(other) == {"preamble", "options"}
        assert other["preamble"] == src.source()
        self.kernel = src.Elementwise(name, in_params, out_params, operation)
        assert self.kernel in ELEMENTWISE

    def __call__(self, *args: Any, size: int | None = None) -> None:
        wanted = [*parameters(self.kernel.in_params), *parameters(self.kernel.out_params)]
        n_in = len(parameters(self.kernel.in_params))
        assert len(args) == len(wanted), f"{self.kernel.name} takes {len(wanted)} arguments, got {len(args)}"
        real, passed = "", []
        for number, (arg, (raw, kind, name)) in enumerate(zip(args, wanted, strict=True)):
            if not raw and number < n_in:
                make = {"int32": ctypes.c_int, "int64": ctypes.c_longlong, "float64": ctypes.c_double}[kind]
                assert kind == "float64" or int(arg) == make(int(arg)).value
                passed.append(make(arg))
                continue
            assert isinstance(arg, FakeArray), name
            assert arg.flags.c_contiguous, name
            if kind == "T":
                real = real or arg.dtype.name
            assert arg.dtype.name == (real if kind == "T" else kind), name
            passed.append(ctypes.c_void_p(arg.ctypes.data))
            if not raw:
                assert size in (None, arg.size), name
                size = arg.size
        assert size is not None
        getattr(_library, f"{self.kernel.name}_{real}")(ctypes.c_longlong(size), *passed)


class FakeRawModule:
    def __init__(self, *, code: str, options: tuple[str, ...], name_expressions: tuple[str, ...]) -> None:
        assert code == src.source()
        assert options == src.OPTIONS
        self.names = name_expressions

    def get_function(self, name: str) -> Any:
        assert name in self.names
        function = getattr(_library, symbol(name))

        def launch(grid: tuple[int], block: tuple[int], args: tuple[Any, ...]) -> None:
            codes, values = "", []
            for arg in args:
                if isinstance(arg, FakeArray):
                    assert arg.flags.c_contiguous
                    codes += {"float32": "f", "float64": "d", "bool": "?", "int32": "i", "int64": "q"}[
                        arg.dtype.name
                    ]
                    values.append(ctypes.c_void_p(arg.ctypes.data))
                else:  # a Python number's type would be CuPy's guess
                    assert isinstance(arg, (np.int32, np.float64)), type(arg)
                    codes += "I" if isinstance(arg, np.int32) else "D"
                    values.append(np.ctypeslib.as_ctypes_type(arg.dtype)(arg))
            pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
            assert 0 < grid[0] < 1 << 31
            answer = function(grid[0], block[0], pointers, ctypes.c_char_p(codes.encode()))
            assert answer != 1, f"{name} was called with {codes}, which are not its arguments' types"
            assert answer != 2, f"some threads of {name} met a barrier that others did not"

        return launch


_library: Any = None


def module(library: Path) -> ModuleType:
    """A module `cupy` whose kernels are those of the library."""
    global _library  # noqa: PLW0603 - one library a process, as there is one device
    _library = ctypes.CDLL(str(library))
    cupy = ModuleType("cupy")
    makers = ("zeros", "zeros_like", "asarray", "ones", "full", "broadcast_to", "concatenate")

    def poisoned(shape: Any, dtype: Any) -> FakeArray:
        """Memory as a device hands it out: full of somebody else's numbers."""
        array = np.empty(shape, dtype)
        array.fill(1 if array.dtype == np.bool_ else 77 if array.dtype.kind == "i" else np.nan)
        return fake(array)

    def made_by(function: Any) -> Any:
        return lambda *args, **options: fake(function(*args, **options))

    def of_device_arrays(function: Any) -> Any:
        def call(*args: Any) -> FakeArray:
            assert all(np.isscalar(arg) or isinstance(arg, FakeArray) for arg in args), (
                "CuPy takes no NumPy array"
            )
            return fake(function(*args))

        return call

    for name in makers:
        setattr(cupy, name, made_by(getattr(np, name)))
    vars(cupy).update(
        empty=poisoned,
        empty_like=lambda array: poisoned(array.shape, array.dtype),
        argsort=lambda array, axis: fake(np.argsort(array, axis=axis, kind="stable")),
        ascontiguousarray=fake,
        ndarray=FakeArray,
        ElementwiseKernel=FakeElementwiseKernel,
        RawModule=FakeRawModule,
        cuda=SimpleNamespace(
            Device=lambda: SimpleNamespace(id=0),
            runtime=SimpleNamespace(getDeviceCount=lambda: 1),
        ),
        __version__="0.0",
    )
    for name in ("isnan", "isinf", "isfinite", "where", "maximum", "minimum", "ceil"):
        setattr(cupy, name, of_device_arrays(getattr(np, name)))
    return cupy


@contextlib.contextmanager
def installed(library: Path) -> Iterator[ModuleType]:
    """The stand-in in CuPy's place, and gpuspike's kernels bound to it."""
    from gpuspike.kernels import cuda, cuda_call

    before = sys.modules.get("cupy")
    cupy = sys.modules["cupy"] = module(library)
    caches = [getattr(cuda, name) for name in ("_elementwise", "_block_kernel", "_module")]
    caches.append(cuda_call.on_device)
    try:
        for cached in caches:
            cached.cache_clear()
        yield cupy
    finally:
        for cached in caches:
            cached.cache_clear()
        if before is None:
            del sys.modules["cupy"]
        else:
            sys.modules["cupy"] = before
