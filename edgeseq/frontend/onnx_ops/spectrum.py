"""Fourier transforms. Complex numbers lie along a last axis of two."""

from __future__ import annotations

from typing import Any

from edgeseq.frontend.axes import LayoutError, Value
from edgeseq.frontend.build import spectrum, views
from edgeseq.frontend.build.spectrum import Complex
from edgeseq.frontend.context import Context
from edgeseq.frontend.onnx_registry import Inputs, constant, number, onnx


def _signal(c: Context, x: Any) -> Value | Complex:
    """[..., 1] or [..., 2] without its last axis."""
    if not isinstance(x, Value):
        raise LayoutError("transforms a constant by sizes that depend on the input")
    parts = x.sizes[-1] if x.axes else 0
    if parts not in (1, 2):
        raise LayoutError(f"transforms {list(x.sizes)}, whose last axis is not 1 or 2")
    real = views.select(c, x, -1, 0)
    return real if parts == 1 else Complex(real, views.select(c, x, -1, 1))


@onnx("DFT")
def _dft(c: Context, x: Inputs, inverse: int = 0, onesided: int = 0, **_: Any) -> Value:
    points, axis = number(x[1], "length"), number(x[2], "axis")
    signal = _signal(c, x[0])
    like = signal.re if isinstance(signal, Complex) else signal
    rank = len(like.axes) + 1
    d = int(axis or 0)
    if not -rank <= d < rank or d % rank == rank - 1:
        raise LayoutError(f"transforms along axis {d} of {rank}")
    d %= rank
    n = None if points is None else int(points)
    if onesided and (inverse or isinstance(signal, Complex)):
        if not inverse:
            raise LayoutError("is a one-sided transform of complex numbers", "use a two-sided one")
        count = 2 * (like.sizes[d] - 1) if n is None else n
        y = spectrum.inverse_real(c, signal, d, count, scale=1 / max(count, 1))
        return views.unsqueeze(c, y, [len(y.axes)])
    scale = 1 / (like.sizes[d] if n is None else n) if inverse else 1.0
    return spectrum.transform(
        c, signal, d, n, inverse=bool(inverse), onesided=bool(onesided), scale=scale
    ).pair(c)


@onnx("STFT")
def _stft(c: Context, x: Inputs, onesided: int = 1, **_: Any) -> Value:
    """[batch, samples, 1] to [batch, pieces, frequencies, 2]."""
    signal = _signal(c, x[0])
    if isinstance(signal, Complex):
        raise LayoutError("transforms complex samples", "transform their parts")
    window = None if len(x) < 3 or x[2] is None else constant(x[2], "window")
    length = number(x[3], "length") if len(x) > 3 else None
    if length is None:
        if window is None:
            raise LayoutError("states neither a window nor a length")
        length = window.size
    step = number(x[1], "step")
    return spectrum.transform_of_time(
        c, signal, 1, int(length), int(step or 0), window, onesided=bool(onesided)
    ).pair(c)
