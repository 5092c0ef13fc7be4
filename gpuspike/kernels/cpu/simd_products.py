"""Vector cores of the gradients on the CPU: masked rank-2 products, summed up in registers."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from gpuspike.kernels.cpu.simd import VECTOR_BYTES, constant, load_from, multiply_add, splat, store_to

TILE_INPUTS, TILE_VECTORS = (8, 2) if VECTOR_BYTES == 64 else (8, 1)
"""Inputs of a tile, and vectors of neurons: its sums stay in registers, half of those there are. The nearer
a tile is to a square, the less it loads for a pair."""


def _make_pack(count: int, *, of_vectors: bool) -> Any:
    """Builds `pack` for blocks of `count` numbers or vectors."""

    @intrinsic
    def pack(typingctx, kind, source, source_row, target, target_row, n_rows):
        """Copies a block from each of `n_rows` rows.

        Args:
            kind: any scalar of the working type (float32 or float64).
            source, target: addresses of the first block and of its copy.
            source_row, target_row: bytes from row to row.
        """
        integer = types.int64
        signature = types.void(kind, integer, integer, integer, integer, integer)

        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
            scalar = context.get_value_type(signature.args[0])
            size = 4 if isinstance(scalar, ir.FloatType) else 8
            block = ir.VectorType(scalar, VECTOR_BYTES // size if of_vectors else count)
            _, source, source_row, target, target_row, n_rows = args
            with cgutils.for_range(builder, n_rows, intp=n_rows.type) as loop:
                here = builder.add(source, builder.mul(loop.index, source_row))
                there = builder.add(target, builder.mul(loop.index, target_row))
                for v in range(count if of_vectors else 1):
                    offset = constant(v * VECTOR_BYTES)
                    value = load_from(builder, builder.add(here, offset), block, size)
                    store_to(builder, value, builder.add(there, offset), size)
            return context.get_dummy_value()

        return signature, codegen

    return pack


pack_inputs = _make_pack(TILE_INPUTS, of_vectors=False)
pack_wide, pack_1 = (_make_pack(n, of_vectors=True) for n in (TILE_VECTORS, 1))


def _make_products(n_vectors: int) -> Any:
    """Builds `products` for tiles of `n_vectors` vectors."""

    @intrinsic
    def products(typingctx, kind, pre, post, sums, sums_row, n_batch, fresh):
        """sums[i, j] += sum_b [t[b, i] < gate[b, j]] p[b, j] (a2[b, i] - x[b, j] a1[b, i]) for one tile.

        Args:
            kind: any scalar of the working type (float32 or float64).
            pre: address of t, a1, a2 of the tile's inputs, (n_batch, 3, TILE_INPUTS), finite but for t.
            post: address of gate, x, p of its neurons, (n_batch, 3, n_vectors vectors).
            sums: address of the tile's first sum;  sums_row: bytes from input to input.
            n_batch: samples.
            fresh: whether the sums begin at 0.
        """
        integer = types.int64
        signature = types.void(kind, integer, integer, integer, integer, integer, types.boolean)

        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
            scalar = context.get_value_type(signature.args[0])
            size = 4 if isinstance(scalar, ir.FloatType) else 8
            vector = ir.VectorType(scalar, VECTOR_BYTES // size)
            _, pre, post, sums, sums_row, n_batch, fresh = args
            places = [
                builder.add(sums, builder.add(builder.mul(sums_row, constant(i)), constant(v * VECTOR_BYTES)))
                for i in range(TILE_INPUTS)
                for v in range(n_vectors)
            ]
            zero = ir.Constant(vector, None)
            totals = [
                cgutils.alloca_once_value(
                    builder, builder.select(fresh, zero, load_from(builder, place, vector, size))
                )
                for place in places
            ]
            with cgutils.for_range(builder, n_batch, intp=n_batch.type) as loop:
                sample = builder.add(pre, builder.mul(loop.index, constant(3 * TILE_INPUTS * size)))
                neurons = builder.add(post, builder.mul(loop.index, constant(3 * n_vectors * VECTOR_BYTES)))

                def each(number: int, sample: Any = sample) -> Any:
                    address = builder.add(sample, constant(number * size))
                    return splat(builder, load_from(builder, address, scalar, size), vector.count)

                def some(number: int, neurons: Any = neurons) -> Any:
                    address = builder.add(neurons, constant(number * VECTOR_BYTES))
                    return load_from(builder, address, vector, size)

                gate, x, p = ([some(c * n_vectors + v) for v in range(n_vectors)] for c in range(3))
                for i in range(TILE_INPUTS):
                    t, a1, a2 = each(i), each(TILE_INPUTS + i), each(2 * TILE_INPUTS + i)
                    for v in range(n_vectors):
                        total = totals[i * n_vectors + v]
                        term = multiply_add(builder, vector, builder.fneg(x[v]), a1, a2)
                        before = builder.load(total)
                        after = multiply_add(builder, vector, p[v], term, before)
                        causal = builder.fcmp_ordered("<", t, gate[v])
                        builder.store(builder.select(causal, after, before), total)
            for place, total in zip(places, totals, strict=True):
                store_to(builder, builder.load(total), place, size)
            return context.get_dummy_value()

        return signature, codegen

    return products


products_wide, products_1 = (_make_products(n) for n in (TILE_VECTORS, 1))


def _make_causal_sums(n_vectors: int) -> Any:
    """Builds `causal_sums` for tiles of `n_vectors` vectors."""

    @intrinsic
    def causal_sums(typingctx, kind, tile, row_bytes, events, neurons, n_events):
        """sum1[j] = sum_k [t[k] < spike[j]] w[row[k], j] a1[k], and sum2 with a2, for one tile of neurons.

        Args:
            kind: any scalar of the working type (float32 or float64).
            tile: address of the first input's weight onto the tile's first neuron.
            row_bytes: bytes from one input's weights to the next one's.
            events: addresses of row (int64), t, a1, a2.
            neurons: addresses of spike, sum1, sum2 of the tile's first neuron, whole vectors.
            n_events: how many.
        """
        integer = types.int64
        three, four = types.UniTuple(integer, 3), types.UniTuple(integer, 4)
        signature = types.void(kind, integer, integer, four, three, integer)

        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
            scalar = context.get_value_type(signature.args[0])
            size = 4 if isinstance(scalar, ir.FloatType) else 8
            width = VECTOR_BYTES // size
            vector = ir.VectorType(scalar, width)
            _, tile, row_bytes, events, neurons, n_events = args
            row_at, *values_at = cgutils.unpack_tuple(builder, events)
            spike_at, *sums_at = cgutils.unpack_tuple(builder, neurons)
            offsets = [constant(v * VECTOR_BYTES) for v in range(n_vectors)]
            spikes = [load_from(builder, builder.add(spike_at, o), vector, size) for o in offsets]
            zero = ir.Constant(vector, None)
            totals = [[cgutils.alloca_once_value(builder, zero) for _ in offsets] for _ in sums_at]
            with cgutils.for_range(builder, n_events, intp=n_events.type) as loop:
                k = loop.index
                row = load_from(builder, builder.add(row_at, builder.mul(k, constant(8))), k.type, 8)
                weights = builder.add(tile, builder.mul(row, row_bytes))
                step = builder.mul(k, constant(size))
                t, *factors = (
                    splat(builder, load_from(builder, builder.add(a, step), scalar, size), width)
                    for a in values_at
                )
                for v, (offset, spike) in enumerate(zip(offsets, spikes, strict=True)):
                    w = load_from(builder, builder.add(weights, offset), vector, size)
                    causal = builder.fcmp_ordered("<", t, spike)
                    for total, factor in zip(totals, factors, strict=True):
                        before = builder.load(total[v])
                        after = multiply_add(builder, vector, w, factor, before)
                        builder.store(builder.select(causal, after, before), total[v])
            for address, total in zip(sums_at, totals, strict=True):
                for offset, value in zip(offsets, total, strict=True):
                    store_to(builder, builder.load(value), builder.add(address, offset), size)
            return context.get_dummy_value()

        return signature, codegen

    return causal_sums


causal_sums_4, causal_sums_1 = (_make_causal_sums(n) for n in (4, 1))
