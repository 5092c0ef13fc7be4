"""Vector cores of sorting on the CPU: the range of a row of times, and running sums of counts."""

from __future__ import annotations

import math
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from gpuspike.kernels.cpu.simd import VECTOR_BYTES, constant, load_from, splat, store_to

LANES = 16
"""Counts that are summed up side by side."""

_INT32 = ir.IntType(32)


def _make_running_sums(typingctx: Any, counts: Any, n_rows: Any) -> Any:
    """Sums up (n_rows, LANES) int32 counts in place, column after column: each becomes the sum before it.

    Args:
        counts: their address.

    Returns:
        The sum of all.
    """

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        counts, n_rows = args
        vector = ir.VectorType(_INT32, LANES)
        total = cgutils.alloca_once_value(builder, ir.Constant(vector, None))

        def row(number: Any) -> Any:
            return builder.add(counts, builder.mul(number, constant(4 * LANES)))

        with cgutils.for_range(builder, n_rows, intp=n_rows.type) as loop:
            value = load_from(builder, row(loop.index), vector, 4)
            builder.store(builder.add(builder.load(total), value), total)
        of_columns, before, start = builder.load(total), ir.Constant(_INT32, 0), ir.Constant(vector, None)
        for lane in range(LANES):
            place = ir.Constant(_INT32, lane)
            start = builder.insert_element(start, before, place)
            before = builder.add(before, builder.extract_element(of_columns, place))
        builder.store(start, total)
        with cgutils.for_range(builder, n_rows, intp=n_rows.type) as loop:
            value, so_far = load_from(builder, row(loop.index), vector, 4), builder.load(total)
            store_to(builder, so_far, row(loop.index), 4)
            builder.store(builder.add(so_far, value), total)
        return before

    return types.int32(types.int64, types.int64), codegen


def _make_vector_range(typingctx: Any, kind: Any, times: Any, n_vectors: Any) -> Any:
    """The least and the largest finite of whole vectors of times without NaN; inf and -inf if there is none.

    Args:
        kind: any scalar of the working type (float32 or float64);  times: their address.
    """

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        scalar = context.get_value_type(signature.args[0])
        size = 4 if isinstance(scalar, ir.FloatType) else 8
        width = VECTOR_BYTES // size
        vector = ir.VectorType(scalar, width)
        _, times, n_vectors = args
        far, none = (splat(builder, ir.Constant(scalar, end), width) for end in (math.inf, -math.inf))
        low, high = (cgutils.alloca_once_value(builder, end) for end in (far, none))

        def keep(place: Any, value: Any, order: str) -> None:
            before = builder.load(place)
            better = builder.fcmp_ordered(order, value, before)
            builder.store(builder.select(better, value, before), place)

        with cgutils.for_range(builder, n_vectors, intp=n_vectors.type) as loop:
            address = builder.add(times, builder.mul(loop.index, constant(VECTOR_BYTES)))
            value = load_from(builder, address, vector, size)
            keep(low, value, "<")
            keep(high, builder.select(builder.fcmp_ordered("<", value, far), value, none), ">")
        ends = []
        for place, order in ((low, "<"), (high, ">")):
            values = builder.load(place)
            end = builder.extract_element(values, ir.Constant(_INT32, 0))
            for lane in range(1, width):
                value = builder.extract_element(values, ir.Constant(_INT32, lane))
                end = builder.select(builder.fcmp_ordered(order, value, end), value, end)
            ends.append(end)
        return context.make_tuple(builder, signature.return_type, ends)

    return types.UniTuple(kind, 2)(kind, types.int64, types.int64), codegen


# Numba adds the first argument itself.
running_sums: Any = intrinsic(_make_running_sums)
vector_range: Any = intrinsic(_make_vector_range)
