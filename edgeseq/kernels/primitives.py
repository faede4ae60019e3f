"""What a kernel may do beyond Python's integers: raw memory, and a few instructions.

Kernels see two kinds of values: pointers (`types.voidptr`) and integers. Numba types the sum or
product of two int32 as int64, which is what the definitions in `edgeseq.fixed` ask for; a kernel
narrows with `np.int32(...)` where it knows that the value fits (or wants the low 32 bits), and
LLVM turns the pair into one 32-bit instruction.

Offsets are in bytes. No access is checked: the planner proves the bounds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

__all__ = [
    "add_saturated",
    "advance",
    "after",
    "choose",
    "choose64",
    "clamp32",
    "clamp64",
    "divide",
    "divide64",
    "equal",
    "greater",
    "leading_zeros",
    "less",
    "load8",
    "load16",
    "load32",
    "load32_any",
    "load32_half",
    "load64_any",
    "max32",
    "min32",
    "mul32",
    "not_less",
    "shift_left",
    "shift_right",
    "shift_right64",
    "smlad",
    "store8",
    "store16",
    "store32",
    "store32_any",
    "store64_any",
    "sub_saturated",
    "sxtb16",
    "sxtb16_ror8",
]

_I8, _I16, _I32, _I64 = (ir.IntType(n) for n in (8, 16, 32, 64))


def address(builder: Any, pointer: Any, offset: Any, element: Any = _I8) -> Any:
    """pointer + offset bytes, as a pointer to `element` in LLVM IR."""
    cell = builder.gep(pointer, [offset], source_etype=_I8)
    return cell if element is _I8 else builder.bitcast(cell, element.as_pointer())


def _loader(width: int, align: int) -> Callable[..., Any]:
    def typed(typingctx: Any, pointer: Any, offset: Any) -> Any:
        def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            cell = address(builder, args[0], args[1], ir.IntType(width))
            value = builder.load(cell, align=align)
            return value if width >= 32 else builder.sext(value, _I32)

        kind = types.int64 if width == 64 else types.int32
        return kind(types.voidptr, types.int32), lower

    return typed


def _storer(width: int, align: int) -> Callable[..., Any]:
    def typed(typingctx: Any, pointer: Any, offset: Any, value: Any) -> Any:
        def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            stored = args[2] if width >= 32 else builder.trunc(args[2], ir.IntType(width))
            builder.store(stored, address(builder, args[0], args[1], stored.type), align=align)
            return context.get_dummy_value()

        kind = types.int64 if width == 64 else types.int32
        return types.void(types.voidptr, types.int32, kind), lower

    return typed


#: Loads: sign-extended to int32.
load8 = intrinsic(_loader(8, 1))
load16 = intrinsic(_loader(16, 2))
load32 = intrinsic(_loader(32, 4))
#: A 32-bit load at an address that is only a multiple of 2 (two int16 at once).
load32_half = intrinsic(_loader(32, 2))
#: Loads from any address, for cores that have them.
load32_any = intrinsic(_loader(32, 1))
load64_any = intrinsic(_loader(64, 1))

#: Stores: of the low bits.
store8 = intrinsic(_storer(8, 1))
store16 = intrinsic(_storer(16, 2))
store32 = intrinsic(_storer(32, 4))
store32_any = intrinsic(_storer(32, 1))
store64_any = intrinsic(_storer(64, 1))


@intrinsic
def advance(typingctx: Any, pointer: Any, offset: Any) -> Any:
    """pointer + offset bytes."""

    def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return address(builder, args[0], args[1])

    return types.voidptr(types.voidptr, types.int32), lower


def call_intrinsic(builder: Any, name: str, result: Any, args: list[Any]) -> Any:
    """Call of an LLVM intrinsic by name."""
    signature = ir.FunctionType(result, [a.type for a in args])
    function = builder.module.globals.get(name) or ir.Function(builder.module, signature, name)
    return builder.call(function, args)


@intrinsic
def smlad(typingctx: Any, a: Any, b: Any, c: Any) -> Any:
    """c + a.low * b.low + a.high * b.high: two int16 products, Armv7E-M `SMLAD`."""

    def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return call_intrinsic(builder, "llvm.arm.smlad", _I32, list(args))

    return types.int32(types.int32, types.int32, types.int32), lower


@intrinsic
def sxtb16(typingctx: Any, a: Any) -> Any:
    """Bytes 0 and 2 as two int16, Armv7E-M `SXTB16`."""

    def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return call_intrinsic(builder, "llvm.arm.sxtb16", _I32, list(args))

    return types.int32(types.int32), lower


@intrinsic
def sxtb16_ror8(typingctx: Any, a: Any) -> Any:
    """Bytes 1 and 3 as two int16, Armv7E-M `SXTB16 ..., ROR #8`."""

    def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        eight = ir.Constant(_I32, 8)
        high = builder.shl(args[0], ir.Constant(_I32, 24))
        turned = builder.or_(builder.lshr(args[0], eight), high)
        return call_intrinsic(builder, "llvm.arm.sxtb16", _I32, [turned])

    return types.int32(types.int32), lower


def _saturating(name: str) -> Callable[..., Any]:
    def typed(typingctx: Any, a: Any, b: Any) -> Any:
        def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return call_intrinsic(builder, name, _I32, list(args))

        return types.int32(types.int32, types.int32), lower

    return typed


#: Sum and difference of two int32, saturated (`QADD`, `QSUB` where there are).
add_saturated = intrinsic(_saturating("llvm.sadd.sat.i32"))
sub_saturated = intrinsic(_saturating("llvm.ssub.sat.i32"))


def _clamping(width: int) -> Callable[..., Any]:
    kind = types.int32 if width == 32 else types.int64

    def typed(typingctx: Any, value: Any, lo: Any, hi: Any) -> Any:
        def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            cell = ir.IntType(width)
            raised = call_intrinsic(builder, f"llvm.smax.i{width}", cell, [args[0], args[1]])
            return call_intrinsic(builder, f"llvm.smin.i{width}", cell, [raised, args[2]])

        return kind(kind, kind, kind), lower

    return typed


#: min(max(value, lo), hi) in 32 or 64 bits (`SSAT` where the bounds allow it).
clamp32 = intrinsic(_clamping(32))
clamp64 = intrinsic(_clamping(64))


def _extreme(name: str) -> Callable[..., Any]:
    def typed(typingctx: Any, a: Any, b: Any) -> Any:
        def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return call_intrinsic(builder, name, _I32, list(args))

        return types.int32(types.int32, types.int32), lower

    return typed


#: The greater and the lesser of two int32.
max32 = intrinsic(_extreme("llvm.smax.i32"))
min32 = intrinsic(_extreme("llvm.smin.i32"))


def _comparing(sign: str) -> Callable[..., Any]:
    def typed(typingctx: Any, a: Any, b: Any) -> Any:
        def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.zext(builder.icmp_signed(sign, args[0], args[1]), _I32)

        return types.int32(types.int32, types.int32), lower

    return typed


#: 1 where the comparison of two int32 holds, else 0.
greater = intrinsic(_comparing(">"))
not_less = intrinsic(_comparing(">="))
equal = intrinsic(_comparing("=="))


def _choosing(kind: Any) -> Callable[..., Any]:
    def typed(typingctx: Any, condition: Any, a: Any, b: Any) -> Any:
        def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            holds = builder.icmp_signed("!=", args[0], ir.Constant(_I32, 0))
            return builder.select(holds, args[1], args[2])

        return kind(types.int32, kind, kind), lower

    return typed


#: a where the condition is not 0, else b; without a branch.
choose = intrinsic(_choosing(types.int32))
choose64 = intrinsic(_choosing(types.int64))


@intrinsic
def leading_zeros(typingctx: Any, a: Any) -> Any:
    """Zero bits above the highest one of an int32 that is not 0."""

    def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.ctlz(args[0], ir.Constant(ir.IntType(1), 1))

    return types.int32(types.int32), lower


def _plain(operation: str, kind: Any) -> Callable[..., Any]:
    def typed(typingctx: Any, a: Any, b: Any) -> Any:
        def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return getattr(builder, operation)(args[0], args[1])

        return kind(kind, kind), lower

    return typed


#: Shift of 32 bits to the left; to the right, zeros coming in (and the same of 64 bits).
shift_left = intrinsic(_plain("shl", types.int32))
shift_right = intrinsic(_plain("lshr", types.int32))
shift_right64 = intrinsic(_plain("lshr", types.int64))
#: Quotient of two unsigned numbers of 32 or 64 bits, cut off.
divide = intrinsic(_plain("udiv", types.int32))
divide64 = intrinsic(_plain("udiv", types.int64))


@intrinsic
def less(typingctx: Any, a: Any, b: Any) -> Any:
    """a - b of two int32 that cannot overflow: loop counters stay 32 bits wide."""

    def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.sub(args[0], args[1], flags=("nsw",))

    return types.int32(types.int32, types.int32), lower


@intrinsic
def mul32(typingctx: Any, a: Any, b: Any) -> Any:
    """Low 32 bits of a product; Numba's own product of two int32 has 64."""

    def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.mul(args[0], args[1])

    return types.int32(types.int32, types.int32), lower


@intrinsic
def after(typingctx: Any, pointer: Any, value: Any) -> Any:
    """The same pointer, but not before `value` is known; costs no instruction.

    An empty piece of inline assembly that ties them together. It keeps LLVM's scheduler from
    loading far ahead and spilling, and its loop pass from rewriting pointers as indices.
    """

    def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.FunctionType(args[0].type, [args[0].type, args[1].type])
        return builder.asm(kind, "", "=r,0,r", [args[0], args[1]], False)

    return types.voidptr(types.voidptr, types.int32), lower
