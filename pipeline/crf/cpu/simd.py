"""Vectors of LANES float32 numbers for Numba functions, as LLVM instructions: no compiler at install, no guessing by one.

`load`, `store`, `spread` and the arithmetic below work on values of the Numba type `vector`; machines with narrower registers
split them. Nothing here may be reordered or contracted but `multiply_add`.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

LANES = 8  # float32 numbers of one vector

_F32, _F64 = ir.FloatType(), ir.DoubleType()
_I8, _I32, _I64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)
_VF32, _VF64, _VI32, _VI64 = (ir.VectorType(scalar, LANES) for scalar in (_F32, _F64, _I32, _I64))
_EXP = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)


class _Vector(types.Type):
    def __init__(self) -> None:
        super().__init__(name=f"float32x{LANES}")


vector = _Vector()


@register_model(_Vector)
class _Model(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _VF32)


def _instruction(function: Callable[..., Any]) -> Any:
    """Numba's decorator; Any, as the type checker sees the typing context that callers do not pass."""
    return intrinsic(function)


def _fill(kind: ir.VectorType, value: float) -> ir.Constant:
    return ir.Constant(kind, [value] * LANES)


def _call(builder: Any, name: str, kind: ir.VectorType, *values: Any) -> Any:
    """The LLVM intrinsic of this name on vectors."""
    full_name = f"llvm.{name}.v{LANES}{'f32' if kind is _VF32 else 'f64'}"
    function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(kind, [kind] * len(values)), full_name)
    return builder.call(function, values)


def _pointer(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> Any:
    data = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), _VF32.as_pointer())


@_instruction
def load(typing, array, index):  # type: ignore[no-untyped-def]
    """LANES numbers of a flat float32 array, from `index` on."""

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return builder.load(_pointer(context, builder, signature.args[0], *args), align=4)

    return vector(array, types.intp), generate


@_instruction
def store(typing, array, index, value):  # type: ignore[no-untyped-def]
    """Write a vector to a flat float32 array, from `index` on."""

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        builder.store(args[2], _pointer(context, builder, signature.args[0], *args[:2]), align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, vector), generate


@_instruction
def spread(typing, value):  # type: ignore[no-untyped-def]
    """A vector whose lanes all hold `value`."""

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        one = builder.insert_element(ir.Constant(_VF32, ir.Undefined), args[0], _I32(0))
        return builder.shuffle_vector(one, ir.Constant(_VF32, ir.Undefined), ir.Constant(_VI32, [0] * LANES))

    return vector(types.float32), generate


@_instruction
def prefetch(typing, array, index):  # type: ignore[no-untyped-def]
    """Ask for the cache line of one number of a flat array, to be written soon."""

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        pointer = builder.bitcast(builder.gep(data, [args[1]]), _I8.as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [_I8.as_pointer(), _I32, _I32, _I32])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(function, [pointer, _I32(1), _I32(3), _I32(1)])  # for writing, into all caches, data
        return context.get_dummy_value()

    return types.void(array, types.intp), generate


@_instruction
def transpose(typing, source, start, pitch, target, to, target_pitch):  # type: ignore[no-untyped-def]
    """Write a block of LANES x LANES numbers of a flat array, whose rows are `pitch` apart, to another by columns."""

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        rows = []
        for row in range(LANES):
            index = builder.add(args[1], builder.mul(args[2], _I64(row)))
            rows.append(builder.load(_pointer(context, builder, signature.args[0], args[0], index), align=4))
        distance = 1
        while distance < LANES:
            # Of each pair of rows, exchange the off-diagonal blocks of this size.
            low = [lane if not lane & distance else lane - distance + LANES for lane in range(LANES)]
            high = [lane + distance if not lane & distance else lane + LANES for lane in range(LANES)]
            for i in range(LANES):
                if not i & distance:
                    a, b = rows[i], rows[i + distance]
                    rows[i] = builder.shuffle_vector(a, b, ir.Constant(_VI32, low))
                    rows[i + distance] = builder.shuffle_vector(a, b, ir.Constant(_VI32, high))
            distance *= 2
        for row in range(LANES):
            index = builder.add(args[4], builder.mul(args[5], _I64(row)))
            builder.store(rows[row], _pointer(context, builder, signature.args[3], args[3], index), align=4)
        return context.get_dummy_value()

    return types.void(source, types.intp, types.intp, target, types.intp, types.intp), generate


def _operation(num_operands: int, build: Callable[..., Any], doc: str) -> Any:
    """An intrinsic from vectors to a vector."""

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return build(builder, *args)

    match num_operands:
        case 1:

            def one(typing, a):  # type: ignore[no-untyped-def]
                return vector(vector), generate

            one.__doc__ = doc
            return intrinsic(one)
        case 2:

            def two(typing, a, b):  # type: ignore[no-untyped-def]
                return vector(vector, vector), generate

            two.__doc__ = doc
            return intrinsic(two)
        case _:

            def three(typing, a, b, c):  # type: ignore[no-untyped-def]
                return vector(vector, vector, vector), generate

            three.__doc__ = doc
            return intrinsic(three)


def _larger(builder: Any, a: Any, b: Any) -> Any:
    return builder.select(builder.fcmp_ordered(">", a, b), a, b)


def _fold(combine: Callable[..., Any]) -> Callable[..., Any]:
    """All lanes combined, the result in every lane: log2(LANES) exchanges."""

    def build(builder: Any, a: Any) -> Any:
        distance = 1
        while distance < LANES:
            order = ir.Constant(_VI32, [lane ^ distance for lane in range(LANES)])
            a = combine(builder, a, builder.shuffle_vector(a, ir.Constant(_VF32, ir.Undefined), order))
            distance *= 2
        return a

    return build


def _exp(builder: Any, x: Any) -> Any:
    x = _larger(builder, x, _fill(_VF32, -80.0))  # exp(-87) times a scale below 1 would be denormal, and slow
    power = _call(builder, "rint", _VF32, builder.fmul(x, _fill(_VF32, float(np.float32(1.44269504088896341)))))
    minus = builder.fneg(power)
    rest = _call(builder, "fmuladd", _VF32, minus, _fill(_VF32, 0.693359375), x)
    rest = _call(builder, "fmuladd", _VF32, minus, _fill(_VF32, float(np.float32(-2.12194440e-4))), rest)
    series = _fill(_VF32, float(np.float32(_EXP[0])))
    for coefficient in _EXP[1:]:
        series = _call(builder, "fmuladd", _VF32, series, rest, _fill(_VF32, float(np.float32(coefficient))))
    series = _call(builder, "fmuladd", _VF32, series, builder.fmul(rest, rest), rest)
    series = builder.fadd(series, _fill(_VF32, 1.0))
    exponent = builder.add(builder.fptosi(power, _VI32), _fill(_VI32, 127))
    return builder.fmul(series, builder.bitcast(builder.shl(exponent, _fill(_VI32, 23)), _VF32))


def _log(builder: Any, x: Any) -> Any:
    bits = builder.bitcast(builder.fpext(x, _VF64), _VI64)
    # Mantissa in [sqrt(1/2), sqrt(2)): add what carries into the exponent from sqrt(2) on.
    moved = builder.sub(bits, _fill(_VI64, 0x3FE6A09E667F3BCD))
    exponent = builder.ashr(moved, _fill(_VI64, 52))
    mantissa = builder.bitcast(builder.sub(bits, builder.shl(exponent, _fill(_VI64, 52))), _VF64)
    one = _fill(_VF64, 1.0)
    s = builder.fdiv(builder.fsub(mantissa, one), builder.fadd(mantissa, one))
    square = builder.fmul(s, s)
    series = _fill(_VF64, 2 / 15)
    for odd in (13, 11, 9, 7, 5, 3, 1):
        series = _call(builder, "fmuladd", _VF64, series, square, _fill(_VF64, 2 / odd))
    power = builder.sitofp(builder.trunc(exponent, _VI32), _VF64)
    total = _call(builder, "fmuladd", _VF64, power, _fill(_VF64, float(np.log(2))), builder.fmul(series, s))
    return builder.fptrunc(total, _VF32)


add = _operation(2, lambda b, x, y: b.fadd(x, y), "x + y")
subtract = _operation(2, lambda b, x, y: b.fsub(x, y), "x - y")
multiply = _operation(2, lambda b, x, y: b.fmul(x, y), "x * y")
divide = _operation(2, lambda b, x, y: b.fdiv(x, y), "x / y")
multiply_add = _operation(
    3, lambda b, x, y, z: _call(b, "fmuladd", _VF32, x, y, z), "x * y + z, rounded once if it can be"
)
larger = _operation(2, _larger, "the larger of two, by lane")
nearest = _operation(1, lambda b, x: _call(b, "rint", _VF32, x), "the nearest whole number, halves to even")
is_less = _operation(
    2, lambda b, x, y: b.uitofp(b.fcmp_ordered("<", x, y), _VF32), "1 in the lanes where x < y, 0 in the others"
)
keep_if_above = _operation(
    2, lambda b, x, y: b.select(b.fcmp_ordered(">=", x, y), x, _fill(_VF32, 0.0)), "x where it reaches y, else 0"
)
max_of_lanes = _operation(1, _fold(_larger), "the largest lane, in all lanes")
sum_of_lanes = _operation(1, _fold(lambda b, x, y: b.fadd(x, y)), "the sum of the lanes, in all lanes")
exp = _operation(1, _exp, "exp(x) for x <= 0, at least exp(-80): relative error about 1e-7 (Cephes' polynomial)")
log = _operation(1, _log, "log(x) of positive normal numbers, rounded from float64")
