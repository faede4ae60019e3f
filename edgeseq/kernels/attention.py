"""Kernels of attention: products of two values, and softmax."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from edgeseq.ir.graph import Node
from edgeseq.kernels.expressions import interpolated, requantised_in
from edgeseq.kernels.linear import IntArray
from edgeseq.kernels.ranges import Range, of_dtype

__all__ = ["Product", "product_source", "softmax_source"]

#: Products that are written out per iteration.
_WRITTEN = 8


@dataclass(frozen=True)
class Product:
    """One matrix product ``y[m, n] = sum_k a[m, k] b[n, k]``; y is stored row by row.

    Attributes:
        m, n, k: its extents.
        a, b: bytes from one row to the next, and from one k to the next.
        bits: of a, b and y.
        ranges: of the elements of a and b.
        bound: what no sum over a run of k exceeds in magnitude, if more is known than the ranges
            say.
        factor, shift: of the requantisation.
        node: whose it is.
    """

    m: int
    n: int
    k: int
    a: tuple[int, int]
    b: tuple[int, int]
    bits: tuple[int, int, int]
    ranges: tuple[Range, Range]
    bound: int | None
    factor: int
    shift: int
    node: Node

    def sum_range(self, count: int) -> Range:
        """Of sums of up to `count` products."""
        one = self.ranges[0] * self.ranges[1]
        r = Range(min(one.lo, 0) * count, max(one.hi, 0) * count)
        return r if self.bound is None else r.clamped(-self.bound, self.bound)

    @cached_property
    def single(self) -> bool:
        """Whether a sum of 32 bits will do."""
        return self.sum_range(self.k).fits32

    def stored(self, total: str) -> str:
        """Source of a sum as it is stored."""
        dtype = f"i{self.bits[2]}"
        r = self.sum_range(self.k)
        return requantised_in(total, r, self.factor, self.shift, self.node, dtype)[0]


def product_source(p: Product) -> str:
    """Source of ``kernel(a, b, y)``, one element or two neighbours of a row at a time.

    The accumulator has 64 bits, or 32 where the ranges prove that they suffice; in between,
    as many products are added in 32 bits as fit.
    """
    # Neighbours of b in memory are elements of neighbouring rows: two share a load, and one of a.
    twins = 2 if p.n % 2 == 0 and p.bits[1] == 16 and p.b[0] == 2 and p.b[1] != 2 else 1
    written = max(c for c in range(1, _WRITTEN + 1) if p.k % c == 0)
    together = max(c for c in range(1, written + 1) if written % c == 0 and _fits(p, c))
    lines = ["def kernel(a, b, y):", "    m = np.int32(0)", f"    while m < {p.m}:"]
    lines += ["        q = b", "        n = np.int32(0)", f"        while n < {p.n}:"]
    zero = "np.int32(0)" if p.single else "np.int64(0)"
    lines += [f"            s{t} = {zero}" for t in range(twins)]
    lines += ["            u = a", "            v = q"]
    lines += [f"            k = np.int32({p.k // written})", "            while k > 0:"]
    if twins == 2:
        lines += _twin_terms(p, written)
    else:
        lines += _terms(p, written, together)
    lines += [
        f"                u = advance(u, {written * p.a[1]})",
        f"                v = advance(v, {written * p.b[1]})",
        "                k = less(k, 1)",
        "                u = after(u, k)",
        "                v = after(v, k)",
    ]
    out = p.bits[2] // 8
    lines += [
        f"            store{p.bits[2]}(y, np.int32(n * {out} + {t * out}), {p.stored(f's{t}')})"
        for t in range(twins)
    ]
    return "\n".join(
        [
            *lines,
            f"            q = advance(q, {twins * p.b[0]})",
            f"            n = np.int32(n + {twins})",
            f"        a = advance(a, {p.a[0]})",
            f"        y = advance(y, {p.n * out})",
            "        m = np.int32(m + 1)",
        ]
    )


def _fits(p: Product, count: int) -> bool:
    return p.single or p.sum_range(count).fits32


def _terms(p: Product, written: int, together: int) -> list[str]:
    lines = []
    for first in range(0, written, together):
        terms = [
            f"mul32(load{p.bits[0]}(u, {c * p.a[1]}), load{p.bits[1]}(v, {c * p.b[1]}))"
            for c in range(first, first + together)
        ]
        total = terms[0] if len(terms) == 1 else f"np.int32({' + '.join(terms)})"
        total = f"np.int32(s0 + {total})" if p.single else f"s0 + {total}"
        lines.append(f"                s0 = {total}")
    return lines


def _twin_terms(p: Product, written: int) -> list[str]:
    lines = []
    for c in range(written):
        lines.append(f"                x = load{p.bits[0]}(u, {c * p.a[1]})")
        lines.append(f"                w = load32_half(v, {c * p.b[1]})")
        halves = "np.int32(np.int16(w))", "np.int32(w >> 16)"
        for t, half in enumerate(halves):
            total = f"s{t} + mul32(x, {half})"
            lines.append(f"                s{t} = " + (f"np.int32({total})" if p.single else total))
    return lines


class _Lines:
    """Names variables, and keeps what they hold."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def let(self, text: str) -> str:
        name = f"v{len(self.lines)}"
        self.lines.append(f"{name} = {text}")
        return name


def softmax_source(node: Node, dtype: str, n: int, table: IntArray, lanes: int) -> str:
    """Source of ``kernel(x, t, y, rows, step)``: `edgeseq.fixed.softmax` of rows of n elements.

    `step` is the bytes from one row of x to the next. y, int16, holds the exponentials first.
    Cores with SIMD registers divide by the sum once, and multiply by the reciprocal: for 31-bit
    dividends and 2^l >= S, floor(e / S) = (e * (floor(2^(31+l) / S) + 1)) >> (31 + l).

    Source: Granlund, Montgomery 1994, "Division by invariant integers using multiplication",
    theorem 4.2.
    """
    m, s, lo, k = (int(node.attrs[a]) for a in ("m", "s", "lo", "k"))
    limits = of_dtype(dtype)
    bits, size = {"i8": (8, 1), "i16": (16, 2), "i32": (32, 4)}[dtype]
    context = _Lines()
    difference = Range(limits.lo - limits.hi, 0)
    # Beyond the table its first node counts; so does a difference that 32 bits would not hold.
    d, r = requantised_in("(x0 - top)", difference, m, s, node, "i32")
    e, _ = interpolated(context.let(d), r, "t", table, lo, k, context, node)
    body = "\n".join(f"            {line}" for line in context.lines)
    once = """
        sh = np.int64(63 - leading_zeros(max32(np.int32(total - 1), 1)))
        inverse = divide64(np.int64(1) << sh, total) + 1"""
    quotient = "np.int32(shift_right64(((e << 15) + half) * inverse, sh))"
    if lanes == 1:
        once, quotient = "", "divide(np.int32((e << 15) + half), total)"
    return f"""
def kernel(x, t, y, rows, step):
    while rows > 0:
        top = load{bits}(x, 0)
        i = np.int32(1)
        while i < {n}:
            top = max32(top, load{bits}(x, np.int32(i * {size})))
            i = np.int32(i + 1)
        total = np.int32(0)
        i = np.int32(0)
        while i < {n}:
            x0 = load{bits}(x, np.int32(i * {size}))
{body}
            e = {e}
            store16(y, np.int32(i * 2), e)
            total = np.int32(total + e)
            i = np.int32(i + 1)
        half = np.int32(total >> 1)
        total = max32(total, 1){once}
        i = np.int32(0)
        while i < {n}:
            e = load16(y, np.int32(i * 2))
            q = {quotient}
            store16(y, np.int32(i * 2), min32(q, 32767))
            i = np.int32(i + 1)
        x = advance(x, step)
        y = advance(y, {2 * n})
        rows = np.int32(rows - 1)
"""
