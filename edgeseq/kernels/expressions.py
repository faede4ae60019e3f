"""Source of one element of every element-wise operation.

The arithmetic is that of `edgeseq.fixed`; `Range` decides between 32 and 64 bits, and leaves out
what cannot happen. An expression is an int32 where its range fits one, else an int64.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from edgeseq.errors import BackendError
from edgeseq.fixed import WIDE_INTERVALS
from edgeseq.ir.graph import Node
from edgeseq.kernels.linear import IntArray
from edgeseq.kernels.ranges import Range, of_dtype

__all__ = ["BITS", "INPUTS", "Context", "expression", "interpolated", "requantised_in"]

BITS = {"i8": 8, "i16": 16, "i32": 32}
_INT32 = (-(1 << 31), (1 << 31) - 1)
_COMPARE = {"gt": "greater", "ge": "not_less", "eq": "equal"}
_LOG4 = round(2.0**28 * float(np.log(4.0)))
_WIDE_STEP = {"sqrt": -1, "rsqrt": 1, "reciprocal": 2}

#: How many of a node's inputs are data; the one after them is a table.
INPUTS = {"lut": 1, "wide": 1}

Typed = tuple[str, Range]


class Variables(Protocol):
    """Where intermediate values are kept."""

    def let(self, text: str) -> str:
        """Name of a new variable that holds `text`."""


class Context(Variables, Protocol):
    """What an expression may ask of the loop it is part of."""

    def read(self, value: str) -> Typed:
        """Source and range of a value's element."""

    def table(self, value: str) -> tuple[str, IntArray]:
        """Pointer to a constant table, and what it holds."""


def atom(value: str, r: Range) -> str:
    """`value` as an int32 where it fits one."""
    return f"np.int32({value})" if r.fits32 else value


def _times(a: str, b: str, r: Range) -> str:
    """Source of a product whose range is r."""
    return f"mul32({a}, {b})" if r.fits32 else f"({a} * {b})"


def _saturate(expression: str, r: Range, dtype: str) -> Typed:
    limits = of_dtype(dtype)
    if r.within(limits.lo, limits.hi):
        return atom(expression, r), r
    function = "clamp32" if r.fits32 else "clamp64"
    text = f"{function}({expression}, {limits.lo}, {limits.hi})"
    clamped = r.clamped(limits.lo, limits.hi)
    return atom(text, clamped), clamped


def _too_wide(what: str, node: Node) -> BackendError:
    return BackendError(
        f"{what} does not fit 64 bits",
        where=f"node {node.name!r} ({node.op})",
        fix="report this: the quantiser chose a multiplier that is too large",
    )


def _shifted(expression: str, r: Range, shift: int, node: Node) -> Typed:
    """Source of ``(expression + 2^(shift-1)) >> shift``."""
    if shift == 0:
        return atom(expression, r), r
    half = 1 << (shift - 1)
    total = r + Range(half, half)
    if not total.fits64:
        raise _too_wide("an intermediate", node)
    result = r.rounded(shift)
    if r.fits32 and not total.fits32 and shift > 1:
        # Same value without the carry out of 32 bits: round after all but one bit is gone.
        text = f"((np.int32(np.int32({expression}) >> {shift - 1}) + 1) >> 1)"
    elif total.fits32:
        text = f"(np.int32({expression} + {half}) >> {shift})"
    else:
        text = f"(({expression} + {half}) >> {shift})"
    return atom(text, result), result


def _requantised(expression: str, r: Range, m: int, shift: int, node: Node) -> Typed:
    """Source of ``rq(expression, m, shift)`` with the smallest sufficient arithmetic."""
    while shift > 0 and m % 2 == 0 and m:
        m, shift = m // 2, shift - 1
    if m == 1:
        return _shifted(expression, r, shift, node)
    lifted = 32 - shift
    if lifted > 0 and r.fits32 and -(1 << 31) <= m << lifted < (1 << 31) and not r.scaled(m).fits32:
        m, shift = m << lifted, 32  # one high-word multiply instead of a 64-bit shift
    scaled = r.scaled(m)
    product = _times(atom(expression, r), str(m), scaled)
    if not scaled.fits64:
        raise _too_wide("a product", node)
    return _shifted(product, scaled, shift, node)


def requantised_in(expression: str, r: Range, m: int, shift: int, node: Node, dtype: str) -> Typed:
    """Source of ``sat(rq(expression, m, shift))`` as it is stored in a type."""
    return _saturate(*_requantised(expression, r, m, shift, node), dtype)


def _rescale(node: Node, dtype: str, loop: Context) -> Typed:
    a, r = loop.read(node.inputs[0])
    return _saturate(*_requantised(a, r, int(node.attrs["m"]), int(node.attrs["s"]), node), dtype)


def _mul(node: Node, dtype: str, loop: Context) -> Typed:
    (a, ra), (b, rb) = (loop.read(v) for v in node.inputs)
    r = ra * rb
    m, s = int(node.attrs["m"]), int(node.attrs["s"])
    return _saturate(*_requantised(_times(a, b, r), r, m, s, node), dtype)


def _clamp(node: Node, dtype: str, loop: Context) -> Typed:
    a, r = loop.read(node.inputs[0])
    limits = of_dtype(dtype)
    lo = limits.lo if node.attrs["lo"] is None else int(node.attrs["lo"])
    hi = limits.hi if node.attrs["hi"] is None else int(node.attrs["hi"])
    return (a, r) if r.within(lo, hi) else (f"clamp32({a}, {lo}, {hi})", r.clamped(lo, hi))


def _scaled(a: str, r: Range, factor: int) -> Typed:
    scaled = r.scaled(factor)
    return (a, r) if factor == 1 else (_times(a, str(factor), scaled), scaled)


def _add(node: Node, dtype: str, loop: Context) -> Typed:
    ma, mb, s = (int(node.attrs[k]) for k in ("ma", "mb", "s"))
    a, b = (loop.read(v) for v in node.inputs)
    left, right = _scaled(*a, ma), _scaled(*b, mb)
    total = left[1] + right[1]
    if s == 0 and dtype == "i32" and not total.fits32 and left[1].fits32:
        # One saturating instruction where the core has it.
        if mb == -1:
            return f"sub_saturated({left[0]}, {b[0]})", total.clamped(*_INT32)
        if right[1].fits32:
            return f"add_saturated({left[0]}, {right[0]})", total.clamped(*_INT32)
    if not total.fits64:
        raise _too_wide("a sum", node)
    text = atom(f"({left[0]} + {right[0]})", total)
    return _saturate(*_shifted(text, total, s, node), dtype)


def _lut(node: Node, dtype: str, loop: Context) -> Typed:
    a, ra = loop.read(node.inputs[0])
    t, table = loop.table(node.inputs[1])
    lo, k = int(node.attrs["lo"]), int(node.attrs["k"])
    return interpolated(a, ra, t, table, lo, k, loop, node)


def interpolated(
    a: str, ra: Range, t: str, table: IntArray, lo: int, k: int, loop: Variables, node: Node
) -> Typed:
    """Source of `edgeseq.fixed.lut_apply` of the int32 `a` with the table at pointer `t`."""
    bits, n = table.itemsize * 8, table.size - 1
    top = lo + (n << k) - 1
    x = a if ra.within(lo, top) else f"clamp32({a}, {lo}, {top})"
    u = loop.let(f"np.int32({x} - {lo})")
    i = loop.let(f"np.int32(({u} >> {k}) * {bits // 8})")
    image = Range(int(table.min()), int(table.max()))
    if k == 0:
        return f"load{bits}({t}, {i})", image
    f = loop.let(f"np.int32({u} & {(1 << k) - 1})")
    if bits == 16:
        # Two neighbouring nodes in one load.
        w = loop.let(f"load32_half({t}, {i})")
        left = loop.let(f"np.int32(np.int16({w}))")
        step = loop.let(f"np.int32(np.int32({w} >> 16) - {left})")
    else:
        left = loop.let(f"load{bits}({t}, {i})")
        step = loop.let(f"np.int32(load{bits}({t}, np.int32({i} + 1)) - {left})")
    slopes = np.diff(table.astype(np.int64))
    steps = Range(min(int(slopes.min()), 0), max(int(slopes.max()), 0))
    product = steps * Range(0, (1 << k) - 1)
    text, _ = _shifted(_times(step, f, product), product, k, node)
    return f"np.int32({left} + {text})", image


def _extreme(node: Node, dtype: str, loop: Context) -> Typed:
    (a, ra), (b, rb) = (loop.read(v) for v in node.inputs)
    pick = max if node.op == "max" else min
    r = Range(pick(ra.lo, rb.lo), pick(ra.hi, rb.hi))
    return f"{node.op}32({a}, {b})", r


def _compare(node: Node, dtype: str, loop: Context) -> Typed:
    (a, _), (b, _) = (loop.read(v) for v in node.inputs)
    return f"{_COMPARE[node.attrs['cmp']]}({a}, {b})", Range(0, 1)


def _select(node: Node, dtype: str, loop: Context) -> Typed:
    (c, _), (a, ra), (b, rb) = (loop.read(v) for v in node.inputs)
    return f"choose({c}, {a}, {b})", ra.hull(rb)


def _wide(node: Node, dtype: str, loop: Context) -> Typed:
    """`edgeseq.fixed.wide_apply`; its 64-bit numbers wrap where those do."""
    fn = str(node.attrs["fn"])
    m, s, b = (int(node.attrs[k]) for k in ("m", "s", "b"))
    x, r = loop.read(node.inputs[0])
    t, table = loop.table(node.inputs[1])
    assert table.size == WIDE_INTERVALS + 1
    a = x
    if fn == "reciprocal":
        n = loop.let(f"max32({x}, -2147483647)")
        a = f"max32({n}, np.int32(0 - {n}))"
    a = loop.let(f"max32({a}, 1)")
    # The argument in Q28, u = a * 4^(14-q): an even number of leading zeros is shifted out.
    up = loop.let(f"np.int32(leading_zeros({a}) & 30)")
    v = loop.let(f"np.int32(shift_right(shift_left({a}, {up}), 2) - {1 << 28})")
    i = loop.let(f"np.int32(np.int32({v} >> 22) * 4)")
    f = loop.let(f"np.int32(np.int32({v} >> 7) & 32767)")
    left = loop.let(f"load32({t}, {i})")
    step = loop.let(f"np.int32(load32({t}, np.int32({i} + 4)) - {left})")
    node_value = loop.let(f"np.int32({left} + (({step} * {f} + 16384) >> 15))")
    q = loop.let(f"np.int32(15 - ({up} >> 1))")
    limits = of_dtype(dtype)
    if fn == "log":
        half = f" + {1 << (s - 1)}" if s else ""
        y = f"(((({node_value} + {q} * {_LOG4}) * {m}{half}) >> {s}) + {b})"
        return f"np.int32(clamp64({y}, {limits.lo}, {limits.hi}))", limits
    sh = loop.let(f"np.int64({s} + {_WIDE_STEP[fn]} * {q})")
    total = f"{node_value} * {m} + ((np.int64(1) << {sh}) >> 1)"
    y = f"shift_right64({total}, {sh})" if m >= 0 else f"(({total}) >> {sh})"
    y = loop.let(f"np.int64({y} + {b})")
    if fn == "sqrt" and r.lo <= 0:
        y = f"choose64(greater({x}, 0), {y}, {b})"
    if fn == "reciprocal" and r.lo < 0:
        y = f"choose64(greater(0, {x}), np.int64(0 - {y}), {y})"
    text = f"np.int32(clamp64({y}, {limits.lo}, {limits.hi}))"
    if fn == "reciprocal" and r.lo <= 0 <= r.hi:
        text = f"choose({x}, {text}, {limits.hi})"
    return text, limits


_EXPRESSIONS = {
    "rescale": _rescale,
    "mul": _mul,
    "clamp": _clamp,
    "add": _add,
    "lut": _lut,
    "max": _extreme,
    "min": _extreme,
    "compare": _compare,
    "select": _select,
    "wide": _wide,
}


def expression(node: Node, dtype: str, loop: Context) -> Typed:
    """Source and range of one element of a node's output.

    Args:
        node: element-wise.
        dtype: of its output.
        loop: where its operands come from.

    Raises:
        BackendError: an intermediate could exceed 64 bits.
    """
    return _EXPRESSIONS[node.op](node, dtype, loop)
