"""Vector cores of the CPU where inputs spike together: one tile of neurons, group after group.

Of simultaneous inputs only the last one closes a causal set, so that their weights are added up first, and the sums
and the test of `simd.sweep` follow once a group: an input costs one addition. The last group, where it is large, is
what all inputs have less what the others have: no weight of it is ever read. The gradient of a weight depends on its
input's group only, and goes the same way back.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from gpuspike.kernels.cpu.simd import (
    VECTOR_BYTES,
    Lanes,
    after_event,
    any_lane,
    constant,
    load_from,
    multiply_add,
    splat,
    splats,
    store_to,
)

GROUP_VECTORS = (6, 4, 1)
"""Vectors of neurons that a tile may hold."""

LOOK = 4
"""Groups after which a tile looks whether any of its neurons is still silent; a power of 2."""

_INT32, _INT64 = ir.IntType(32), ir.IntType(64)


def _make_sweep(n_vectors: int) -> Any:
    """Builds `sweep_groups` for tiles of `n_vectors` vectors."""

    @intrinsic
    def sweep_groups(typingctx, kind, tile, row_bytes, events, state, factor, groups, all_inputs):
        """Sweeps one tile of neurons through groups of simultaneous events; see `simd.sweep`.

        Args:
            kind, tile, row_bytes, factor: as there.
            events: addresses of the order (int64) of the sample's inputs, of each group's end in it (int32), and of
                a1, a2, c1, c2 of each group.
            state: as there, `count` counts groups.
            groups: the first and the one after the last, at least one.
            all_inputs: address of the tile's sums over the weights of all inputs, where the last of the groups is
                what the other inputs leave; else 0.

        Returns:
            1 if any neuron of the tile is still silent, else 0.
        """
        integer, pair = types.int64, types.UniTuple(types.int64, 2)
        six, four = types.UniTuple(integer, 6), types.UniTuple(integer, 4)
        signature = integer(kind, integer, integer, six, four, factor, pair, integer)

        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
            scalar = context.get_value_type(signature.args[0])
            size = 4 if isinstance(scalar, ir.FloatType) else 8
            width = VECTOR_BYTES // size
            vector, counts = ir.VectorType(scalar, width), ir.VectorType(_INT32, width)
            mask = ir.VectorType(ir.IntType(1), width)
            _, tile, row_bytes, *packed, _, groups, all_inputs = args
            events, state = (cgutils.unpack_tuple(builder, a) for a in packed)
            first, end = cgutils.unpack_tuple(builder, groups)
            order, ends, *coefficients = events
            lanes = range(n_vectors)
            places = [
                [builder.add(a, constant(v * width * step)) for v in lanes]
                for a, step in zip(state, (size, size, 4, size), strict=True)
            ]
            start = Lanes(
                [load_from(builder, a, vector, size) for a in places[0]],
                [load_from(builder, a, vector, size) for a in places[1]],
                [load_from(builder, a, counts, 4) for a in places[2]],
                [],
            )
            lifted = not isinstance(factor, types.NoneType)
            lift = [load_from(builder, a, vector, size) for a in places[3] if lifted]
            swept = splat(builder, builder.trunc(first, _INT32), width)
            start.alive.extend(builder.icmp_signed("==", c, swept) for c in start.passed)
            zero = ir.Constant(vector, None)

            def group_end(g: Any) -> Any:
                at = builder.add(ends, builder.mul(g, constant(4)))
                return builder.zext(load_from(builder, at, _INT32, 4), _INT64)

            def row(member: Any) -> Any:
                at = builder.add(order, builder.mul(member, constant(8)))
                return builder.add(tile, builder.mul(load_from(builder, at, _INT64, 8), row_bytes))

            def weights(address: Any) -> list[Any]:
                return [
                    load_from(builder, builder.add(address, constant(v * VECTOR_BYTES)), vector, size)
                    for v in lanes
                ]

            def block(name: str) -> ir.Block:
                return builder.append_basic_block(name)

            def phis(kinds: list[Any]) -> list[Any]:
                return [builder.phi(kind) for kind in kinds]

            def come(nodes: list[Any], values: list[Any], source: Any) -> None:
                for node, value in zip(nodes, values, strict=True):
                    node.add_incoming(value, source)

            def more_rows(sums: list[Any], member: Any, stop: Any, name: str) -> list[Any]:
                """The sums with the rows from one member on to another, none perhaps."""
                source = builder.block
                head, body, done = (block(f"{name}_{part}") for part in ("head", "row", "done"))
                builder.branch(head)
                builder.position_at_end(head)
                m, *totals = phis([_INT64, *[vector] * n_vectors])
                come([m, *totals], [member, *sums], source)
                builder.cbranch(builder.icmp_signed("<", m, stop), body, done)
                builder.position_at_end(body)
                after = [builder.fadd(total, w) for total, w in zip(totals, weights(row(m)), strict=True)]
                come([m, *totals], [builder.add(m, constant(1)), *after], builder.block)
                builder.branch(head)
                builder.position_at_end(done)
                return totals

            folds = builder.icmp_signed("!=", all_inputs, constant(0))
            n_main = builder.select(folds, builder.sub(end, constant(1)), end)
            m_first = builder.select(
                builder.icmp_signed(">", first, constant(0)),
                group_end(builder.sub(first, constant(1))),
                constant(0),
            )
            loop, look, more, done, fold, out = (
                block(name) for name in ("group", "look", "more", "done", "fold", "out")
            )
            entry = builder.block
            kinds = [*[vector] * (2 * n_vectors), *[counts] * n_vectors, *[mask] * n_vectors]
            everything = [x for values in start for x in values]
            builder.cbranch(builder.icmp_signed("<", first, n_main), loop, done)

            def unpack(values: list[Any]) -> Lanes:
                return Lanes(*(values[k * n_vectors : (k + 1) * n_vectors] for k in range(4)))

            one = ir.Constant(counts, [1] * width)
            builder.position_at_end(loop)
            nodes = phis([_INT64, _INT64, counts, *kinds, *[vector] * n_vectors])
            come(nodes, [first, m_first, swept, *everything, *[zero] * n_vectors], entry)
            g, m, here, rest = nodes[0], nodes[1], nodes[2], nodes[3:]
            before, others = unpack(rest[: 4 * n_vectors]), rest[4 * n_vectors :]
            stop = group_end(g)
            sums = more_rows(weights(row(m)), builder.add(m, constant(1)), stop, "member")
            passed = builder.add(here, one)
            event = splats(builder, coefficients, g, scalar, width)
            after, _ = after_event(builder, sums, event, before, passed, lift)
            others_new = [builder.fadd(a, b) for a, b in zip(others, sums, strict=True)]
            following = builder.add(g, constant(1))
            state_new = [x for values in after for x in values]
            builder.cbranch(builder.icmp_signed("<", following, n_main), more, done)
            closed = builder.block
            builder.position_at_end(more)
            between = builder.icmp_signed("!=", builder.and_(following, constant(LOOK - 1)), constant(0))
            builder.cbranch(between, loop, look)
            builder.position_at_end(look)
            builder.cbranch(any_lane(builder, after.alive, width), loop, done)
            for source in (more, look):
                come(nodes, [following, stop, passed, *state_new, *others_new], source)

            builder.position_at_end(done)
            nodes = phis([counts, *kinds, *[vector] * n_vectors])
            come(nodes, [swept, *everything, *[zero] * n_vectors], entry)
            for source in (closed, look):
                come(nodes, [passed, *state_new, *others_new], source)
            here, rest = nodes[0], nodes[1:]
            before, others = unpack(rest[: 4 * n_vectors]), rest[4 * n_vectors :]
            goes_on = builder.and_(folds, any_lane(builder, before.alive, width))
            builder.cbranch(goes_on, fold, out)
            main_end = builder.block
            builder.position_at_end(fold)
            total = weights(all_inputs)
            sums = [builder.fsub(a, b) for a, b in zip(total, others, strict=True)]
            event = splats(builder, coefficients, n_main, scalar, width)
            after, _ = after_event(builder, sums, event, before, builder.add(here, one), lift)
            fold_end = builder.block
            builder.branch(out)
            builder.position_at_end(out)
            nodes = phis(kinds)
            come(nodes, rest[: 4 * n_vectors], main_end)
            come(nodes, [x for values in after for x in values], fold_end)
            final = unpack(nodes)
            for values, addresses, step in zip(final[:3], places, (size, size, 4), strict=False):
                for value, address in zip(values, addresses, strict=True):
                    store_to(builder, value, address, step)
            return builder.zext(any_lane(builder, final.alive, width), _INT64)

        return signature, codegen

    return sweep_groups


groups_6, groups_4, groups_1 = (_make_sweep(n) for n in GROUP_VECTORS)


def _make_scatter(n_vectors: int) -> Any:
    """Builds `scatter_groups` for tiles of `n_vectors` vectors."""

    @intrinsic
    def scatter_groups(typingctx, kind, sums, row_bytes, events, neurons, n_events, folded):
        """sums[i, j] += [t[g] < gate[j]] p[j] (a2[g] - x[j] a1[g]) of one sample, where g is the group of input i.

        Args:
            kind: any scalar of the working type (float32 or float64).
            sums: address of the first input's sum for the tile's first neuron;  row_bytes: from input to input.
            events: addresses of the order (int64) of the sample's inputs, of each group's end in it (int32), and of
                t, a1, a2 of each group.
            neurons: addresses of gate, x, p and rest of the tile's first neuron.
            n_events: groups, at least one.
            folded: whether what the last group has is added to `rest`, for all inputs, and taken off the others'.
        """
        integer = types.int64
        five, four = types.UniTuple(integer, 5), types.UniTuple(integer, 4)
        signature = types.void(kind, integer, integer, five, four, integer, types.boolean)

        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
            scalar = context.get_value_type(signature.args[0])
            size = 4 if isinstance(scalar, ir.FloatType) else 8
            width = VECTOR_BYTES // size
            vector = ir.VectorType(scalar, width)
            _, sums, row_bytes, events, neurons, n_events, folded = args
            order, ends, *of_group = cgutils.unpack_tuple(builder, events)
            lanes = range(n_vectors)
            places = [
                [builder.add(a, constant(v * VECTOR_BYTES)) for v in lanes]
                for a in cgutils.unpack_tuple(builder, neurons)
            ]
            gate, x, p = ([load_from(builder, a, vector, size) for a in of] for of in places[:3])
            zero = ir.Constant(vector, None)

            def terms(g: Any) -> tuple[list[Any], list[Any]]:
                """What a group has, and which of the neurons it is causal for."""
                t, a1, a2 = splats(builder, of_group, g, scalar, width)
                causal = [builder.fcmp_ordered("<", t, gate[v]) for v in lanes]
                values = [
                    builder.fmul(p[v], multiply_add(builder, vector, builder.fneg(x[v]), a1, a2))
                    for v in lanes
                ]
                return [builder.select(c, v, zero) for c, v in zip(causal, values, strict=True)], causal

            def add(first: Any, end: Any, values: list[Any]) -> None:
                """Adds values to the sums of some inputs."""
                with cgutils.for_range_slice(builder, first, end, constant(1), _INT64) as (m, _):
                    at = builder.add(order, builder.mul(m, constant(8)))
                    row = builder.add(sums, builder.mul(load_from(builder, at, _INT64, 8), row_bytes))
                    for v in lanes:
                        here = builder.add(row, constant(v * VECTOR_BYTES))
                        total = builder.fadd(load_from(builder, here, vector, size), values[v])
                        store_to(builder, total, here, size)

            n_main = builder.select(folded, builder.sub(n_events, constant(1)), n_events)
            rest = [cgutils.alloca_once_value(builder, zero) for _ in lanes]
            with builder.if_then(folded):
                of_last, _ = terms(n_main)
                for v in lanes:
                    builder.store(of_last[v], rest[v])
                    total = builder.fadd(load_from(builder, places[3][v], vector, size), of_last[v])
                    store_to(builder, total, places[3][v], size)
            begin = cgutils.alloca_once_value(builder, constant(0))
            with cgutils.for_range(builder, n_main, intp=_INT64) as loop:
                values, causal = terms(loop.index)
                with builder.if_then(builder.not_(any_lane(builder, causal, width))):
                    loop.do_break()
                at = builder.add(ends, builder.mul(loop.index, constant(4)))
                end = builder.zext(load_from(builder, at, _INT32, 4), _INT64)
                less = [builder.fsub(values[v], builder.load(rest[v])) for v in lanes]
                add(builder.load(begin), end, less)
                builder.store(end, begin)
            return context.get_dummy_value()

        return signature, codegen

    return scatter_groups


SUM_VECTORS = 4
"""Vectors of neurons whose gradients are summed up together: half as many took a quarter longer."""

scatter_sums = _make_scatter(SUM_VECTORS)
