"""Fourier transforms of one frame: products with fixed cosines and sines.

A discrete Fourier transform of n points is a matrix (Oppenheim & Schafer, *Discrete-Time Signal
Processing*, chapter 8); a frame has few enough points that the matrix is what a device computes,
with the weights' own quantisation and an accumulator that cannot overflow. A short-time transform
is that matrix times the window, over overlapping pieces of time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgeseq.frontend.axes import Atom, LayoutError, Value, describe, size_of
from edgeseq.frontend.build.convolve import pieces
from edgeseq.frontend.build.views import permute, slice_axis, stack
from edgeseq.frontend.context import Array, Context

__all__ = ["Complex", "inverse_real", "transform", "transform_of_time"]

_MAX_POINTS = 1 << 14


@dataclass(frozen=True)
class Complex:
    """A tensor of complex numbers: two Values of the same axes."""

    re: Value
    im: Value

    def pair(self, c: Context) -> Value:
        """The real and the imaginary part along a new last axis (torch.view_as_real)."""
        return stack(c, [self.re, self.im], len(self.re.axes))


def _turns(rows: int, columns: int, points: int) -> Array:
    """Angles ``2 π r k / points`` of a matrix [rows, columns]."""
    # Whole numbers first: the product of two indices reaches far beyond one turn.
    steps = np.outer(np.arange(rows), np.arange(columns)) % points
    return 2.0 * np.pi * steps / points


def _last(c: Context, v: Value, dim: int) -> tuple[Value, list[int]]:
    """`v` with axis `dim` last, and the order that puts it back."""
    d = v.axis(dim)
    if v.kind(d) not in "F1":
        raise LayoutError(
            f"is a Fourier transform along axis {d} of {describe(v.axes)}, which is not one of a "
            "frame",
            "transform pieces of time (torch.stft, unfold), or compile in window mode "
            "(--window N --hop N)",
        )
    rank = len(v.axes)
    order = [i for i in range(rank) if i != d] + [d]
    v = v if d == rank - 1 else permute(c, v, order)
    return c.last_axis(v), [order.index(i) for i in range(rank)]


def _product(c: Context, v: Value, matrix: Array, back: Sequence[int], suffix: str) -> Value:
    y = c.linear(v, matrix, suffix=suffix)
    return y if list(back) == list(range(len(back))) else permute(c, y, back)


def _points(n: int | None, have: int) -> int:
    points = have if n is None else int(n)
    if not 1 <= points <= _MAX_POINTS:
        raise LayoutError(
            f"is a Fourier transform of {points} points", f"1 to {_MAX_POINTS} can be"
        )
    return points


def transform(
    c: Context,
    x: Value | Complex,
    dim: int,
    points: int | None = None,
    *,
    inverse: bool = False,
    onesided: bool = False,
    scale: float = 1.0,
    window: Array | None = None,
) -> Complex:
    """``y[b] = scale Σ_k window[k] x[k] exp(∓ 2 π i b k / points)`` along an axis of the frame.

    Args:
        c: the Graph under construction.
        x: input, real or complex.
        dim: axis.
        points: of the transform; the input is cut or followed by zeros. None: its size.
        inverse: the sign of the exponent is plus.
        onesided: the first ``points // 2 + 1`` values alone.
        scale: factor.
        window: [size of the axis], factors of the input.

    Raises:
        LayoutError: the axis is time or the batch, or has too many points.
    """
    parts = [x.re, x.im] if isinstance(x, Complex) else [x]
    turned = [_last(c, v, dim) for v in parts]
    have = size_of(turned[0][0].axes[-1])
    points = _points(points, have)
    used = min(have, points)
    parts = [slice_axis(c, v, len(v.axes) - 1, 0, used) for v, _ in turned]
    back = turned[0][1]
    angles = _turns(points // 2 + 1 if onesided else points, used, points)
    factors = scale * (1.0 if window is None else np.asarray(window, np.float64)[:used])
    cos, sin = np.cos(angles) * factors, np.sin(angles) * (factors if inverse else -factors)
    re, im = (_product(c, parts[0], m, back, s) for m, s in ((cos, "re"), (sin, "im")))
    if len(parts) == 2:
        of_im = [_product(c, parts[1], m, back, s) for m, s in ((cos, "ii"), (-sin, "ir"))]
        re, im = c.binary("add", re, of_im[1]), c.binary("add", im, of_im[0])
    return Complex(re, im)


def inverse_real(
    c: Context, x: Value | Complex, dim: int, points: int | None = None, *, scale: float = 1.0
) -> Value:
    """The real sequence whose one-sided transform is `x`, times ``points * scale`` (irfft).

    As numpy and PyTorch do, the imaginary parts at frequency 0 and, of an even number of points,
    at the highest are taken as zero.

    Args:
        c: the Graph under construction.
        x: half of a Hermitian spectrum.
        dim: its axis.
        points: of the result, ``2 (n - 1)`` by default.
        scale: factor; ``1 / points`` makes it the inverse of `transform`.
    """
    parts = [x.re, x.im] if isinstance(x, Complex) else [x]
    turned = [_last(c, v, dim) for v in parts]
    have = size_of(turned[0][0].axes[-1])
    points = _points(points, 2 * (have - 1))
    used = min(have, points // 2 + 1)
    parts = [slice_axis(c, v, len(v.axes) - 1, 0, used) for v, _ in turned]
    back = turned[0][1]
    twice = np.full(used, 2.0)
    twice[0] = 1.0
    if points % 2 == 0 and used == points // 2 + 1:
        twice[-1] = 1.0
    angles = _turns(points, used, points)
    y = _product(c, parts[0], scale * twice * np.cos(angles), back, "re")
    if len(parts) == 1:
        return y
    return c.binary("sub", y, _product(c, parts[1], scale * twice * np.sin(angles), back, "im"))


def transform_of_time(
    c: Context,
    x: Value,
    dim: int,
    points: int,
    hop: int,
    window: Array | None = None,
    *,
    onesided: bool = True,
    scale: float = 1.0,
) -> Complex:
    """Transforms of pieces of `points` frames every `hop`: [..., pieces, ..., frequencies].

    Args:
        c: the Graph under construction.
        x: samples, real.
        dim: their axis; the pieces take its place, the frequencies a new last axis.
        points: of each piece.
        hop: from one piece to the next.
        window: [at most points] factors, in the middle of the piece; None: ones.
        onesided: ``points // 2 + 1`` frequencies instead of all.
        scale: factor.

    Raises:
        LayoutError: sizes that do not fit.
    """
    _points(points, points)
    if hop < 1:
        raise LayoutError(f"moves on by {hop} samples")
    full = np.zeros(points)
    given = np.ones(points) if window is None else np.ravel(np.asarray(window, np.float64))
    if not 1 <= given.size <= points:
        raise LayoutError(f"has a window of {given.size} for {points} points")
    lead = (points - given.size) // 2
    full[lead : lead + given.size] = given
    # Samples that the window leaves out are not multiplied.
    inside = np.flatnonzero(full)
    first, last = (int(inside[0]), int(inside[-1]) + 1) if inside.size else (0, 1)
    front, back = x.pad[0] - first, x.pad[1] - (points - last)
    if x.pad != (0, 0) and front >= 0 <= back:  # nor waited for
        d = x.axis(dim)
        n = size_of(x.axes[d]) - first - points + last
        axes = (*x.axes[:d], (Atom("T", n),), *x.axes[d + 1 :])
        v = c.last_axis(pieces(c, replace(x, axes=axes, pad=(front, back)), dim, last - first, hop))
    else:
        v = pieces(c, x, dim, points, hop)
        v = c.last_axis(slice_axis(c, v, len(v.axes) - 1, first, last))
    rows = points // 2 + 1 if onesided else points
    angles = _turns(rows, points, points)[:, first:last]
    factors = scale * full[first:last]
    re = c.linear(v, np.cos(angles) * factors, suffix="re")
    im = c.linear(v, -np.sin(angles) * factors, suffix="im")
    return Complex(re, im)
