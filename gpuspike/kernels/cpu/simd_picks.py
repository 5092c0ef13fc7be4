"""Vector cores on the CPU that pick some of many: times before a bound, neurons that stopped at some events."""

from __future__ import annotations

import math
from typing import Any, cast

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic

from gpuspike.kernels.cpu.simd import VECTOR_BYTES, constant, load_from, splat, store_to

_TARGET = cast(Any, cpu_target.target_context).codegen().magic_tuple()[2].split(",")

PICKS = "+avx512f" in _TARGET and "+avx512vl" in _TARGET
"""Whether what Numba compiles for, which may be less than the processor, moves chosen lanes together; without, they
are picked one by one."""

LANES = 16
"""Neurons that are looked at side by side."""

_INT32, _INT64 = ir.IntType(32), ir.IntType(64)


def compress(builder: ir.IRBuilder, value: Any, mask: Any) -> Any:
    """A vector's lanes of a mask, side by side at its beginning; what stands behind them is not told. Where `PICKS`."""
    element, count = value.type.element, value.type.count
    name = {ir.DoubleType: "f64", ir.FloatType: "f32"}.get(type(element)) or f"i{element.width}"
    kind = ir.FunctionType(value.type, [value.type, value.type, mask.type])
    name = f"llvm.x86.avx512.mask.compress.v{count}{name}"
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), [value, value, mask])


def lanes_of(builder: ir.IRBuilder, mask: Any) -> Any:
    """How many lanes of a mask are set, a 64-bit integer."""
    bits = ir.IntType(mask.type.count)
    kind = ir.FunctionType(bits, [bits])
    count = cgutils.get_or_insert_function(builder.module, kind, f"llvm.ctpop.i{bits.width}")
    return builder.zext(builder.call(count, [builder.bitcast(mask, bits)]), _INT64)


def _make_put(builder: ir.IRBuilder) -> Any:
    """What writes a vector's lanes of a mask to an address, from element number `place` on."""

    def put(what: Any, mask: Any, address: Any, place: Any, size: int) -> None:
        where = builder.add(address, builder.mul(place, constant(size)))
        store_to(builder, compress(builder, what, mask), where, size)

    return put


def _numbers(builder: ir.IRBuilder, first: Any, width: int) -> Any:
    """The int32 numbers from `first` on."""
    vector = splat(builder, builder.trunc(first, _INT32), width)
    return builder.add(vector, ir.Constant(vector.type, list(range(width))))


def _make_split(typingctx: Any, bound: Any, times: Any, n_vectors: Any, out: Any) -> Any:
    """Tells which of whole vectors of times come before a bound; where `PICKS`.

    Args:
        bound: of the working type (float32 or float64);  times: their address.
        out: addresses of the int32 numbers of those before, of their times, and of the others' numbers, each with room
            for all.

    Returns:
        How many come before, and the least of the others, inf if there is none.
    """

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        scalar = context.get_value_type(signature.args[0])
        size = 4 if isinstance(scalar, ir.FloatType) else 8
        width = VECTOR_BYTES // size
        vector, put = ir.VectorType(scalar, width), _make_put(builder)
        _, times, n_vectors, out = args
        numbers_out, times_out, others_out = cgutils.unpack_tuple(builder, out)
        bound, far = splat(builder, args[0], width), splat(builder, ir.Constant(scalar, math.inf), width)
        found, least = (
            cgutils.alloca_once_value(builder, constant(0)),
            cgutils.alloca_once_value(builder, far),
        )
        with cgutils.for_range(builder, n_vectors, intp=n_vectors.type) as loop:
            first = builder.mul(loop.index, constant(width))
            numbers = _numbers(builder, first, width)
            value = load_from(builder, builder.add(times, builder.mul(first, constant(size))), vector, size)
            before = builder.fcmp_ordered("<", value, bound)
            behind = builder.not_(before)
            m = builder.load(found)
            others = builder.sub(first, m)
            put(numbers, before, numbers_out, m, 4)
            put(value, before, times_out, m, size)
            put(numbers, behind, others_out, others, 4)
            builder.store(builder.add(m, lanes_of(builder, before)), found)
            lowest = builder.load(least)
            less = builder.and_(behind, builder.fcmp_ordered("<", value, lowest))
            builder.store(builder.select(less, value, lowest), least)
        values = builder.load(least)
        end = builder.extract_element(values, ir.Constant(_INT32, 0))
        for lane in range(1, width):
            value = builder.extract_element(values, ir.Constant(_INT32, lane))
            end = builder.select(builder.fcmp_ordered("<", value, end), value, end)
        return context.make_tuple(builder, signature.return_type, (builder.load(found), end))

    integer = types.int64
    return types.Tuple((integer, bound))(bound, integer, integer, types.UniTuple(integer, 3)), codegen


def _make_stopped(typingctx: Any, counts: Any, n_vectors: Any, first: Any, end: Any, out: Any) -> Any:
    """Picks the neurons whose int32 count lies from `first` to before `end`; where `PICKS`.

    Args:
        counts: their address, LANES a vector.
        out: address of where the neurons' int32 numbers go, with room for all.

    Returns:
        How many there are.
    """

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        counts, n_vectors, first, end, out = args
        first, end = (splat(builder, number, LANES) for number in (first, end))
        vector, put = ir.VectorType(_INT32, LANES), _make_put(builder)
        found = cgutils.alloca_once_value(builder, constant(0))
        with cgutils.for_range(builder, n_vectors, intp=n_vectors.type) as loop:
            lane = builder.mul(loop.index, constant(LANES))
            value = load_from(builder, builder.add(counts, builder.mul(lane, constant(4))), vector, 4)
            from_first = builder.icmp_signed(">=", value, first)
            mask = builder.and_(from_first, builder.icmp_signed("<", value, end))
            m = builder.load(found)
            put(_numbers(builder, lane, LANES), mask, out, m, 4)
            builder.store(builder.add(m, lanes_of(builder, mask)), found)
        return builder.load(found)

    integer = types.int64
    return integer(integer, integer, types.int32, types.int32, integer), codegen


# Numba adds the first argument itself.
split_vectors: Any = intrinsic(_make_split)
stopped_between: Any = intrinsic(_make_stopped)
