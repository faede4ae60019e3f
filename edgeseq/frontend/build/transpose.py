"""Transposed convolution, over time and over axes of a frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgeseq.frontend.axes import Atom, Axes, LayoutError, Value, describe, size_of
from edgeseq.frontend.build.convolve import Sliding, conv
from edgeseq.frontend.build.rates import framed, interleave
from edgeseq.frontend.build.views import permute, slice_axis
from edgeseq.frontend.context import Array, Context
from edgeseq.frontend.move import grid, place

__all__ = ["conv_transpose"]


def conv_transpose(
    c: Context,
    v: Value,
    w: Array,
    bias: Array | None,
    s: Sliding,
    groups: int = 1,
    output_padding: Sequence[int] | None = None,
) -> Value:
    """Transposed convolution of [N, C, positions...] with w [C, O / groups, taps...].

    It is a convolution of the input with zeros between its elements and the kernel reversed. Over
    time, s results of every frame are computed at once (`_phases`) and laid out one after another,
    where as many frames were taken together before (a strided convolution).
    """
    w = np.asarray(w, np.float64)
    rank = len(s.kernel)
    more = list(output_padding or [0] * rank)
    v = framed(c, v, range(2, len(v.axes)))
    if any(v.kind(2 + i) == "mixed" for i in range(rank)):
        raise LayoutError(
            f"slides along an axis of {describe(v.axes)} that mixes time with features",
            "give time an axis of its own",
        )
    if w.ndim != rank + 2 or size_of(v.axes[1]) != w.shape[0] or w.shape[0] % groups:
        raise LayoutError(f"has weights of {list(w.shape)} for {describe(v.axes)}")
    time = next((i for i in range(rank) if v.kind(2 + i) == "T" and s.stride[i] > 1), None)
    if time is not None:
        return _faster(c, c.whole(v), w, bias, s, groups, more, time)
    pads = []
    for i in range(rank):
        full = s.reach(i) - 1
        lo, hi = full - s.pads[i][0], full - s.pads[i][1] + more[i]
        pads.append((lo, hi))
    if any(v.kind(2 + i) == "T" for i in range(rank)) and any(p < 0 for q in pads for p in q):
        raise LayoutError("cuts off more than the kernel reaches")
    if any(s.stride[i] > 1 for i in range(rank)):
        at = grid(c.whole(v))
        for i in range(rank):
            axis, n = 2 + i, at.shape[2 + i]
            # Zeros after the last element, too, where padding follows: a regular pattern.
            tail = s.stride[i] - 1 if pads[i][1] >= s.stride[i] - 1 else 0
            pads[i] = (pads[i][0], pads[i][1] - tail)
            count = (n - 1) * s.stride[i] + 1 + tail
            wide = np.full((*at.shape[:axis], count, *at.shape[axis + 1 :]), -1, np.int64)
            wide[(*[slice(None)] * axis, slice(None, None, s.stride[i]))] = at
            at = wide
        axes = list(v.axes)
        for i in range(rank):
            if v.kind(2 + i) != "T":
                n = at.shape[2 + i]
                axes[2 + i] = (Atom("F", n),) if n != 1 else ()
        v = place(c, v, at, tuple(axes), "spread")
    inner = [(max(a, 0), max(b, 0)) for a, b in pads]
    per_in, per_out = w.shape[0] // groups, w.shape[1]
    flipped = np.flip(w, tuple(range(2, w.ndim)))
    flipped = flipped.reshape(groups, per_in, per_out, *w.shape[2:])
    flipped = np.moveaxis(flipped, 2, 1).reshape(groups * per_out, per_in, *w.shape[2:])
    y = conv(c, v, flipped, bias, Sliding(s.kernel, None, s.dilation, inner), groups)
    if any(p < 0 for pair in pads for p in pair):
        for i, (lo, hi) in enumerate(pads):
            n = size_of(y.axes[2 + i])
            y = slice_axis(c, y, 2 + i, max(-lo, 0), n - max(-hi, 0))
    return y


def _phases(w: Array, s: Sliding, i: int) -> tuple[Array, int]:
    """A kernel that makes s frames of one, as one that makes one with s times the outputs.

    Element ``e = stride * t + r`` of the result, counted after the padding is cut off, reads the
    taps ``(pad + r) % stride + q * stride`` for frames ``t + (pad + r) // stride - q``, q >= 0.

    Args:
        w: [C, O, taps...].
        s: how the kernel slides.
        i: the spatial axis that is time.

    Returns:
        [C, stride * O, taps...], the outputs of r before those of r + 1, and the frames after t
        that are read.
    """
    axis, stride, pad = 2 + i, s.stride[i], s.pads[i][0]
    dense = np.zeros((*w.shape[:axis], s.reach(i), *w.shape[axis + 1 :]))
    dense[(*[slice(None)] * axis, slice(None, None, s.dilation[i]))] = w
    dense = np.moveaxis(dense, axis, 0)
    ahead = (pad + stride - 1) // stride
    taps = max(ahead - pad // stride + -(-len(dense) // stride), ahead + 1)
    out = np.zeros((stride, taps, *dense.shape[1:]))
    for r in range(stride):
        first, phase = ahead - (pad + r) // stride, dense[(pad + r) % stride :: stride]
        out[r, first : first + len(phase)] = phase
    out = np.moveaxis(out, 1, 1 + axis)  # [stride, C, O, taps...]
    out = np.moveaxis(out, 0, 1)
    return out.reshape(w.shape[0], -1, *out.shape[3:]), ahead


def _faster(
    c: Context, v: Value, w: Array, bias: Array | None, s: Sliding, groups: int,
    more: Sequence[int], i: int,
) -> Value:  # fmt: skip
    """A transposed convolution with a stride over time, spatial axis i: s frames of every one."""
    stride, per_out, d = s.stride[i], w.shape[1], 2 + i
    wide, ahead = _phases(w, s, i)
    # Frames that the kernel reaches beyond those of the last one; below 0: that it leaves out.
    extra = s.reach(i) - stride - sum(s.pads[i]) + more[i]
    tail = max(-(-extra // stride), 0)
    taps = wide.shape[d]

    def but(values: Sequence[Any], own: Any) -> list[Any]:
        return [own if k == i else x for k, x in enumerate(values)]

    inner = Sliding(
        but(s.kernel, taps), but(s.stride, 1), but(s.dilation, 1),
        but(s.pads, (ahead, taps - 1 - ahead - tail)),
    )  # fmt: skip
    if bias is not None:
        flat = np.ravel(np.asarray(bias, np.float64))
        bias = np.tile(flat.reshape(groups, 1, -1), (1, stride, 1)).reshape(-1)
    y = conv_transpose(c, v, wide, bias, inner, groups, but(more, 0))
    parts: Axes = tuple((Atom("F", k),) for k in (groups, stride, per_out))
    y = permute(
        c, c.view(y, (y.axes[0], *parts, *y.axes[2:])), [2, 0, 1, *range(3, len(y.axes) + 2)]
    )
    y = interleave(c, y, d + 2)
    y = c.view(y, (y.axes[0], (Atom("F", groups * per_out),), *y.axes[3:]))
    surplus = tail * stride - extra
    return slice_axis(c, y, d, None, -surplus) if surplus else y
