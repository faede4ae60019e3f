"""The Graph's 32-bit integer arithmetic from TFLite's plain integer operators, bit for bit.

TFLite has no quantised operator for wide states, but its ADD, SUB, MUL, MINIMUM, MAXIMUM,
RIGHT_SHIFT and GATHER on int32 (and int64) are plain integer arithmetic, the same in every
runtime.  What is built from them here equals `edgeseq.fixed` exactly.  A sum or product is taken
in 32 bits where the bounds prove that it fits, and in 64 bits otherwise.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseq.emit.tflite.forms import Form, Tensors
from edgeseq.errors import UnsupportedError

__all__ = ["ExactMath"]

Array = npt.NDArray[Any]

_TOP = (1 << 31) - 1


class ExactMath:
    """Exact operations on int32 forms, all in stored units.

    Args:
        tensors: what to write to.
    """

    def __init__(self, tensors: Tensors) -> None:
        self._t = tensors

    def add(
        self,
        a: tuple[Form, int, int],
        b: tuple[Form, int, int],
        shift: int,
        scale: float,
        bound: int,
    ) -> Form:
        """``sat((a*ma + b*mb + 2^(s-1)) >> s)`` to int32.

        Args:
            a, b: (form, multiplier, largest magnitude) of each operand.
            shift: s.
            scale: of the result.
            bound: largest magnitude of the result; 2^31 or more where it may saturate.
        """
        if a[1] != 1 << shift and b[1] == 1 << shift:
            a, b = b, a
        if shift and a[1] == 1 << shift and b[2] * abs(b[1]) + (1 << (shift - 1)) <= _TOP:
            # (2^s*a + b + 2^(s-1)) >> s is a plus b shifted alone.
            term = self._shift32(self._times(self._t.cast(b[0], "int32"), b[1]), shift, scale)
            b = (term, 1, ((b[2] * abs(b[1])) >> shift) + 1)
            a, shift = (a[0], 1, a[2]), 0
        total = a[2] * abs(a[1]) + b[2] * abs(b[1]) + (1 << shift >> 1)
        # Without a shift the sum may wrap on the way as long as the result is in range.
        fits = total <= _TOP or (shift == 0 and bound <= _TOP)
        width = "int32" if fits else "int64"
        (x, ma), (y, mb) = ((self._t.cast(v[0], width), v[1]) for v in (a, b))
        if mb < 0:
            out = self._t.binary("SUB", self._times(x, ma), self._times(y, -mb), width, scale)
        elif ma < 0:
            out = self._t.binary("SUB", self._times(y, mb), self._times(x, -ma), width, scale)
        else:
            out = self._t.binary("ADD", self._times(x, ma), self._times(y, mb), width, scale)
        return (self._shift32 if fits else self._shift64)(out, shift, scale)

    def mul(
        self, a: Form, b: Form, m: int, shift: int, scale: float, bounds: tuple[int, int]
    ) -> Form:
        """``sat(rq(a*b, m, s))`` to int32; `bounds` are the operands' largest magnitudes."""
        top_a, top_b = bounds
        half = 1 << max(shift - 1, 0)
        if top_a * top_b * abs(m) + half <= _TOP:
            product = self._t.binary(
                "MUL", self._t.cast(a, "int32"), self._t.cast(b, "int32"), "int32", scale
            )
            return self._shift32(self._times(product, m), shift, scale)
        if top_a > top_b:
            a, b, top_a, top_b = b, a, top_b, top_a
        if m == 1 and self._splits(top_a, top_b, shift):
            return self._split_mul(a, b, shift, scale)
        wide = self._t.binary(
            "MUL", self._t.cast(a, "int64"), self._t.cast(b, "int64"), "int64", scale
        )
        return self._shift64(self._times(wide, m), shift, scale)

    def rescale(self, x: Form, m: int | Array, shift: int, scale: float, bound: int) -> Form:
        """``sat(rq(x, m, s))`` to int32; `m` may differ along the last axis."""
        factors = np.atleast_1d(np.asarray(m, np.int64))
        fits = bound * int(np.abs(factors).max()) + (1 << max(shift - 1, 0)) <= _TOP
        width = "int32" if fits else "int64"
        x = self._t.cast(x, width)
        factor = self._t.constant(factors.astype(width), x.scale)
        product = self._t.binary("MUL", x, factor, width, scale)
        return (self._shift32 if fits else self._shift64)(product, shift, scale)

    def clamp(self, x: Form, lo: int | None, hi: int | None) -> Form:
        """``min(max(x, lo), hi)``."""
        if lo is not None:
            x = self._t.binary("MAXIMUM", x, self._const(lo, x), x.dtype, x.scale)
        if hi is not None:
            x = self._t.binary("MINIMUM", x, self._const(hi, x), x.dtype, x.scale)
        return x

    def lookup(self, x: Form, table: Array, lo: int, k: int, scale: float) -> Form:
        """The interpolated table of `edgeseq.fixed.lut_apply`; int32 in, int16 or int8 out.

        Raises:
            UnsupportedError: a step of the table times the interval does not fit int32.
        """
        t = self._t
        n = len(table) - 1
        x = self.clamp(x, lo, lo + (n << k) - 1)
        if lo:
            x = t.binary("SUB", x, self._const(lo, x), "int32")
        nodes = table.astype(np.int32)
        if k == 0:
            out = t.new(x.shape, table.dtype.name, scale)
            return t.apply("GATHER", [t.constant(table, scale), x], out)
        steps = np.diff(nodes)
        if int(np.abs(steps).max()) * ((1 << k) - 1) + (1 << (k - 1)) > _TOP:
            raise UnsupportedError(
                f"a table with steps of {int(np.abs(steps).max())} over 2^{k} inputs does not "
                "interpolate in 32 bits",
                where=f"node {t.where!r} (lut)",
                fix="use a table with narrower intervals, or another output format",
            )
        index = t.binary("RIGHT_SHIFT", x, self._const(k, x), "int32")
        below = t.binary("MUL", index, self._const(1 << k, x), "int32")
        fraction = t.binary("SUB", x, below, "int32")
        base = t.apply("GATHER", [t.constant(nodes[:-1]), index], t.new(x.shape, "int32"))
        step = t.apply("GATHER", [t.constant(steps), index], t.new(x.shape, "int32"))
        rise = self._shift32(t.binary("MUL", step, fraction, "int32"), k, scale)
        return t.cast(t.binary("ADD", base, rise, "int32", scale), table.dtype.name)

    # -- parts -----------------------------------------------------------------------------

    def _const(self, value: int, like: Form) -> Form:
        return self._t.constant(np.array([value], like.dtype), like.scale)

    def _times(self, x: Form, m: int) -> Form:
        if m == 1:
            return x
        return self._t.binary("MUL", x, self._const(m, x), x.dtype, x.scale)

    def _shift32(self, x: Form, s: int, scale: float) -> Form:
        if s == 0:
            return x
        half = self._t.binary("ADD", x, self._const(1 << (s - 1), x), "int32", scale)
        return self._t.binary("RIGHT_SHIFT", half, self._const(s, x), "int32", scale)

    def _shift64(self, x: Form, s: int, scale: float) -> Form:
        """``sat((x + 2^(s-1)) >> s)`` of an int64 to int32.

        RIGHT_SHIFT stops at 32 bits: the number is moved so that the result is its high word,
        and the high word is read off by BITCAST (little-endian).
        """
        t = self._t
        if s:
            x = t.binary("ADD", x, self._const(1 << (s - 1), x), "int64")
        if s < 32:
            x = self.clamp(x, -(1 << (31 + s)), (1 << (31 + s)) - 1)
        if s == 0:
            return self._narrow(x, scale)
        if s < 32:
            x = self._times(x, 1 << (32 - s))
        words = t.apply("BITCAST", [x], t.new((*x.shape, 2), "int32", scale))
        high = t.reshape(t.slice(words, 1, 2), x.shape)
        if s > 32:
            high = t.binary("RIGHT_SHIFT", high, self._const(s - 32, high), "int32", scale)
        return high

    def _narrow(self, x: Form, scale: float) -> Form:
        return self._t.apply("CAST", [x], self._t.new(x.shape, "int32", scale))

    @staticmethod
    def _splits(top_a: int, top_b: int, s: int) -> bool:
        """Whether `_split_mul` stays within int32 and its result needs no saturation."""
        return (
            0 < s <= 16
            and top_a * ((1 << s) - 1) + (1 << (s - 1)) <= _TOP
            and top_a * ((top_b >> s) + 1) + (top_a + 1) <= _TOP
        )

    def _split_mul(self, a: Form, b: Form, s: int, scale: float) -> Form:
        """``(a*b + 2^(s-1)) >> s`` in 32 bits: b is split into high part and low s bits."""
        t = self._t
        a, b = t.cast(a, "int32"), t.cast(b, "int32")
        high = t.binary("RIGHT_SHIFT", b, self._const(s, b), "int32")
        low = t.binary("SUB", b, t.binary("MUL", high, self._const(1 << s, b), "int32"), "int32")
        upper = t.binary("MUL", a, high, "int32", scale)
        lower = self._shift32(t.binary("MUL", a, low, "int32"), s, scale)
        return t.binary("ADD", upper, lower, "int32", scale)
