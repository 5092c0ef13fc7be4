"""The vector core of the CPU forward pass: one tile of neurons swept through a run of input events.

Numba's loop vectoriser keeps the state of a neuron in memory and halves the vector width on most AVX-512
machines. So this one loop is spelled as LLVM vectors, which LLVM lowers to whatever the machine has (AVX-512,
AVX2, NEON).
"""

from __future__ import annotations

from typing import Any, NamedTuple

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

LOOK = 32
"""Events after which a tile looks whether any of its neurons is still silent; a power of 2."""

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


def any_lane(builder: ir.IRBuilder, masks: list[Any], width: int) -> Any:
    """Whether any lane of any of the masks is set."""
    some = masks[0]
    for mask in masks[1:]:
        some = builder.or_(some, mask)
    bits = builder.bitcast(some, ir.IntType(width))
    return builder.icmp_unsigned("!=", bits, ir.Constant(ir.IntType(width), 0))


class Lanes(NamedTuple):
    """A tile's neurons in registers, of each a list of vectors: the sums, the events passed, whether still silent."""

    p: list[Any]
    q: list[Any]
    passed: list[Any]
    alive: list[Any]


def splats(builder: ir.IRBuilder, addresses: list[Any], index: Any, scalar: Any, width: int) -> list[Any]:
    """What stands at a place of each of some arrays, in every lane of a vector."""
    size = 4 if isinstance(scalar, ir.FloatType) else 8
    step = builder.mul(index, constant(size))
    return [splat(builder, load_from(builder, builder.add(a, step), scalar, size), width) for a in addresses]


def after_event(
    builder: ir.IRBuilder,
    rows: list[Any],
    event: list[Any],
    before: Lanes,
    passed: Any,
    lift: list[Any],
    run: tuple[list[Any], list[Any]] | None = None,
) -> tuple[Lanes, tuple[list[Any], list[Any]]]:
    """A tile's neurons after an event; see `sweep`.

    Args:
        rows: the weights that the event has;  event: its a1, a2, c1 and c2.
        passed: the number of events with this one, in every lane.
        lift: factors of the thresholds, where there are any.
        run: sums that run on past the crossing, where the test is to be that of these.

    Returns:
        The neurons, and the sums of all events.
    """
    a1, a2, c1, c2 = event
    vector = rows[0].type
    p_run, q_run = (before.p, before.q) if run is None else run
    after, sums = Lanes([], [], [], []), ([], [])
    for v, w in enumerate(rows):
        alive = before.alive[v]
        p_all = multiply_add(builder, vector, w, a1, p_run[v])
        q_all = multiply_add(builder, vector, w, a2, q_run[v])
        p_next = builder.select(alive, p_all, before.p[v])
        q_next = builder.select(alive, q_all, before.q[v])
        p_tested, q_tested = (p_next, q_next) if run is None else (p_all, q_all)
        reach = multiply_add(builder, vector, c1, p_tested, builder.fneg(q_tested))
        bound = builder.fmul(c2, lift[v]) if lift else c2
        still = builder.and_(alive, builder.fcmp_unordered("<", reach, bound))
        count = builder.select(still, passed, before.passed[v])
        for values, value in zip(after, (p_next, q_next, count, still), strict=True):
            values.append(value)
        sums[0].append(p_all)
        sums[1].append(q_all)
    return after, sums


def _make_sweep(n_vectors: int) -> Any:
    """Builds `sweep` for tiles of `n_vectors` vectors."""

    @intrinsic
    def sweep(typingctx, kind, tile, row_bytes, events, state, factor, k_first, n_events):
        """Sweeps one tile of neurons through `n_events` sorted events, starting with event `k_first`.

        With the two sums p and q of a neuron, every event k does

            p += w a1[k];  q += w a2[k];  stop if c1[k] p - q >= c2[k];  else count += 1

        (c2[k] times the neuron's own factor, if it has one), and a neuron that has stopped is frozen: its
        sums are those of its causal set, its count is the index of the last event in it. No branch depends on
        a neuron, except that every LOOK events the sweep ends if all have stopped.

        Args:
            kind: any scalar of the working type (float32 or float64).
            tile: address of the first input's weight onto the tile's first neuron.
            row_bytes: bytes from one input's weights to the next one's.
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
        signature = types.int64(
            kind,
            types.int64,
            types.int64,
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
            tile, row_bytes = args[1], args[2]
            events, state = (cgutils.unpack_tuple(builder, a) for a in args[3:5])
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
            row = builder.add(tile, builder.mul(index, row_bytes))
            event = splats(builder, events[1:], step, scalar, width)
            soon = builder.add(step, constant(PREFETCHED))
            soon = builder.select(builder.icmp_signed("<", soon, n_events), soon, step)
            row_soon = builder.add(tile, builder.mul(load(at(events[0], soon, 8), _INT64, 8), row_bytes))
            for v in lanes:
                prefetch(builder, builder.add(row_soon, constant(v * VECTOR_BYTES)))
            rows = [load(builder.add(row, constant(v * VECTOR_BYTES)), vector, size) for v in lanes]
            before, run = Lanes(p, q, count, alive), (p_run, q_run) if n_vectors < 4 else None
            (p_new, q_new, count_new, alive_new), (p_run_new, q_run_new) = after_event(
                builder, rows, event, before, following_here, lift, run
            )
            following = builder.add(step, constant(1))
            look, more = builder.append_basic_block("look"), builder.append_basic_block("more")
            builder.cbranch(builder.icmp_signed("<", following, n_events), more, done)
            builder.position_at_end(more)
            in_between = builder.icmp_signed("!=", builder.and_(following, constant(LOOK - 1)), constant(0))
            builder.cbranch(in_between, loop, look)
            builder.position_at_end(look)
            builder.cbranch(any_lane(builder, alive_new, width), loop, done)
            sums = [(p, p_new), (q, q_new)]
            if n_vectors < 4:
                sums += [(p_run, p_run_new), (q_run, q_run_new)]
            carry = [
                ([step], [following]),
                ([here], [following_here]),
                *sums,
                (count, count_new),
                (alive, alive_new),
            ]
            for nodes, values in carry:
                for node, value in zip(nodes, values, strict=True):
                    node.add_incoming(value, more)
                    node.add_incoming(value, look)

            builder.position_at_end(done)
            for v in lanes:
                store(p_new[v], p_at[v], size)
                store(q_new[v], q_at[v], size)
                store(count_new[v], count_at[v], 4)
            return builder.zext(any_lane(builder, alive_new, width), _INT64)

        return signature, codegen

    return sweep


sweep_6, sweep_4, sweep_2, sweep_1 = (_make_sweep(n) for n in TILE_VECTORS)
