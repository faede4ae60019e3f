"""Eight int32 lanes as one Numba value, and what the SIMD kernels do with them.

A Numba type whose data model is an LLVM vector lets a kernel written in Python hold SIMD
registers. LLVM splits the eight lanes over two registers where a core has 128-bit ones.
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
    "pair_madd8",
    "pair_madd16",
    "vector_add",
    "vector_load",
    "vector_requantise",
    "vector_store8",
    "vector_store16",
    "vector_store32",
    "vector_zero",
]

LANES = 8
_I16, _I32, _I64 = ir.IntType(16), ir.IntType(32), ir.IntType(64)
_VECTOR = ir.VectorType(_I32, LANES)


class _Lanes(types.Type):
    def __init__(self) -> None:
        super().__init__("int32x8")


_lanes = _Lanes()


@register_model(_Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _VECTOR)


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
