"""Vector cores for neurons with time constants of their own: sums taken from one event of a sample to the next.

The notation is that of `gpuspike.kernels.cpu.own_taus`. A block of neurons has a table of rows, LANES numbers each: see the
places of rows below.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from gpuspike.kernels.cpu.simd import VECTOR_BYTES, constant, load_from, multiply_add, splat, store_to

LANES = 64
"""Neurons of a block: as many as a word has bits, one for each that may cross."""

DEGREES = (3, 6, 12)
"""Of the polynomials in a gap."""

P, V, HIGH, RATE, FAST, KEEP, SHIFT = 0, 2, 4, 5, 6, 7, 19
"""Rows of a block's table: two rows each for the sums p and v, of which an event reads one and writes the other;
thresholds; rates as in `own_taus`: 1/tau_fast - 1/tau_slow and 1/tau_fast; coefficients of the polynomials."""

N_ROWS = SHIFT + DEGREES[-1]

_INT64 = ir.IntType(64)


class _Block:
    """Code for one vector of a block's table."""

    def __init__(self, builder: ir.IRBuilder, scalar: Any, table: Any, number: Any) -> None:
        self.size = 4 if isinstance(scalar, ir.FloatType) else 8
        self.vector = ir.VectorType(scalar, VECTOR_BYTES // self.size)
        self._builder, self.first = builder, builder.mul(number, constant(VECTOR_BYTES))
        self._table = builder.add(table, self.first)

    def at(self, row: Any) -> Any:
        """Address in a row of the table, its number known or an LLVM value."""
        if isinstance(row, int):
            row = constant(row)
        return self._builder.add(self._table, self._builder.mul(row, constant(LANES * self.size)))

    def load(self, row: Any) -> Any:
        return load_from(self._builder, self.at(row), self.vector, self.size)

    def store(self, value: Any, row: Any) -> None:
        store_to(self._builder, value, self.at(row), self.size)

    def splat(self, value: Any) -> Any:
        return splat(self._builder, value, self.vector.count)

    def multiply_add(self, a: Any, b: Any, c: Any) -> Any:
        return multiply_add(self._builder, self.vector, a, b, c)

    def weights(self, row: Any, kind: Any) -> Any:
        """Of this vector's neurons, at the address of a row of them, in the working type."""
        size = 4 if isinstance(kind, ir.FloatType) else 8
        first = self._builder.udiv(self.first, constant(self.size // size))
        narrow = ir.VectorType(kind, self.vector.count)
        loaded = load_from(self._builder, self._builder.add(row, first), narrow, size)
        return loaded if size == self.size else self._builder.fpext(loaded, self.vector)

    def moved(self, degree: int, y: Any, gap: Any, p: Any, v: Any) -> tuple[Any, Any]:
        """The sums p and v when a gap has passed, by polynomials in y."""
        builder = self._builder
        one = ir.Constant(self.vector, [1.0] * self.vector.count)
        keep, shift = self.load(KEEP + degree - 1), self.load(SHIFT + degree - 1)
        for n in range(degree - 2, -1, -1):
            keep = self.multiply_add(keep, y, self.load(KEEP + n))
            shift = self.multiply_add(shift, y, self.load(SHIFT + n))
        keep, shift = self.multiply_add(keep, y, one), self.multiply_add(shift, y, one)
        shift = builder.fmul(shift, gap)
        fade = self.multiply_add(builder.fneg(self.load(RATE)), shift, keep)
        return builder.fmul(keep, p), self.multiply_add(fade, v, builder.fmul(shift, p))


def _make_advance(degree: int) -> Any:
    """Builds `advance` for polynomials of a degree; of none for events that end no causal set."""

    @intrinsic
    def advance(typingctx, kind, weight, numbers, table, row, new, n_vectors):
        """Lets an event reach a block of neurons, and takes them on to the next one.

            p += w scale;  those with v + reach p >= bound high may cross before the next event;
            p -> keep(gap) p,  v -> fade(gap) v + shift(gap) p

        Args:
            kind, weight: any scalars of the working type, and of that of the weights.
            numbers: scale, y, gap, reach, bound, in the working type.
            table: address of the block's table;  row: of the event's weights onto the block.
            new: which rows of p and v are written, 0 or 1; the others are read. Of a degree of 0, p alone is read
                and written there.
            n_vectors: of the block that have neurons.

        Returns:
            A bit for each neuron that may cross.
        """
        signature = types.int64(
            kind, weight, types.UniTuple(kind, 5), types.int64, types.int64, types.int64, types.int64
        )

        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
            scalar, narrow = (context.get_value_type(signature.args[n]) for n in (0, 1))
            _, _, numbers, table, row, new, n_vectors = args
            old = builder.sub(constant(1), new)
            flags = cgutils.alloca_once_value(builder, constant(0))
            with cgutils.for_range(builder, n_vectors, intp=n_vectors.type) as loop:
                block = _Block(builder, scalar, table, loop.index)
                scale, y, gap, reach, bound = map(block.splat, cgutils.unpack_tuple(builder, numbers))
                p_old, v_old = (builder.add(constant(r), old) for r in (P, V))
                p_new, v_new = (builder.add(constant(r), new) for r in (P, V))
                if not degree:
                    p_old = p_new
                p = block.multiply_add(block.weights(row, narrow), scale, block.load(p_old))
                if not degree:
                    block.store(p, p_new)
                else:
                    v = block.load(v_old)
                    most = block.multiply_add(reach, p, v)
                    passed = builder.fcmp_ordered(">=", most, builder.fmul(bound, block.load(HIGH)))
                    count = block.vector.count
                    bits = builder.zext(builder.bitcast(passed, ir.IntType(count)), _INT64)
                    bits = builder.shl(bits, builder.mul(loop.index, constant(count)))
                    builder.store(builder.or_(builder.load(flags), bits), flags)
                    p, v = block.moved(degree, y, gap, p, v)
                    block.store(p, p_new)
                    block.store(v, v_new)
            return builder.load(flags)

        return signature, codegen

    return advance


def _make_retreat(degree: int, finish: Callable[..., Any], *, sums: bool) -> Any:
    """Builds `retreat` for polynomials of a degree, of none where no time passes.

    Args:
        finish: what becomes of p and v of a vector, added up if `sums`.
    """

    @intrinsic
    def retreat(typingctx, kind, weight, numbers, table, row, n_vectors):
        """Takes a block of neurons from an event back to the one before, and lets that one have what `finish` makes.

        Args:
            kind, weight: any scalars of the working type, and of that of the row.
            numbers: scale, y and gap, in the working type.
            table: address of the block's table, of which the first rows of p and v change.
            row: address of a row of the event before, for this block.
            n_vectors: of the block that have neurons.

        Returns:
            The sum, times the scale.
        """
        signature = kind(kind, weight, types.UniTuple(kind, 3), types.int64, types.int64, types.int64)

        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
            scalar, narrow = (context.get_value_type(signature.args[n]) for n in (0, 1))
            _, _, numbers, table, row, n_vectors = args
            first = _Block(builder, scalar, table, constant(0))
            total = cgutils.alloca_once_value(builder, ir.Constant(first.vector, None))
            numbers = cgutils.unpack_tuple(builder, numbers)
            with cgutils.for_range(builder, n_vectors, intp=n_vectors.type) as loop:
                block = _Block(builder, scalar, table, loop.index)
                scale, y, gap = map(block.splat, numbers)
                p, v = block.load(P), block.load(V)
                if degree:
                    p, v = block.moved(degree, y, gap, p, v)
                    block.store(p, P)
                    block.store(v, V)
                made = finish(builder, block, narrow, row, scale, p, v)
                if sums:
                    builder.store(builder.fadd(builder.load(total), made), total)
            if not sums:
                return ir.Constant(scalar, 0.0)
            value, count = builder.load(total), first.vector.count
            while count > 1:
                count //= 2
                lower, upper = (
                    builder.shuffle_vector(
                        value, value, ir.Constant(ir.VectorType(ir.IntType(32), count), list(part))
                    )
                    for part in (range(count), range(count, 2 * count))
                )
                value = builder.fadd(lower, upper)
            return builder.fmul(builder.extract_element(value, ir.Constant(ir.IntType(32), 0)), numbers[0])

        return signature, codegen

    return retreat


def _subtract(builder: ir.IRBuilder, block: _Block, _: Any, row: Any, scale: Any, p: Any, v: Any) -> None:
    """row -= scale v"""
    place = builder.add(row, block.first)
    before = load_from(builder, place, block.vector, block.size)
    store_to(builder, block.multiply_add(builder.fneg(scale), v, before), place, block.size)


def _bend(builder: ir.IRBuilder, block: _Block, narrow: Any, row: Any, _: Any, p: Any, v: Any) -> Any:
    """w (p - v/tau_fast)"""
    steep = block.multiply_add(builder.fneg(block.load(FAST)), v, p)
    return builder.fmul(block.weights(row, narrow), steep)


def _make_lowest_bit(typingctx: Any, bits: Any) -> Any:
    """The place of the lowest bit that is set, of a number that is not 0."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.int64), codegen


lowest_bit: Any = intrinsic(_make_lowest_bit)  # Numba adds the first argument itself
gather = _make_advance(0)
advance_3, advance_6, advance_12 = (_make_advance(n) for n in DEGREES)
subtract_0, subtract_3, subtract_6, subtract_12 = (
    _make_retreat(n, _subtract, sums=False) for n in (0, *DEGREES)
)
bend_0, bend_3, bend_6, bend_12 = (_make_retreat(n, _bend, sums=True) for n in (0, *DEGREES))
