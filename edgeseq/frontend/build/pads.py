"""Padding: of features, of time by frames that a kernel takes in later, or by frames of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from edgeseq.frontend.axes import Atom, LayoutError, Value, describe, size_of
from edgeseq.frontend.build.rates import framed_axis
from edgeseq.frontend.build.views import TO_THE_END, shifted, slice_time
from edgeseq.frontend.context import Array, Context
from edgeseq.frontend.move import grid, moved

__all__ = ["pad", "pad_time", "padded_by_number"]

_MODES = ("constant", "reflect", "edge", "wrap")


def pad_time(c: Context, v: Value, d: int, front: int, back: int) -> Value:
    """`front` frames of zeros before a sequence and `back` after it, along axis `d`."""
    v = framed_axis(c, v, d)
    if v.mirror and v.pad != (0, 0):
        v = c.whole(v)
    axis = v.axes[d]
    if len(axis) != 1:
        raise LayoutError(f"pads time in {describe(v.axes)}", "undo the view first")
    n = size_of(axis) + front + back
    axes = (*v.axes[:d], (Atom("T", n),), *v.axes[d + 1 :])
    if front > 0 and back == 0 and v.pad == (0, 0) and v.order is None and v.name in c.cuts:
        # What was cut off at the end and is put before it again: the sequence, later.
        source, cut = c.cuts[v.name]
        source = c.natural(source)
        if c.graph.types[source.name].size == math.prod(v.frame):
            return shifted(c, replace(source, axes=v.axes), axes, front, -cut)
    return replace(v, axes=axes, pad=(v.pad[0] + front, v.pad[1] + back))


def pad(
    c: Context, v: Value, pads: Sequence[tuple[int, int]], mode: str = "constant", fill: float = 0.0
) -> Value:
    """Padding of every axis by (before, after); negative counts cut off.

    Args:
        mode: 'constant', 'reflect', 'edge' or 'wrap'.
        fill: of 'constant'.
    """
    if mode not in _MODES:
        raise LayoutError(f"pads in mode {mode!r}", "use constant, reflect or replicate padding")
    time = [d for d in range(len(pads)) if v.kind(d) in ("T", "mixed") and any(pads[d])]
    if any(v.kind(d) == "B" and any(pair) for d, pair in enumerate(pads)):
        raise LayoutError("pads the batch")
    inner = [(0, 0) if d in time else (lo, hi) for d, (lo, hi) in enumerate(pads)]
    y = _pad_features(c, v, inner, mode, fill)  # first: padding of time has no node yet
    for d in time:
        lo, hi = pads[d]
        if lo < 0 or hi < 0:
            y = slice_time(c, y, d, max(-lo, 0), min(hi, 0) or TO_THE_END, 1)
            lo, hi = max(lo, 0), max(hi, 0)
        if (lo, hi) != (0, 0):
            y = (
                _pad_otherwise(c, y, d, lo, hi, mode, fill)
                if fill or mode != "constant"
                else (pad_time(c, y, d, lo, hi))
            )
    return y


def _pad_otherwise(
    c: Context, v: Value, d: int, front: int, back: int, mode: str, fill: float
) -> Value:
    """Frames of another number than zero before a sequence and after it, or of its own."""
    if mode == "wrap":
        raise LayoutError(
            "puts the last frames before the first",
            "pad with zeros, or compile in window mode (--window N --hop N)",
        )
    v = framed_axis(c, v, d)
    if mode != "constant":
        v = c.whole(v)
        (atom,) = v.axes[d]
        axes = (*v.axes[:d], (Atom("T", atom.size + front + back),), *v.axes[d + 1 :])
        return replace(v, axes=axes, pad=(front, back), mirror=mode)
    if front:
        from edgeseq.frontend.build.joins import join_time  # which pads, too

        sizes = [front if i == d else n for i, n in enumerate(v.sizes)]
        v = join_time(c, [np.full(sizes, fill), v], d)
    if back:
        c.ends_otherwise = True
        v = pad_time(c, v, d, 0, back)
    return v


def _pad_features(
    c: Context, v: Value, inner: Sequence[tuple[int, int]], mode: str, fill: float
) -> Value:
    if not any(lo or hi for lo, hi in inner):
        return v
    v = c.whole(v)
    at = grid(v)
    at = at[
        tuple(
            slice(max(-lo, 0), at.shape[i] - max(-hi, 0) if hi < 0 else None)
            for i, (lo, hi) in enumerate(inner)
        )
    ]
    widths = [(max(lo, 0), max(hi, 0)) for lo, hi in inner]
    sizes = math.prod(n + lo + hi for n, (lo, hi) in zip(at.shape, widths, strict=True))
    if sizes > c.most_frame or at.size == 0:
        raise LayoutError(f"pads {describe(v.axes)} by {inner}")
    if mode == "constant":
        at = np.pad(at, widths, constant_values=-1)
        y = moved(c, v, at, range(len(v.axes)), "pad")
        if fill != 0.0:
            y = c.binary("add", y, np.where(at < 0, fill, 0.0), suffix="fill")
        return y
    return moved(c, v, np.pad(at, widths, mode=mode), range(len(v.axes)), "pad")  # type: ignore[call-overload]


def padded_by_number(c: Context, v: Value, d: int, index: Array) -> Value | None:
    """All frames with mirrored or repeated ones before and after them; None for other numbers."""
    n = size_of(v.axes[d])
    for front in range(len(index) - n + 1):
        back = len(index) - n - front
        for mode in ("reflect", "edge"):
            if max(front, back) < n or mode == "edge":
                wanted = np.pad(np.arange(n), (front, back), mode=mode)
                if np.array_equal(index % n, wanted):
                    return _pad_otherwise(c, v, d, front, back, mode, 0.0)
    return None
