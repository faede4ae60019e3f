"""Products of 16-bit values bit for bit, from products of bytes.

TFLite's own 16-bit products give 16 bits, of a scale no finer than input unit times weight unit,
and where several are added each is rounded first.  Its BATCH_MATMUL of int8 gives int32, the same
in every runtime: inputs and weights are split into bytes, and plain integer arithmetic puts the
products together and requantises the sum as the Graph does.  That takes more operators, so it is
for sums that the shorter way would not keep.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseq.emit.tflite.exact import ExactMath
from edgeseq.emit.tflite.forms import Form, Tensors

__all__ = ["ExactProducts", "Group", "weight_bytes"]

Array = npt.NDArray[Any]

_TOP = (1 << 31) - 1


@dataclass(frozen=True)
class Group:
    """One product of a `linear` node, in stored units.

    Attributes:
        x: int8 or int16, [..., K].
        w: int8 or int16 [O, K].
        m: multipliers of the sums, int32 [O].
        s: shift.
    """

    x: Form
    w: Array
    m: Array
    s: int


@dataclass(frozen=True)
class _Bytes:
    """An input as ``sum of factor * part + offset``, the parts int8."""

    parts: list[tuple[int, Form]]
    offset: int


@dataclass(frozen=True)
class _Terms:
    """A product as ``sum of factor * sum + start``, of some rows the negative.

    Attributes:
        sums: factor, and an int32 form [..., O].
        start: [O].
        m: multipliers, negative where the product is.
        bound: largest magnitude on the way to it.
    """

    sums: list[tuple[int, Form]]
    start: Array
    m: Array
    bound: int


def weight_bytes(w: Array) -> tuple[Array, list[tuple[int, Array]]]:
    """Weights [O, K] as ``sign * sum of factor * part``, a sign per row and the parts int8."""
    if w.dtype == np.int8:
        return np.ones(len(w), np.int64), [(1, w)]
    # From 32640 on a high byte does not suffice, but it does of the negative.
    sign = np.where(w.max(1, initial=0) >= 32640, -1, 1)
    whole = w.astype(np.int64) * sign[:, None]
    high = np.minimum((whole + 128) >> 8, 127)
    low = whole - 256 * high
    excess = low > 127  # in rows that go so far both ways
    parts = ((256, high), (1, low - 128 * excess), (128, excess))
    used = [(factor, part.astype(np.int8)) for factor, part in parts if np.any(part)]
    return sign, used or [(1, low.astype(np.int8))]


class ExactProducts:
    """Writes products with stored weights whose sums are proved to fit 32 bits.

    Args:
        tensors: what to write to.
        exact: the same, for requantising.
    """

    def __init__(self, tensors: Tensors, exact: ExactMath) -> None:
        self._t, self._exact = tensors, exact

    def linear(self, groups: Sequence[Group], bias: Array | None, scale: float) -> Form:
        """The sum of ``rq(W x, m, s)`` and a bias as int32, [..., O].

        Args:
            groups: the products.
            bias: in units of the result, int32 [O].
            scale: of the result.
        """
        t = self._t
        alike: dict[tuple[Any, ...], list[_Terms]] = {}
        for group, x in zip(groups, self._split([g.x for g in groups]), strict=True):
            terms = self._products(x, group)
            alike.setdefault((group.s, *(f for f, _ in terms.sums)), []).append(terms)
        total: Form | None = None
        for (s, *_), found in alike.items():
            # Put together and requantised side by side, and then added.
            m = np.concatenate([v.m for v in found])
            y = self._exact.rescale(self._together(found), m, s, scale, _TOP)
            if len(found) > 1:
                y = self._sum(t.reshape(y, (*y.shape[:-1], len(found), len(m) // len(found))))
            total = y if total is None else t.binary("ADD", total, y, "int32", scale)
        assert total is not None
        return self._biased(total, bias)

    def depthwise(
        self, x: Form, w: Array, m: Array, s: int, bias: Array | None, scale: float
    ) -> Form:
        """``rq(sum of w x, m, s) + b`` as int32 [..., C], of x [..., K, C] and w [K, C]."""
        t = self._t
        weights = t.constant(w.astype(np.int32))
        products = t.binary("MUL", t.cast(x, "int32", 1.0), weights, "int32")
        y = self._exact.rescale(self._sum(products), m, s, scale, _TOP)
        return self._biased(y, bias)

    def _sum(self, x: Form) -> Form:
        """Of a frame [..., K, C] over K."""
        t, lead = self._t, x.shape[:-2]
        axis = t.raw(np.array([1], np.int32))
        out = t.new(x.shape[-1:], "int32", x.scale, rows=math.prod(lead))
        options = ("ReducerOptions", {"keepDims": False})
        out = t.apply("SUM", [t.rows(x, 2), axis], out, options=options)
        return t.reshape(out, (*lead, *out.shape)) if lead else out

    def _biased(self, y: Form, bias: Array | None) -> Form:
        if bias is None:
            return y
        row = self._t.constant(bias.astype(np.int32), y.scale)
        return self._t.binary("ADD", y, row, "int32", y.scale)

    # -- bytes -----------------------------------------------------------------------------

    def _split(self, xs: Sequence[Form]) -> list[_Bytes]:
        """The bytes of each input; those of 16 bits are taken apart together."""
        t = self._t
        found = {i: _Bytes([(1, x)], 0) for i, x in enumerate(xs) if x.dtype == "int8"}
        wide = [i for i in range(len(xs)) if i not in found]
        if wide:
            same = len({xs[i].scale for i in wide}) == 1
            forms = [xs[i] if same else t.cast(xs[i], "int32", 1.0) for i in wide]
            joined = t.cast(t.concat(forms), "int32", 1.0)
            high = t.binary("RIGHT_SHIFT", joined, self._number(8), "int32")
            above = t.binary("MUL", high, self._number(256), "int32")
            # The rest is 0..255: int8 takes it less 128.
            rest = t.binary("SUB", joined, above, "int32")
            low = t.binary("SUB", rest, self._number(128), "int32")
            parts = [(256, t.cast(high, "int8")), (1, t.cast(low, "int8"))]
            start = 0
            for i in wide:
                stop = start + xs[i].shape[-1]
                cut = [(f, p if len(wide) == 1 else t.slice(p, start, stop)) for f, p in parts]
                found[i] = _Bytes(cut, 128)
                start = stop
        return [found[i] for i in range(len(xs))]

    def _number(self, value: int) -> Form:
        return self._t.constant(np.array([value], np.int32))

    def _products(self, x: _Bytes, group: Group) -> _Terms:
        """The products of bytes that make up ``W x``."""
        sign, weights = weight_bytes(group.w)
        start = x.offset * group.w.astype(np.int64).sum(1) * sign
        sums, bound = [], np.abs(start)
        for f, part in x.parts:
            for k, v in weights:
                sums.append((f * k, self._of_bytes(part, v)))
                bound = bound + f * k * 128 * np.abs(v.astype(np.int64)).sum(1)
        return _Terms(sums, start, group.m * sign.astype(np.int32), int(bound.max(initial=0)))

    def _together(self, found: Sequence[_Terms]) -> Form:
        """``W x`` of groups of equal factors, side by side: int32 or int64."""
        t = self._t
        # A whole sum fits 32 bits; what it is made of, and an offset, may not.
        width = "int32" if max(v.bound for v in found) <= _TOP else "int64"
        by_factor: dict[int, Form] = {}
        for i, (factor, _) in enumerate(found[0].sums):
            y = t.cast(t.concat([v.sums[i][1] for v in found]), width)
            before = by_factor.get(factor)
            by_factor[factor] = y if before is None else t.binary("ADD", before, y, width)
        start = np.concatenate([v.start for v in found])
        total = t.constant(start.astype(width)) if np.any(start) else None
        for factor, y in by_factor.items():
            if factor > 1:
                y = t.binary("MUL", y, t.constant(np.array([factor], width)), width)
            total = y if total is None else t.binary("ADD", y, total, width)
        assert total is not None
        return total

    def _of_bytes(self, x: Form, w: Array) -> Form:
        t, lead = self._t, x.shape[:-1]
        out = t.new((len(w),), "int32", rows=math.prod(lead))
        out = t.apply("BATCH_MATMUL", [t.rows(x, 1), t.constant(w)], out)
        return t.reshape(out, (*lead, len(w))) if lead else out
