"""The vector core of the weights' gradient on the CPU: a masked rank-2 product, summed up over a batch in registers."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from gpuspike.kernels.simd import VECTOR_BYTES, constant, load_from, multiply_add, splat, store_to

TILE_INPUTS = (16, 4, 1) if VECTOR_BYTES == 64 else (8, 4, 1)
"""Inputs that a tile may hold, one vector of neurons wide: its sums stay in registers, half of those there are."""


def _make_products(n_inputs: int) -> Any:
    """Builds `products` for tiles of `n_inputs` inputs."""

    @intrinsic
    def products(typingctx, kind, pre, pre_row, post, post_row, out, out_row, n_batch):
        """out[i, j] = sum_b [t[b, i] < gate[b, j]] (p1[b, j] a1[b, i] + p2[b, j] a2[b, i]) for one tile.

        No number that is masked out may be infinite or NaN.

        Args:
            kind: any scalar of the working type (float32 or float64).
            pre: addresses of t, a1, a2 at the tile's first input;  pre_row: bytes from sample to sample, of each.
            post: addresses of gate, p1, p2 at the tile's first neuron;  post_row: bytes from sample to sample.
            out: address of the tile's first weight;  out_row: bytes from input to input.
            n_batch: samples.
        """
        three = types.UniTuple(types.int64, 3)
        integer = types.int64
        signature = types.void(kind, three, three, three, integer, integer, integer, integer)

        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
            scalar = context.get_value_type(signature.args[0])
            size = 4 if isinstance(scalar, ir.FloatType) else 8
            width = VECTOR_BYTES // size
            vector = ir.VectorType(scalar, width)
            pre, pre_row, post = (cgutils.unpack_tuple(builder, a) for a in args[1:4])
            post_row, out, out_row, n_batch = args[4:]
            inputs = range(n_inputs)
            sums = [cgutils.alloca_once_value(builder, ir.Constant(vector, None)) for _ in inputs]
            with cgutils.for_range(builder, n_batch, intp=n_batch.type) as loop:
                at = builder.mul(loop.index, post_row)
                gate, p1, p2 = (load_from(builder, builder.add(a, at), vector, size) for a in post)
                rows = [
                    builder.add(a, builder.mul(loop.index, row)) for a, row in zip(pre, pre_row, strict=True)
                ]
                for i in inputs:
                    t, a1, a2 = (
                        splat(
                            builder,
                            load_from(builder, builder.add(row, constant(i * size)), scalar, size),
                            width,
                        )
                        for row in rows
                    )
                    causal = builder.fcmp_ordered("<", t, gate)
                    total = builder.load(sums[i])
                    for p, a in ((p1, a1), (p2, a2)):  # a selection each: two masked instructions, and no third
                        total = builder.select(causal, multiply_add(builder, vector, p, a, total), total)
                    builder.store(total, sums[i])
            for i in inputs:
                address = builder.add(out, builder.mul(out_row, constant(i)))
                store_to(builder, builder.load(sums[i]), address, size)
            return context.get_dummy_value()

        return signature, codegen

    return products


products_most, products_4, products_1 = (_make_products(n) for n in TILE_INPUTS)
