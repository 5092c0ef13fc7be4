"""Functions of NumPy arrays as handlers of XLA's foreign function interface, without a compiler.

The interface is a C ABI, declared in xla/ffi/api/c_api.h. XLA calls a handler with the memory of its own
arrays, for arguments and for results: nothing is copied on the way in, and on the way out only what a kernel
has made elsewhere.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from ctypes import POINTER, Structure, c_char_p, c_double, c_float, c_int, c_int64, c_size_t, c_void_p, cast
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuspike.errors import BackendError

Function = Callable[[bytes, list[NDArray[Any]], list[NDArray[Any]]], tuple[NDArray[Any], ...]]

TYPES: dict[int, Any] = {11: c_float, 12: c_double}
"""Numbers of XLA_FFI_DataType that handlers take: F32 and F64."""

METADATA, INVALID_ARGUMENT = 1, 3
"""XLA_FFI_Extension_Metadata and XLA_FFI_Error_Code_INVALID_ARGUMENT."""

_HEAD: list[tuple[str, Any]] = [("struct_size", c_size_t), ("extension", c_void_p)]


class _Version(Structure):
    _fields_ = (*_HEAD, ("major", c_int), ("minor", c_int))


class _Buffer(Structure):
    _fields_ = (*_HEAD, ("dtype", c_int), ("data", c_void_p), ("rank", c_int64), ("dims", POINTER(c_int64)))


class _Buffers(Structure):
    _fields_ = (*_HEAD, ("size", c_int64), ("types", c_void_p), ("each", POINTER(POINTER(_Buffer))))


class _Span(Structure):
    _fields_ = (("start", c_void_p), ("length", c_size_t))


class _Attributes(Structure):
    _fields_ = (
        *_HEAD,
        ("size", c_int64),
        ("types", c_void_p),
        ("names", c_void_p),
        ("each", POINTER(POINTER(_Span))),
    )


class _ErrorCreate(Structure):
    _fields_ = (*_HEAD, ("message", c_char_p), ("code", c_int))


_Create = ctypes.CFUNCTYPE(c_void_p, POINTER(_ErrorCreate))


class _Api(Structure):
    _fields_ = (*_HEAD, ("version", _Version), ("internal", c_void_p), ("create_error", _Create))


class _Metadata(Structure):
    _fields_ = (("struct_size", c_size_t), ("version", _Version), ("traits", ctypes.c_uint32))


class _Extension(Structure):
    _fields_ = (
        ("struct_size", c_size_t),
        ("type", c_int),
        ("next", c_void_p),
        ("metadata", POINTER(_Metadata)),
    )


class _Frame(Structure):
    _fields_ = (
        *_HEAD,
        ("api", POINTER(_Api)),
        ("context", c_void_p),
        ("stage", c_int),
        ("arguments", _Buffers),
        ("results", _Buffers),
        ("attributes", _Attributes),
    )


_Handler = ctypes.CFUNCTYPE(c_void_p, POINTER(_Frame))


def version_of(headers: str) -> tuple[int, int]:
    """Major and minor version of the interface, by the headers that a library brings.

    Raises:
        BackendError: headers that do not say it.
    """
    path = Path(headers, "xla", "ffi", "api", "c_api.h")
    text = path.read_text("utf-8") if path.is_file() else ""
    found = [re.search(rf"#define XLA_FFI_API_{part} (\d+)", text) for part in ("MAJOR", "MINOR")]
    if None in found:
        raise BackendError(f"{path} must say the version of XLA's interface, got none")
    major, minor = (int(one[1]) for one in found if one)
    return major, minor


def handler(function: Function, version: tuple[int, int]) -> Any:
    """A C function that XLA can call; who registers it must keep it.

    Args:
        version: of the interface, see `version_of`.
        function: is given the handler's one attribute, a text in bytes, the arguments, which it must not
            change or keep, and the results' memory, which it may make its answers in; answers with arrays of
            the shapes and types that were promised. What it raises is the error of the program, with its
            message.
    """

    def called(frame: Any) -> int | None:
        call = frame.contents
        if call.extension:
            extension = cast(call.extension, POINTER(_Extension)).contents
            if extension.type == METADATA:  # XLA asks which version this is written for
                told = extension.metadata.contents
                (told.version.major, told.version.minor), told.traits = version, 0
                return None
        try:
            text = call.attributes.each[0].contents
            places = _arrays(call.results)
            found = function(ctypes.string_at(text.start, text.length), _arrays(call.arguments), places)
            for place, array in zip(places, found, strict=True):
                if array.ctypes.data != place.ctypes.data:
                    np.copyto(place, array, casting="no")
        except BaseException as error:
            return _error(call.api.contents, error)
        return None

    return _Handler(called)


def _arrays(buffers: _Buffers) -> list[NDArray[Any]]:
    """XLA's memory."""
    made = []
    for number in range(buffers.size):
        buffer = buffers.each[number].contents
        shape = tuple(buffer.dims[: buffer.rank])
        kind = TYPES[buffer.dtype]
        if 0 in shape:
            made.append(np.empty(shape, kind))
            continue
        n = int(np.prod(shape, dtype=np.int64))
        made.append(np.frombuffer((kind * n).from_address(buffer.data), kind).reshape(shape))
    return made


def _error(api: _Api, error: BaseException) -> int | None:
    message = (str(error) or type(error).__name__).encode()
    told = _ErrorCreate(ctypes.sizeof(_ErrorCreate), None, message, INVALID_ARGUMENT)
    return api.create_error(ctypes.byref(told))
