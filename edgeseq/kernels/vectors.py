"""Eight lanes as one Numba value, and what the SIMD kernels do with them.

A Numba type whose data model is an LLVM vector lets a kernel written in Python hold SIMD
registers: eight int32, eight int64 (`wide`) or sixteen int16 in pairs (`pair`). LLVM splits them
over several registers where a core has smaller ones.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.core.datamodel import models
from numba.extending import intrinsic, register_model

from edgeseq.kernels.primitives import address, call_intrinsic

__all__ = [
    "lane_madd8",
    "lane_madd16",
    "pair_join8",
    "pair_join16",
    "pair_load8",
    "pair_load16",
    "pair_madd8",
    "pair_madd16",
    "pair_multiply",
    "pair_odd",
    "pair_splat",
    "vector_add",
    "vector_lane",
    "vector_load",
    "vector_load8",
    "vector_load16",
    "vector_multiply",
    "vector_requantise",
    "vector_splat",
    "vector_store8",
    "vector_store16",
    "vector_store32",
    "vector_sum",
    "vector_zero",
    "wide_add",
    "wide_extend",
    "wide_requantise",
    "wide_store8",
    "wide_store16",
    "wide_store32",
    "wide_sum",
    "wide_zero",
]

LANES = 8
_I16, _I32, _I64 = ir.IntType(16), ir.IntType(32), ir.IntType(64)
_VECTOR = ir.VectorType(_I32, LANES)


_WIDE, _PAIRS = ir.VectorType(_I64, LANES), ir.VectorType(_I16, 2 * LANES)


class _Register(types.Type):
    """A Numba type that is an LLVM vector."""


class _Lanes(_Register):
    def __init__(self) -> None:
        super().__init__("int32x8")


class _Wide(_Register):
    def __init__(self) -> None:
        super().__init__("int64x8")


class _Pairs(_Register):
    def __init__(self) -> None:
        super().__init__("int16x16")


_lanes, _wide, _pairs = _Lanes(), _Wide(), _Pairs()
#: LLVM's type of each register type.
REGISTERS = {_lanes: _VECTOR, _wide: _WIDE, _pairs: _PAIRS}


@register_model(_Lanes)
@register_model(_Wide)
@register_model(_Pairs)
class _RegisterModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, REGISTERS[kind])


def _splat(builder: Any, scalar: Any, lanes: int) -> Any:
    kind = ir.VectorType(scalar.type, lanes)
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), scalar, ir.Constant(_I32, 0))
    zeros = ir.Constant(ir.VectorType(_I32, lanes), [0] * lanes)
    return builder.shuffle_vector(one, ir.Constant(kind, ir.Undefined), zeros)


def _numbers(element: Any, value: int) -> Any:
    return ir.Constant(ir.VectorType(element, LANES), [value] * LANES)


def _load(builder: Any, pointer: Any, offset: Any, bits: int, lanes: int, align: int) -> Any:
    kind = ir.VectorType(ir.IntType(bits), lanes)
    return builder.load(address(builder, pointer, offset, kind), align=align)


@intrinsic
def vector_zero(typingctx: Any) -> Any:
    """Eight zeros."""

    def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _numbers(_I32, 0)

    return _lanes(), lower


@intrinsic
def vector_load(typingctx: Any, pointer: Any, offset: Any) -> Any:
    """Eight int32 from a multiple of 4."""

    def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _load(builder, args[0], args[1], 32, LANES, 4)

    return _lanes(types.voidptr, types.int32), lower


def _widening(bits: int) -> Callable[..., Any]:
    def typed(typingctx: Any, pointer: Any, offset: Any) -> Any:
        def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.sext(_load(builder, args[0], args[1], bits, LANES, bits // 8), _VECTOR)

        return _lanes(types.voidptr, types.int32), lower

    return typed


#: Eight int8 or int16, widened.
vector_load8 = intrinsic(_widening(8))
vector_load16 = intrinsic(_widening(16))


@intrinsic
def vector_multiply(typingctx: Any, a: Any, b: Any) -> Any:
    """Lane by lane, low 32 bits."""

    def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.mul(args[0], args[1])

    return _lanes(_lanes, _lanes), lower


@intrinsic
def vector_lane(typingctx: Any, a: Any, lane: Any) -> Any:
    """One of the eight int32."""

    def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.extract_element(args[0], args[1])

    return types.int32(_lanes, types.int32), lower


@intrinsic
def vector_add(typingctx: Any, a: Any, b: Any) -> Any:
    """Lane by lane, low 32 bits."""

    def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.add(args[0], args[1])

    return _lanes(_lanes, _lanes), lower


@intrinsic
def vector_requantise(typingctx: Any, a: Any, m: Any, half: Any, shift: Any) -> Any:
    """``(a * m + half) >> shift`` with 64-bit products, low 32 bits."""

    def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        wide = ir.VectorType(_I64, LANES)
        product = builder.mul(builder.sext(args[0], wide), builder.sext(args[1], wide))
        total = builder.add(product, _splat(builder, args[2], LANES))
        return builder.trunc(builder.ashr(total, _splat(builder, args[3], LANES)), _VECTOR)

    return _lanes(_lanes, _lanes, types.int64, types.int64), lower


def _storer(bits: int) -> Callable[..., Any]:
    def typed(typingctx: Any, pointer: Any, offset: Any, value: Any) -> Any:
        def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            value = args[2]
            if bits < 32:
                top = (1 << (bits - 1)) - 1
                for name, bound in (("smax", -top - 1), ("smin", top)):
                    limit = _numbers(_I32, bound)
                    value = call_intrinsic(builder, f"llvm.{name}.v8i32", _VECTOR, [value, limit])
                value = builder.trunc(value, ir.VectorType(ir.IntType(bits), LANES))
            cell = address(builder, args[0], args[1], value.type)
            builder.store(value, cell, align=bits // 8)
            return context.get_dummy_value()

        return types.void(types.voidptr, types.int32, _lanes), lower

    return typed


#: Stores of eight lanes, saturated to the width.
vector_store8 = intrinsic(_storer(8))
vector_store16 = intrinsic(_storer(16))
vector_store32 = intrinsic(_storer(32))


def _pair_madd(bits: int) -> Callable[..., Any]:
    def typed(typingctx: Any, total: Any, pointer: Any, offset: Any, x: Any) -> Any:
        def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            halves = ir.VectorType(_I16, 2 * LANES)
            w = _load(builder, args[1], args[2], bits, 2 * LANES, bits // 8)
            w = w if bits == 16 else builder.sext(w, halves)
            both = builder.bitcast(_splat(builder, args[3], LANES), halves)
            product = call_intrinsic(builder, "llvm.x86.avx2.pmadd.wd", _VECTOR, [w, both])
            return builder.add(args[0], product)

        return _lanes(_lanes, types.voidptr, types.int32, types.int32), lower

    return typed


#: total + for each lane, the two weights of its row times the two int16 in x (AVX2 `VPMADDWD`).
pair_madd8 = intrinsic(_pair_madd(8))
pair_madd16 = intrinsic(_pair_madd(16))


def _lane_madd(bits: int) -> Callable[..., Any]:
    def typed(typingctx: Any, total: Any, pointer: Any, offset: Any, x: Any) -> Any:
        def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            halves = ir.VectorType(_I16, LANES)
            w = _load(builder, args[1], args[2], bits, LANES, bits // 8)
            w = w if bits == 16 else builder.sext(w, halves)
            both = _splat(builder, builder.trunc(args[3], _I16), LANES)
            product = builder.mul(builder.sext(w, _VECTOR), builder.sext(both, _VECTOR))
            return builder.add(args[0], product)

        return _lanes(_lanes, types.voidptr, types.int32, types.int32), lower

    return typed


#: total + for each lane, the weight of its row times the int16 x (NEON `SMLAL`).
lane_madd8 = intrinsic(_lane_madd(8))
lane_madd16 = intrinsic(_lane_madd(16))


# -- sums of 64 bits -----------------------------------------------------------------------------


@intrinsic
def wide_zero(typingctx: Any) -> Any:
    """Eight int64 zeros."""

    def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _numbers(_I64, 0)

    return _wide(), lower


@intrinsic
def wide_add(typingctx: Any, total: Any, a: Any) -> Any:
    """Lane by lane, int64 + int32."""

    def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.add(args[0], builder.sext(args[1], _WIDE))

    return _wide(_wide, _lanes), lower


@intrinsic
def wide_extend(typingctx: Any, a: Any) -> Any:
    """Eight int32 as int64."""

    def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.sext(args[0], _WIDE)

    return _wide(_lanes), lower


@intrinsic
def wide_requantise(typingctx: Any, a: Any, more: Any, m: Any, half: Any, shift: Any) -> Any:
    """``((a + more) * m + half) >> shift``, lane by lane."""

    def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        more, m, half, shift = (_splat(builder, x, LANES) for x in args[1:])
        product = builder.mul(builder.add(args[0], more), m)
        return builder.ashr(builder.add(product, half), shift)

    return _wide(_wide, types.int64, types.int64, types.int64, types.int64), lower


def _wide_storer(bits: int) -> Callable[..., Any]:
    def typed(typingctx: Any, pointer: Any, offset: Any, value: Any) -> Any:
        def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            value, top = args[2], (1 << (bits - 1)) - 1
            for name, bound in (("smax", -top - 1), ("smin", top)):
                value = call_intrinsic(
                    builder, f"llvm.{name}.v8i64", _WIDE, [value, _numbers(_I64, bound)]
                )
            value = builder.trunc(value, ir.VectorType(ir.IntType(bits), LANES))
            cell = address(builder, args[0], args[1], value.type)
            builder.store(value, cell, align=bits // 8)
            return context.get_dummy_value()

        return types.void(types.voidptr, types.int32, _wide), lower

    return typed


#: Stores of eight int64, saturated to the width.
wide_store8 = intrinsic(_wide_storer(8))
wide_store16 = intrinsic(_wide_storer(16))
wide_store32 = intrinsic(_wide_storer(32))


def _summing(bits: int, kind: Any, result: Any) -> Callable[..., Any]:
    def typed(typingctx: Any, a: Any) -> Any:
        def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            name = f"llvm.vector.reduce.add.v8i{bits}"
            return call_intrinsic(builder, name, ir.IntType(bits), [args[0]])

        return result(kind), lower

    return typed


#: The sum of all lanes.
vector_sum = intrinsic(_summing(32, _lanes, types.int32))
wide_sum = intrinsic(_summing(64, _wide, types.int64))


# -- pairs ---------------------------------------------------------------------------------------


@intrinsic
def vector_splat(typingctx: Any, a: Any) -> Any:
    """An int32 in every lane."""

    def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _splat(builder, args[0], LANES)

    return _lanes(types.int32), lower


@intrinsic
def pair_splat(typingctx: Any, a: Any) -> Any:
    """The two int16 in an int32, in every pair."""

    def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(_splat(builder, args[0], LANES), _PAIRS)

    return _pairs(types.int32), lower


def _pair_loader(bits: int) -> Callable[..., Any]:
    def typed(typingctx: Any, pointer: Any, offset: Any) -> Any:
        def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            value = _load(builder, args[0], args[1], bits, 2 * LANES, bits // 8)
            return value if bits == 16 else builder.sext(value, _PAIRS)

        return _pairs(types.voidptr, types.int32), lower

    return typed


#: Sixteen neighbours.
pair_load8 = intrinsic(_pair_loader(8))
pair_load16 = intrinsic(_pair_loader(16))


@intrinsic
def pair_odd(typingctx: Any, pointer: Any, offset: Any) -> Any:
    """The odd ones of 32 bytes, as numbers from -128 to 127."""

    def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        both = _load(builder, args[0], args[1], 16, 2 * LANES, 1)
        return builder.ashr(both, ir.Constant(_PAIRS, [8] * 2 * LANES))

    return _pairs(types.voidptr, types.int32), lower


def _pair_joiner(bits: int) -> Callable[..., Any]:
    def typed(typingctx: Any, pointer: Any, first: Any, second: Any) -> Any:
        def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            a, b = (_load(builder, args[0], at, bits, LANES, bits // 8) for at in args[1:])
            order = [k // 2 + LANES * (k % 2) for k in range(2 * LANES)]
            mask = ir.Constant(ir.VectorType(_I32, 2 * LANES), order)
            both = builder.shuffle_vector(a, b, mask)
            return both if bits == 16 else builder.sext(both, _PAIRS)

        return _pairs(types.voidptr, types.int32, types.int32), lower

    return typed


#: Eight neighbours at the first offset, each paired with that at the second.
pair_join8 = intrinsic(_pair_joiner(8))
pair_join16 = intrinsic(_pair_joiner(16))


@intrinsic
def pair_multiply(typingctx: Any, a: Any, b: Any) -> Any:
    """Sums of the two products of each pair, low 32 bits (AVX2 `VPMADDWD`)."""

    def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return call_intrinsic(builder, "llvm.x86.avx2.pmadd.wd", _VECTOR, list(args))

    return _lanes(_pairs, _pairs), lower
