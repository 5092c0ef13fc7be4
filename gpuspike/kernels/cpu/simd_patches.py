"""Vector cores of patches on the CPU: of spikes in their order those within a window, and what the sweep needs of them."""

from __future__ import annotations

import math
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from gpuspike.kernels.cpu.simd import constant, load_from, multiply_add, splat, store_to
from gpuspike.kernels.cpu.simd_picks import compress, lanes_of

LANES = 8
"""Spikes that are looked at side by side."""

_INT32, _INT64, _DOUBLE = ir.IntType(32), ir.IntType(64), ir.DoubleType()


def _make_pick(n_carried: int, last: Any) -> Any:
    """Builds a `pick` that carries some int32 along; the last of them comes out as integers of the type `last`."""

    @intrinsic
    def pick(typingctx, arrays, n_vectors, first, span, lower, out):
        """Picks the spikes whose key lies in [first, first + span), or below 0.

        Args:
            arrays: addresses of the keys, of the carried int32, and of two float64 that come along.
            n_vectors: LANES spikes each.
            lower: what is taken off the last carried, but not where the key lies below 0.
            out: addresses of where the carried and the float64 go, with room for a vector behind the last.

        Returns:
            How many are picked.
        """
        integer = types.int64
        signature = integer(
            types.UniTuple(integer, n_carried + 3), integer, integer, integer, integer,
            types.UniTuple(integer, n_carried + 2),
        )  # fmt: skip

        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
            arrays, out = cgutils.unpack_tuple(builder, args[0]), cgutils.unpack_tuple(builder, args[5])
            first, span, lower = (splat(builder, builder.trunc(a, _INT32), LANES) for a in args[2:5])
            integers, doubles = ir.VectorType(_INT32, LANES), ir.VectorType(_DOUBLE, LANES)
            zero = ir.Constant(integers, None)
            found = cgutils.alloca_once_value(builder, constant(0))
            with cgutils.for_range(builder, args[1], intp=_INT64) as loop:
                step = builder.mul(loop.index, constant(LANES))

                def load(address: Any, kind: Any, size: int) -> Any:
                    return load_from(
                        builder, builder.add(address, builder.mul(step, constant(size))), kind, size
                    )

                key = load(arrays[0], integers, 4)
                everywhere = builder.icmp_signed("<", key, zero)
                within = builder.icmp_unsigned("<", builder.sub(key, first), span)
                mask = builder.or_(within, everywhere)
                values = [load(address, integers, 4) for address in arrays[1 : 1 + n_carried]]
                shift = builder.select(everywhere, zero, lower)
                values[-1] = builder.sub(values[-1], shift)
                if last != _INT32:
                    values[-1] = builder.sext(values[-1], ir.VectorType(last, LANES))
                values += [load(address, doubles, 8) for address in arrays[1 + n_carried :]]
                m = builder.load(found)
                for value, address in zip(values, out, strict=True):
                    element = value.type.element
                    size = 8 if isinstance(element, ir.DoubleType) else element.width // 8
                    place = builder.add(address, builder.mul(m, constant(size)))
                    store_to(builder, compress(builder, value, mask), place, size)
                builder.store(builder.add(m, lanes_of(builder, mask)), found)
            return builder.load(found)

        return signature, codegen

    return pick


pick_spikes: Any = _make_pick(3, _INT32)
"""Of spikes those nearby: where they are, how far right, their places, times and growths."""

pick_order: Any = _make_pick(1, _INT64)
"""Of a strip's spikes those of a patch: which of its inputs they are, their times and growths."""


def _make_equal_events(
    typingctx: Any,
    kind: Any,
    rows: Any,
    plane: Any,
    n_vectors: Any,
    anchor: Any,
    scale: Any,
    drive: Any,
    rate: Any,
) -> Any:
    """The events of one segment where tau_mem = tau_syn and growths are known, whole vectors of them; see `events`.

    What stands for the last event is that before a silent input, and what stands behind it is nothing.

    Args:
        kind: any scalar of the working type.
        rows: addresses of times, one more than events, of growths, changed to those from the anchor, of positions, out,
            and of a1, out, followed every `plane` bytes by a2, c1 and c2.
        anchor: the first event's time;  scale: 1 by its growth;  drive: of `Constants`;  rate: 1/tau_syn.
    """
    integer, real = types.int64, types.float64
    signature = types.none(kind, types.UniTuple(integer, 4), integer, integer, real, real, real, real)

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        scalar = context.get_value_type(signature.args[0])
        size = 4 if isinstance(scalar, ir.FloatType) else 8
        eight, short = ir.VectorType(_DOUBLE, LANES), ir.VectorType(scalar, LANES)
        times, growths, positions, first = cgutils.unpack_tuple(builder, args[1])
        anchor, scale, drive, rate = (splat(builder, a, LANES) for a in args[4:8])
        one, inf = (splat(builder, ir.Constant(_DOUBLE, number), LANES) for number in (1.0, math.inf))
        with cgutils.for_range(builder, args[3], intp=_INT64) as loop:
            step = builder.mul(loop.index, constant(8 * LANES))

            def at(address: Any, more: int = 0) -> Any:
                return builder.add(builder.add(address, step), constant(more))

            t, following = load_from(builder, at(times), eight, 8), load_from(builder, at(times, 8), eight, 8)
            a = builder.fmul(load_from(builder, at(growths), eight, 8), scale)
            x, x_next = builder.fsub(t, anchor), builder.fsub(following, anchor)
            bound = multiply_add(builder, eight, builder.fsub(x_next, x), rate, one)
            bound = builder.fmul(builder.fmul(drive, a), bound)
            # Of simultaneous events, only the last one closes a causal set.
            bound = builder.select(builder.fcmp_ordered(">", following, t), bound, inf)
            store_to(builder, a, at(growths), 8)
            store_to(builder, x, at(positions), 8)
            place = builder.add(first, builder.mul(loop.index, constant(size * LANES)))
            for value in (a, builder.fmul(a, x), x_next, bound):
                store_to(builder, value if size == 8 else builder.fptrunc(value, short), place, size)
                place = builder.add(place, args[2])
        return context.get_dummy_value()

    return signature, codegen


equal_events: Any = intrinsic(_make_equal_events)
