"""Rows of float32 numbers in registers for Numba functions, as LLVM instructions, which need no C compiler or autovectoriser.

A row consists of vectors, whose lengths are part of its type; if a machine's registers are narrower, LLVM splits the vectors.
The arithmetic below works on rows of any type, vector by vector; `vector` is the type of a row of one vector of LANES numbers.
The compiler may not reorder or contract any of it, except that `multiply_add` may be contracted.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

LANES = 8  # float32 numbers of one vector

_F32 = ir.FloatType()
_I8, _I32, _I64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)
_LOG = (
    7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1, -1.6668057665e-1,
    2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1,
)  # fmt: skip
_EXP = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)


class Row(types.Type):
    """Numba type of a row: vectors of these lengths, longest first."""

    def __init__(self, lanes: tuple[int, ...]) -> None:
        super().__init__(name=f"row{lanes}")
        self.lanes = lanes


vector = Row((LANES,))


@register_model(Row)
class _Model(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        parts = [ir.VectorType(_F32, lanes) for lanes in kind.lanes]
        super().__init__(manager, kind, ir.LiteralStructType(parts))


def instruction(function: Callable[..., Any]) -> Any:
    """Apply Numba's `intrinsic`; the result is Any, since callers do not pass the typing context that the signature shows."""
    return intrinsic(function)


def joined(context: Any, builder: Any, kind: Row, parts: list[Any]) -> Any:
    """Return the row that consists of these vectors."""
    row = ir.Constant(context.get_value_type(kind), ir.Undefined)
    for i, part in enumerate(parts):
        row = builder.insert_value(row, part, i)
    return row


def parts_of(builder: Any, row: Any) -> list[Any]:
    """Return the vectors of a row."""
    return [builder.extract_value(row, i) for i in range(len(row.type.elements))]


def pointer(context: Any, builder: Any, kind: Any, array: Any, index: Any, lanes: int) -> Any:
    """Return the address of the vector that begins at `index` of a flat array."""
    data = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), ir.VectorType(_F32, lanes).as_pointer())


def spread_over(builder: Any, value: Any, lanes: tuple[int, ...]) -> list[Any]:
    """Return vectors of these lengths filled with `value`; the shorter ones are cut from the first, which is the longest."""
    undefined = ir.Constant(ir.VectorType(_F32, lanes[0]), ir.Undefined)
    one = builder.insert_element(undefined, value, _I32(0))
    full = builder.shuffle_vector(one, undefined, _order([0] * lanes[0]))
    return [
        full if count == lanes[0] else builder.shuffle_vector(full, undefined, _order(range(count))) for count in lanes
    ]


def _order(lanes: Any) -> ir.Constant:
    return ir.Constant(ir.VectorType(_I32, len(lanes)), list(lanes))


def _fill(like: Any, value: float, kind: Any = _F32) -> ir.Constant:
    """Return a constant vector with as many lanes as `like`."""
    return ir.Constant(ir.VectorType(kind, like.type.count), [value] * like.type.count)


def _call(builder: Any, name: str, *values: Any) -> Any:
    """Call the LLVM intrinsic of this name on vectors."""
    kind = values[0].type
    full_name = f"llvm.{name}.v{kind.count}f32"
    function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(kind, [kind] * len(values)), full_name)
    return builder.call(function, values)


@instruction
def load(typing, array, index):  # type: ignore[no-untyped-def]
    """Return LANES numbers of a flat float32 array, from `index` on."""

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        part = builder.load(pointer(context, builder, signature.args[0], args[0], args[1], LANES), align=4)
        return joined(context, builder, vector, [part])

    return vector(array, types.intp), generate


@instruction
def store(typing, array, index, value):  # type: ignore[no-untyped-def]
    """Write a vector to a flat float32 array, from `index` on."""

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        (part,) = parts_of(builder, args[2])
        builder.store(part, pointer(context, builder, signature.args[0], args[0], args[1], LANES), align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, vector), generate


@instruction
def spread(typing, value):  # type: ignore[no-untyped-def]
    """Return a vector whose lanes all hold `value`."""

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return joined(context, builder, vector, spread_over(builder, args[0], vector.lanes))

    return vector(types.float32), generate


@instruction
def element(typing, array, index):  # type: ignore[no-untyped-def]
    """Return a number of a flat array at an index >= 0, without the check for negative indices of Numba's own indexing."""

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        return builder.load(builder.gep(data, [args[1]]))

    return array.dtype(array, types.intp), generate


@instruction
def prefetch(typing, array, index):  # type: ignore[no-untyped-def]
    """Prefetch, for writing, the cache line of one number of a flat array."""

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        prefetch_line(context, builder, signature.args[0], *args)
        return context.get_dummy_value()

    return types.void(array, types.intp), generate


def prefetch_line(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> None:
    data = context.make_array(kind)(context, builder, array).data
    address = builder.bitcast(builder.gep(data, [index]), _I8.as_pointer())
    asked = ir.FunctionType(ir.VoidType(), [_I8.as_pointer(), _I32, _I32, _I32])
    function = cgutils.get_or_insert_function(builder.module, asked, "llvm.prefetch.p0")
    builder.call(function, [address, _I32(1), _I32(3), _I32(1)])  # for writing, into all caches, data


@instruction
def transpose(typing, source, start, pitch, target, to, target_pitch):  # type: ignore[no-untyped-def]
    """Transpose a block of LANES x LANES numbers of a flat array, whose rows are `pitch` apart, into another array."""

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        rows = []
        for row in range(LANES):
            index = builder.add(args[1], builder.mul(args[2], _I64(row)))
            rows.append(builder.load(pointer(context, builder, signature.args[0], args[0], index, LANES), align=4))
        distance = 1
        while distance < LANES:
            # Of each pair of rows, exchange the off-diagonal blocks of this size.
            low = [lane if not lane & distance else lane - distance + LANES for lane in range(LANES)]
            high = [lane + distance if not lane & distance else lane + LANES for lane in range(LANES)]
            for i in range(LANES):
                if not i & distance:
                    a, b = rows[i], rows[i + distance]
                    rows[i] = builder.shuffle_vector(a, b, _order(low))
                    rows[i + distance] = builder.shuffle_vector(a, b, _order(high))
            distance *= 2
        for row in range(LANES):
            index = builder.add(args[4], builder.mul(args[5], _I64(row)))
            builder.store(rows[row], pointer(context, builder, signature.args[3], args[3], index, LANES), align=4)
        return context.get_dummy_value()

    return types.void(source, types.intp, types.intp, target, types.intp, types.intp), generate


def _operation(num_operands: int, build: Callable[..., Any], doc: str) -> Any:
    """Return an intrinsic that maps rows to a row, vector by vector."""

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        operands = zip(*(parts_of(builder, row) for row in args), strict=True)
        return joined(context, builder, signature.return_type, [build(builder, *parts) for parts in operands])

    match num_operands:
        case 1:

            def one(typing, a):  # type: ignore[no-untyped-def]
                return a(a), generate

            one.__doc__ = doc
            return intrinsic(one)
        case 2:

            def two(typing, a, b):  # type: ignore[no-untyped-def]
                return a(a, a), generate

            two.__doc__ = doc
            return intrinsic(two)
        case _:

            def three(typing, a, b, c):  # type: ignore[no-untyped-def]
                return a(a, a, a), generate

            three.__doc__ = doc
            return intrinsic(three)


def _over_lanes(combine: Callable[..., Any], doc: str, last: Callable[..., Any] = lambda b, x: x) -> Any:
    """Return an intrinsic that combines all numbers of a row into one, applies `last`, and returns the result in every lane."""

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        (kind,) = signature.args
        total, *others = parts_of(builder, args[0])
        for other in others:
            while total.type.count > other.type.count:
                total = _halved(builder, combine, total)
            total = combine(builder, total, other)
        while total.type.count > 1:
            total = _halved(builder, combine, total)
        value = last(builder, builder.extract_element(total, _I32(0)))
        return joined(context, builder, kind, spread_over(builder, value, kind.lanes))

    def one(typing, a):  # type: ignore[no-untyped-def]
        return a(a), generate

    one.__doc__ = doc
    return intrinsic(one)


def _halved(builder: Any, combine: Callable[..., Any], x: Any) -> Any:
    """Combine the lower and the upper half of a vector."""
    half, undefined = x.type.count // 2, ir.Constant(x.type, ir.Undefined)
    low, high = (builder.shuffle_vector(x, undefined, _order(range(at, at + half))) for at in (0, half))
    return combine(builder, low, high)


def _larger(builder: Any, a: Any, b: Any) -> Any:
    return builder.select(builder.fcmp_ordered(">", a, b), a, b)


def _exp(builder: Any, x: Any) -> Any:
    x = _larger(builder, x, _fill(x, -80.0))  # exp(-87) times a scale below 1 would be denormal, and slow
    power = _call(builder, "rint", builder.fmul(x, _fill(x, float(np.float32(1.44269504088896341)))))
    minus = builder.fneg(power)
    rest = _call(builder, "fmuladd", minus, _fill(x, 0.693359375), x)
    rest = _call(builder, "fmuladd", minus, _fill(x, float(np.float32(-2.12194440e-4))), rest)
    series = _fill(x, float(np.float32(_EXP[0])))
    for coefficient in _EXP[1:]:
        series = _call(builder, "fmuladd", series, rest, _fill(x, float(np.float32(coefficient))))
    series = _call(builder, "fmuladd", series, builder.fmul(rest, rest), rest)
    series = builder.fadd(series, _fill(x, 1.0))
    whole = ir.VectorType(_I32, x.type.count)
    exponent = builder.add(builder.fptosi(power, whole), _fill(x, 127, _I32))
    return builder.fmul(series, builder.bitcast(builder.shl(exponent, _fill(x, 23, _I32)), x.type))


def _log(builder: Any, x: Any) -> Any:
    whole = ir.VectorType(_I32, x.type.count)
    bits = builder.bitcast(x, whole)
    # Subtract the bits of sqrt(1/2) before taking the exponent, so that the mantissa is in [sqrt(1/2), sqrt(2)).
    exponent = builder.ashr(builder.sub(bits, _fill(x, 0x3F3504F3, _I32)), _fill(x, 23, _I32))
    mantissa = builder.bitcast(builder.sub(bits, builder.shl(exponent, _fill(x, 23, _I32))), x.type)
    rest, power = builder.fsub(mantissa, _fill(x, 1.0)), builder.sitofp(exponent, x.type)
    square = builder.fmul(rest, rest)
    series = _fill(x, float(np.float32(_LOG[0])))
    for coefficient in _LOG[1:]:
        series = _call(builder, "fmuladd", series, rest, _fill(x, float(np.float32(coefficient))))
    series = builder.fmul(builder.fmul(series, rest), square)
    series = _call(builder, "fmuladd", power, _fill(x, float(np.float32(-2.12194440e-4))), series)
    series = _call(builder, "fmuladd", square, _fill(x, -0.5), series)
    return _call(builder, "fmuladd", power, _fill(x, 0.693359375), builder.fadd(rest, series))


add = _operation(2, lambda b, x, y: b.fadd(x, y), "x + y")
subtract = _operation(2, lambda b, x, y: b.fsub(x, y), "x - y")
multiply = _operation(2, lambda b, x, y: b.fmul(x, y), "x * y")
multiply_add = _operation(3, lambda b, x, y, z: _call(b, "fmuladd", x, y, z), "x * y + z, rounded once if it can be")
larger = _operation(2, _larger, "the larger of two, by lane")
smaller = _operation(2, lambda b, x, y: b.select(b.fcmp_ordered("<", y, x), y, x), "the smaller of two, by lane")
nearest = _operation(1, lambda b, x: _call(b, "rint", x), "the nearest whole number, halves to even")
is_less = _operation(
    2, lambda b, x, y: b.uitofp(b.fcmp_ordered("<", x, y), x.type), "1 in the lanes where x < y, 0 in the others"
)
keep_if_above = _operation(
    2, lambda b, x, y: b.select(b.fcmp_ordered(">=", x, y), x, _fill(x, 0.0)), "x where it reaches y, else 0"
)
max_of_lanes = _over_lanes(_larger, "the largest lane, in all lanes")
one_over_sum = _over_lanes(
    lambda b, x, y: b.fadd(x, y), "1 / the sum of the lanes, in all lanes", lambda b, x: b.fdiv(_F32(1.0), x)
)
exp = _operation(1, _exp, "exp(x) for x <= 0, at least exp(-80): relative error about 1e-7 (Cephes' polynomial)")
log = _operation(1, _log, "log(x) of positive normal numbers: relative error about 1e-7 (Cephes' polynomial)")
