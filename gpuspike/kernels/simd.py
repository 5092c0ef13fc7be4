"""The vector core of the CPU forward pass: one tile of neurons swept through a run of input events.

Numba's loop vectoriser keeps the state of a neuron in memory and halves the vector width on most AVX-512
machines. So this one loop is spelled as LLVM vectors, which LLVM lowers to whatever the machine has (AVX-512,
AVX2, NEON).
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_FEATURES = llvm.get_host_cpu_features()
VECTOR_BYTES = 64 if _FEATURES.get("avx512f") else 32
"""Width of the vectors that the sweep is written in."""

TILE_VECTORS = (6, 4, 2, 1)
"""Vectors of neurons that a tile may hold. A tile's state (two sums and a counter a neuron) lives in
registers; six vectors hide the latency from one event's test to the next event's masked update, and
their masks fit the seven mask registers of AVX-512."""

PREFETCHED = 5
"""Events ahead of which a row of weights is asked for: it comes from the second-level cache, in an order
that no hardware foresees. 4 to 8 are equally good; without, a wide tile takes a third longer."""

_INT64 = ir.IntType(64)
_INT32 = ir.IntType(32)


def splat(builder: ir.IRBuilder, scalar: Any, width: int) -> Any:
    """An LLVM scalar in every lane of a vector."""
    undefined = ir.Constant(ir.VectorType(scalar.type, width), ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(_INT32, 0))
    lanes = ir.Constant(ir.VectorType(_INT32, width), [0] * width)
    return builder.shuffle_vector(first, undefined, lanes)


def multiply_add(builder: ir.IRBuilder, vector: ir.VectorType, a: Any, b: Any, c: Any) -> Any:
    """a * b + c on LLVM vectors, fused where the machine can."""
    suffix = "f32" if isinstance(vector.element, ir.FloatType) else "f64"
    kind = ir.FunctionType(vector, [vector] * 3)
    name = f"llvm.fmuladd.v{vector.count}{suffix}"
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), [a, b, c])


def constant(value: int) -> ir.Constant:
    """A 64-bit integer."""
    return ir.Constant(_INT64, value)


def load_from(builder: ir.IRBuilder, address: Any, kind: Any, align: int) -> Any:
    """What stands at an address, of an LLVM type."""
    value = builder.load(builder.inttoptr(address, kind.as_pointer()))
    value.align = align  # type: ignore[assignment]
    return value


def store_to(builder: ir.IRBuilder, value: Any, address: Any, align: int) -> None:
    """Writes an LLVM value to an address."""
    pointer = builder.inttoptr(address, value.type.as_pointer())
    builder.store(value, pointer).align = align  # type: ignore[attr-defined]


def prefetch(builder: ir.IRBuilder, address: Any) -> None:
    """Asks for the cache line at an address, which need not be valid."""
    pointer = ir.IntType(8).as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [pointer, _INT32, _INT32, _INT32])
    function = builder.module.declare_intrinsic("llvm.prefetch", (pointer,), kind)
    read, keep, data = (ir.Constant(_INT32, value) for value in (0, 3, 1))
    builder.call(function, [builder.inttoptr(address, pointer), read, keep, data])


def _make_sweep(n_vectors: int) -> Any:
    """Builds `sweep` for tiles of `n_vectors` vectors."""

    @intrinsic
    def sweep(typingctx, kind, tile, tile_last, events, state, factor, k_first, n_events):
        """Sweeps one tile of neurons through `n_events` sorted events, starting with event `k_first`.

        With the two sums p and q of a neuron, every event k does

            p += w a1[k];  q += w a2[k];  stop if c1[k] p - q >= c2[k];  else count += 1

        (c2[k] times the neuron's own factor, if it has one),
        and a neuron that has stopped is frozen: its sums are those of its causal set, its count is the index
        of the last event in it. There is no branch in the loop.

        Args:
            kind: any scalar of the working type (float32 or float64).
            tile: (address of the first input's weight onto the tile's first neuron, bytes from one
                input's weights to the next one's).
            tile_last: the same for the tile's last vector, which may stand in a zero-padded copy.
            events: addresses of the order (int64), a1, a2, c1, c2, each at event `k_first`.
            state: addresses of p, q (working type), count (int32) and factor (working type) of the tile's
                first neuron.
            factor: the factors' array, or None, and then the last address is not looked at: only the type
                counts, and each is compiled for itself.
            k_first: number of events before; neurons with another count are frozen already.
            n_events: events to sweep, at least 1.

        Returns:
            1 if any neuron of the tile is still silent, else 0.
        """
        pair = types.UniTuple(types.int64, 2)
        signature = types.int64(
            kind,
            pair,
            pair,
            types.UniTuple(types.int64, 5),
            types.UniTuple(types.int64, 4),
            factor,
            types.int64,
            types.int64,
        )

        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
            scalar = context.get_value_type(signature.args[0])
            size = 4 if isinstance(scalar, ir.FloatType) else 8
            width = VECTOR_BYTES // size
            vector = ir.VectorType(scalar, width)
            counts = ir.VectorType(_INT32, width)
            mask = ir.VectorType(ir.IntType(1), width)
            tile, tile_last, events, state = (cgutils.unpack_tuple(builder, a) for a in args[1:5])
            k_first, n_events = args[6], args[7]

            def at(address: Any, offset: Any, step: int) -> Any:
                return builder.add(address, builder.mul(offset, constant(step)))

            def load(address: Any, kind: Any, align: int) -> Any:
                return load_from(builder, address, kind, align)

            def store(value: Any, address: Any, align: int) -> None:
                store_to(builder, value, address, align)

            lanes = range(n_vectors)
            p_at, q_at, count_at = (
                [at(state[m], constant(v), width * step) for v in lanes]
                for m, step in enumerate((size, size, 4))
            )
            p_start = [load(a, vector, size) for a in p_at]
            q_start = [load(a, vector, size) for a in q_at]
            count_start = [load(a, counts, 4) for a in count_at]
            lifted = not isinstance(factor, types.NoneType)
            lift = [load(at(state[3], constant(v), width * size), vector, size) for v in lanes if lifted]
            swept = splat(builder, builder.trunc(k_first, _INT32), width)
            alive_start = [builder.icmp_signed("==", c, swept) for c in count_start]

            entry = builder.block
            loop, done = builder.append_basic_block("event"), builder.append_basic_block("done")
            builder.branch(loop)
            builder.position_at_end(loop)
            step = builder.phi(_INT64)
            step.add_incoming(constant(0), entry)

            def carried(kind: Any, start: list[Any]) -> list[Any]:
                nodes = [builder.phi(kind) for _ in lanes]
                for node, value in zip(nodes, start, strict=True):
                    node.add_incoming(value, entry)
                return nodes

            here = builder.phi(counts)  # the number of events swept, in every lane
            here.add_incoming(swept, entry)
            p, q = carried(vector, p_start), carried(vector, q_start)
            # A narrow tile would wait for itself: there the sums run on past the crossing, in registers of
            # their own, so that no event's test waits for the test before.
            p_run, q_run = (carried(vector, p_start), carried(vector, q_start)) if n_vectors < 4 else (p, q)
            count, alive = carried(counts, count_start), carried(mask, alive_start)

            following_here = builder.add(here, ir.Constant(counts, [1] * width))
            index = load(at(events[0], step, 8), _INT64, 8)
            row = builder.add(tile[0], builder.mul(index, tile[1]))
            row_last = builder.add(tile_last[0], builder.mul(index, tile_last[1]))
            a1, a2, c1, c2 = (
                splat(builder, load(at(e, step, size), scalar, size), width) for e in events[1:]
            )
            soon = builder.add(step, constant(PREFETCHED))
            soon = builder.select(builder.icmp_signed("<", soon, n_events), soon, step)
            row_soon = builder.add(tile[0], builder.mul(load(at(events[0], soon, 8), _INT64, 8), tile[1]))
            for v in lanes:
                prefetch(builder, builder.add(row_soon, constant(v * VECTOR_BYTES)))
            p_new, q_new, count_new, alive_new, p_run_new, q_run_new = [], [], [], [], [], []
            for v in lanes:
                address = row_last if v == n_vectors - 1 else builder.add(row, constant(v * VECTOR_BYTES))
                w = load(address, vector, size)
                p_all = multiply_add(builder, vector, w, a1, p_run[v])
                q_all = multiply_add(builder, vector, w, a2, q_run[v])
                p_next = builder.select(alive[v], p_all, p[v])
                q_next = builder.select(alive[v], q_all, q[v])
                p_tested, q_tested = (p_all, q_all) if n_vectors < 4 else (p_next, q_next)
                reach = multiply_add(builder, vector, c1, p_tested, builder.fneg(q_tested))
                p_run_new.append(p_all)
                q_run_new.append(q_all)
                bound = builder.fmul(c2, lift[v]) if lifted else c2
                still = builder.and_(alive[v], builder.fcmp_unordered("<", reach, bound))
                p_new.append(p_next)
                q_new.append(q_next)
                count_new.append(builder.select(still, following_here, count[v]))
                alive_new.append(still)
            following = builder.add(step, constant(1))
            step.add_incoming(following, loop)
            here.add_incoming(following_here, loop)
            sums = [(p, p_new), (q, q_new)]
            if n_vectors < 4:
                sums += [(p_run, p_run_new), (q_run, q_run_new)]
            for nodes, values in (*sums, (count, count_new), (alive, alive_new)):
                for node, value in zip(nodes, values, strict=True):
                    node.add_incoming(value, loop)
            builder.cbranch(builder.icmp_signed("<", following, n_events), loop, done)

            builder.position_at_end(done)
            any_alive = alive_new[0]
            for v in lanes:
                store(p_new[v], p_at[v], size)
                store(q_new[v], q_at[v], size)
                store(count_new[v], count_at[v], 4)
                if v:
                    any_alive = builder.or_(any_alive, alive_new[v])
            bits = builder.bitcast(any_alive, ir.IntType(width))
            some = builder.icmp_unsigned("!=", bits, ir.Constant(ir.IntType(width), 0))
            return builder.zext(some, _INT64)

        return signature, codegen

    return sweep


sweep_6, sweep_4, sweep_2, sweep_1 = (_make_sweep(n) for n in TILE_VECTORS)
