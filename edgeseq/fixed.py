"""Fixed-point arithmetic, defined once.

Everything integer in edgeseq rests on these functions; kernels are bit-exact with them. All
rounding is *half up* (towards plus infinity), all narrowing saturates, nothing wraps.

Arrays are numpy integer arrays; intermediates are int64.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "INT_RANGE",
    "RSQRT_TABLE",
    "IntArray",
    "layer_norm",
    "lut_apply",
    "lut_fit",
    "multiplier",
    "rq",
    "WIDE_INTERVALS",
    "saturate",
    "shift_round",
    "softmax",
    "wide_apply",
    "wide_table",
]

IntArray = npt.NDArray[np.signedinteger[Any]]

INT_RANGE: dict[str, tuple[int, int]] = {
    "i8": (-(1 << 7), (1 << 7) - 1),
    "i16": (-(1 << 15), (1 << 15) - 1),
    "i32": (-(1 << 31), (1 << 31) - 1),
}
"""Least and greatest stored value of each integer element type."""


def shift_round(a: IntArray, s: int) -> IntArray:
    """``(a + 2^(s-1)) >> s``: arithmetic shift right by `s` bits, rounded half up; `s` >= 0."""
    a64: IntArray = np.asarray(a, np.int64)
    if s == 0:
        return a64
    rounded: IntArray = (a64 + (np.int64(1) << (s - 1))) >> s
    return rounded


def rq(a: IntArray, m: IntArray | int, s: int) -> IntArray:
    """Requantise: ``(a*m + 2^(s-1)) >> s`` with a 64-bit product, rounded half up.

    Args:
        a: accumulator, within int32 (within 48 bits if `m` fits 15).
        m: multiplier, within int32; broadcast against `a`.
        s: shift, 0..62; 0 leaves the product as it is.
    """
    return shift_round(np.asarray(a, np.int64) * np.asarray(m, np.int64), s)


def saturate(a: IntArray, dtype: str) -> IntArray:
    """Clamp `a` to the range of `dtype` ('i8', 'i16', 'i32'); the result is of that width."""
    lo, hi = INT_RANGE[dtype]
    return np.clip(a, lo, hi).astype({"i8": np.int8, "i16": np.int16, "i32": np.int32}[dtype])


def multiplier(
    ratios: npt.NDArray[np.float64], *, prefer: int = 32
) -> tuple[npt.NDArray[np.int32], int]:
    """Integers m and one shift s such that ``m / 2^s`` is close to `ratios`.

    s = 32 (one high-word multiply on most CPUs) is taken where every multiplier keeps 14
    significant bits and fits int32; else the largest shift that fits.

    Args:
        ratios: input scale over output scale, per channel, any sign, not all of it need be > 0.

    Raises:
        OverflowError: a ratio is 2^31 or more, or not finite.
    """
    ratios = np.atleast_1d(np.asarray(ratios, np.float64))
    if not np.all(np.isfinite(ratios)):
        raise OverflowError("a scale ratio is not finite")
    top = float(np.max(np.abs(ratios), initial=0.0))
    if top == 0.0:
        return np.zeros(ratios.shape, np.int32), prefer
    small = float(np.min(np.abs(ratios[ratios != 0])))
    s = prefer
    if not (top * 2.0**s < (1 << 31) - 1 and small * 2.0**s >= (1 << 13)):
        s = 30 - math.frexp(top)[1] + 1
        while s > 62 or round(top * 2.0**s) > (1 << 31) - 1:
            s -= 1
        if s < 0:
            raise OverflowError(f"scale ratio {top:g} does not fit a 31-bit multiplier")
    return np.round(ratios * 2.0**s).astype(np.int64).astype(np.int32), s


def lut_apply(x: IntArray, table: IntArray, lo: int, k: int) -> IntArray:
    """Interpolated table look-up.

    ``v = clamp(x, lo, lo + (n << k) - 1) - lo``, interval ``i = v >> k``, fraction
    ``f = v & (2^k - 1)``, result ``t[i] + (((t[i+1] - t[i]) * f + 2^(k-1)) >> k)``.

    Args:
        x: int32 or narrower.
        table: n + 1 nodes, n a power of two; int16 or int8.
        lo: the stored value of the first node.
        k: log2 of the interval width, 0..16.
    """
    n = table.shape[0] - 1
    t = table.astype(np.int64)
    v = np.clip(np.asarray(x, np.int64), lo, lo + (n << k) - 1) - lo
    i = v >> k
    f = v & ((1 << k) - 1)
    y: IntArray = (t[i] + shift_round((t[i + 1] - t[i]) * f, k)).astype(table.dtype)
    return y


def lut_fit(
    fn: Callable[[npt.NDArray[Any]], npt.NDArray[Any]],
    lo: float,
    hi: float,
    intervals: int,
    scale: float,
    dtype: str,
) -> IntArray:
    """Nodes of a piecewise linear approximation of `fn` on [lo, hi], least squares.

    Sampled nodes lie on the curve, so every chord errs to the same side where the curve bends
    one way and the mean is biased; nodes fitted to the whole curve are not.

    Args:
        fn: the real function, vectorised.
        lo, hi: the range in real units.
        intervals: number of equal intervals.
        scale: real value of one stored unit of the result.
        dtype: 'i8' or 'i16'.

    Returns:
        intervals + 1 stored nodes.
    """
    per = 16
    u = (np.arange(per) + 0.5) / per
    width = (hi - lo) / intervals
    left = lo + width * np.arange(intervals)
    with np.errstate(over="ignore"):  # exp far outside of what the format holds
        y = fn(left[:, None] + width * u[None, :])
    # What saturates anyway must not pull at the nodes beside it, nor be infinite.
    least, greatest = INT_RANGE[dtype]
    y = np.clip(y, 2.0 * least * scale, 2.0 * greatest * scale)
    # Normal equations of the hat basis: tridiagonal, symmetric, positive definite.
    a, b, c = float(np.sum((1 - u) ** 2)), float(np.sum(u * (1 - u))), float(np.sum(u**2))
    diag = np.zeros(intervals + 1)
    diag[:-1] += a
    diag[1:] += c
    rhs = np.zeros(intervals + 1)
    rhs[:-1] += y @ (1 - u)
    rhs[1:] += y @ u
    for i in range(1, intervals + 1):
        w = b / diag[i - 1]
        diag[i] -= w * b
        rhs[i] -= w * rhs[i - 1]
    nodes = np.empty(intervals + 1)
    nodes[-1] = rhs[-1] / diag[-1]
    for i in range(intervals - 1, -1, -1):
        nodes[i] = (rhs[i] - b * nodes[i + 1]) / diag[i]
    return saturate(np.floor(nodes / scale + 0.5).astype(np.int64), dtype)


RSQRT_INTERVALS = 96
RSQRT_TABLE: IntArray = np.floor(
    2.0**14 / np.sqrt(1.0 + np.arange(RSQRT_INTERVALS + 1) / 32.0) + 0.5
).astype(np.int16)
"""1/sqrt(m) in Q14 for m = 1 + i/32, i = 0..96: the mantissas 1..4 of an evenly shifted number."""


def layer_norm(x: IntArray, gain: IntArray, bias: IntArray, *, eps: int, shift: int) -> IntArray:
    """Integer layer normalisation over the last axis, N = its length, 2 <= N <= 1024.

    With ``d = N*x - sum(x)`` the normalised value is ``sqrt(N) * d / sqrt(sum(d^2) + eps)``, so
    the scale of x cancels. ``W = sum(d^2) + eps`` is shifted left by 2j bits into [2^60, 2^62),
    its reciprocal root r (Q29) read from `RSQRT_TABLE` with linear interpolation,
    ``z = (d*r + 2^(34-j)) >> (35-j)`` is d/sqrt(W) with 24 fractional bits, and
    ``y = sat(rq(z, gain, shift) + bias)``.

    Args:
        x: int16 or int8, [..., N].
        gain: int32 [N]: gamma * sqrt(N) / 2^24 / output scale, times 2^shift.
        bias: int32 [N]: beta over the output scale.
        eps: round(eps * N^3 / scale(x)^2), within 1..2^60: keeps W positive.
        shift: of the last requantisation.

    Returns:
        ``rq(z, gain, shift) + bias`` in int64: y before it is saturated.

    Source: Ba, Kiros, Hinton 2016 (arXiv 1607.06450), eq. 3-4.
    """
    n = x.shape[-1]
    x64 = x.astype(np.int64)
    d = n * x64 - x64.sum(-1, keepdims=True)
    w = (d * d).sum(-1, keepdims=True) + np.int64(eps)
    j = np.zeros_like(w)
    for step in (16, 8, 4, 2, 1):  # largest j with w << 2j < 2^62
        fits = w < (np.int64(1) << (62 - 2 * step))
        w = np.where(fits, w << (2 * step), w)
        j = np.where(fits, j + step, j)
    # w was at least 1, so 31 possible steps always reach [2^60, 2^62).
    u = w - (np.int64(1) << 60)
    i = u >> 55
    f = (u >> 40) & 0x7FFF
    t = RSQRT_TABLE.astype(np.int64)
    r = (t[i] << 15) + (t[i + 1] - t[i]) * f
    sh = 35 - j
    z = (d * r + (np.int64(1) << (sh - 1))) >> sh
    y: IntArray = rq(z, gain, shift) + bias.astype(np.int64)
    return y


def softmax(x: IntArray, table: IntArray, *, m: int, s: int, lo: int, k: int) -> IntArray:
    """Integer softmax over the last axis of N <= 65 535 elements.

    ``e = table(clamp(rq(x - max, m, s)))`` in Q0.15, ``S = sum e``,
    ``y = (e * 2^15 + floor(S / 2)) // S``.

    Args:
        x: int32 or narrower.
        table: nodes of exp on [lo, 0), int16, Q0.15 (`lut_fit`); read as `lut_apply` does.
        m, s: bring a difference of x to the units of the table; m within 0..2^30.
        lo: the first node's argument, -(n << k).
        k: log2 of the interval width.

    Returns:
        int64 within 0..2^15, Q0.15 before it is saturated.
    """
    d = x.astype(np.int64) - x.max(-1, keepdims=True).astype(np.int64)
    e = lut_apply(rq(d, m, s), table, lo, k).astype(np.int64)
    total = e.sum(-1, keepdims=True)
    y: IntArray = ((e << 15) + (total >> 1)) // total
    return y


WIDE_INTERVALS = 192
"""Intervals of the table of a `wide` function: 1/64 wide, over the mantissas 1..4."""

_WIDE_STEP = {"sqrt": -1, "rsqrt": 1, "reciprocal": 2, "log": 0}
_LOG4 = round(2.0**28 * math.log(4.0))


def wide_table(fn: str) -> IntArray:
    """Nodes of a `wide` function at 1 + i/64, i = 0..192, in Q28, int32.

    Args:
        fn: 'sqrt', 'rsqrt', 'reciprocal' or 'log'.
    """
    at: npt.NDArray[np.float64] = 1.0 + np.arange(WIDE_INTERVALS + 1) / 64.0
    # The function, and its second derivative: a chord lies above a convex function by h^2/8 f'',
    # half of which is taken off the nodes.
    real, second = {
        "sqrt": (np.sqrt(at), -0.25 * at**-1.5),
        "rsqrt": (at**-0.5, 0.75 * at**-2.5),
        "reciprocal": (1.0 / at, 2.0 * at**-3.0),
        "log": (np.log(at), -(at**-2.0)),
    }[fn]
    nodes = real - second / 64.0**2 / 16.0
    return np.floor(nodes * 2.0**28 + 0.5).astype(np.int32)


def wide_apply(x: IntArray, table: IntArray, fn: str, *, m: int, s: int, b: int) -> IntArray:
    """A function of large dynamic range, the argument normalised by its leading zeros.

    For x > 0, ``q = floor(log2(x) / 2)``, ``u = x * 4^-q`` in Q28 (1 <= u < 4, cut off below),
    ``t`` the table at u by linear interpolation with 15 bits of fraction, and

    * sqrt, rsqrt, reciprocal: ``y = rq(t, m, s + c q) + b`` with c = -1, 1, 2;
    * log: ``y = rq(t + q * log(4), m, s) + b``.

    sqrt of x <= 0 is b; reciprocal of a negative x is minus that of -x (b is 0) and of 0 the
    greatest value; rsqrt and log of x <= 0 are those of x = 1.

    Args:
        x: int32 or narrower.
        table: `wide_table(fn)`.
        fn: 'sqrt', 'rsqrt', 'reciprocal' or 'log'.
        m, s: multiplier (|m| < 2^31; of log 2^29 at most) and shift; s - 15 >= 0 for sqrt,
            s + c q <= 62.
        b: added last.

    Returns:
        int64: y before it is saturated.
    """
    x64 = x.astype(np.int64)
    a = np.abs(x64) if fn == "reciprocal" else x64
    a = np.clip(a, 1, (1 << 31) - 1)
    q = np.zeros_like(a)
    for step in (8, 4, 2, 1):  # q = (31 - leading zeros) / 2
        big = (a >> (2 * (q + step))) > 0
        q = np.where(big, q + step, q)
    up = 28 - 2 * q
    u = np.where(up >= 0, a << np.maximum(up, 0), a >> np.maximum(-up, 0))
    v = u - (np.int64(1) << 28)
    i, f = v >> 22, (v >> 7) & 0x7FFF
    t64 = table.astype(np.int64)
    t = t64[i] + shift_round((t64[i + 1] - t64[i]) * f, 15)
    if fn == "log":
        return rq(t + q * _LOG4, m, s) + b
    sh = s + _WIDE_STEP[fn] * q
    half = np.where(sh > 0, np.int64(1) << np.maximum(sh - 1, 0), 0)
    y: IntArray = ((t * np.int64(m) + half) >> sh) + b
    if fn == "sqrt":
        return np.where(x64 > 0, y, np.int64(b))
    if fn == "reciprocal":
        return np.where(x64 == 0, np.int64(1) << 40, np.where(x64 < 0, -y, y))
    return y
