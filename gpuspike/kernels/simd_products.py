"""The vector core of the weights' gradient on the CPU: masked rank-2 products, summed up in registers."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from gpuspike.kernels.simd import VECTOR_BYTES, constant, load_from, multiply_add, splat, store_to

MOST_INPUTS, FEW_INPUTS = (16, 4) if VECTOR_BYTES == 64 else (8, 4)
"""Inputs of a tile, one vector of neurons wide: its sums stay in registers, half of those there are."""


def _make_products(n_inputs: int) -> Any:
    """Builds `products` for tiles of `n_inputs` inputs."""

    @intrinsic
    def products(typingctx, kind, pre, post, post_row, sums, sums_row, n_batch, fresh):
        """sums[i, j] += sum_b [t[b, i] < gate[b, j]] p[b, j] (a2[b, i] - x[b, j] a1[b, i]) for one tile.

        Args:
            kind: any scalar of the working type (float32 or float64).
            pre: address of t, a1, a2 of the tile's inputs, (n_batch, 3, n_inputs), finite but for t.
            post: addresses of gate, x, p at the tile's first neuron;  post_row: bytes from sample to sample.
            sums: address of the tile's first sum;  sums_row: bytes from input to input.
            n_batch: samples.
            fresh: whether the sums begin at 0.
        """
        integer = types.int64
        signature = types.void(
            kind, integer, types.UniTuple(integer, 3), integer, integer, integer, integer, types.boolean
        )

        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
            scalar = context.get_value_type(signature.args[0])
            size = 4 if isinstance(scalar, ir.FloatType) else 8
            width = VECTOR_BYTES // size
            vector = ir.VectorType(scalar, width)
            _, pre, post, post_row, sums, sums_row, n_batch, fresh = args
            gate_at, x_at, p_at = cgutils.unpack_tuple(builder, post)
            rows = [builder.add(sums, builder.mul(sums_row, constant(i))) for i in range(n_inputs)]
            zero = ir.Constant(vector, None)
            totals = [
                cgutils.alloca_once_value(
                    builder, builder.select(fresh, zero, load_from(builder, row, vector, size))
                )
                for row in rows
            ]
            with cgutils.for_range(builder, n_batch, intp=n_batch.type) as loop:
                at = builder.mul(loop.index, post_row)
                gate, x, p = (
                    load_from(builder, builder.add(a, at), vector, size) for a in (gate_at, x_at, p_at)
                )
                sample = builder.add(pre, builder.mul(loop.index, constant(3 * n_inputs * size)))

                def each(number: int, sample: Any = sample) -> Any:
                    address = builder.add(sample, constant(number * size))
                    return splat(builder, load_from(builder, address, scalar, size), width)

                for i, total in enumerate(totals):
                    t, a1, a2 = each(i), each(n_inputs + i), each(2 * n_inputs + i)
                    term = multiply_add(builder, vector, builder.fneg(x), a1, a2)
                    before = builder.load(total)
                    after = multiply_add(builder, vector, p, term, before)
                    builder.store(builder.select(builder.fcmp_ordered("<", t, gate), after, before), total)
            for row, total in zip(rows, totals, strict=True):
                store_to(builder, builder.load(total), row, size)
            return context.get_dummy_value()

        return signature, codegen

    return products


products_most, products_few = (_make_products(n) for n in (MOST_INPUTS, FEW_INPUTS))
