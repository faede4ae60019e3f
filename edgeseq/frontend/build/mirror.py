"""Sequences whose first frames are mirrored or repeated in front of them.

What a kernel reads before the first frame is among the frames that it reads anyway, as long as it
reaches as far ahead as it is padded in front (2 front < reach, as of centred kernels and short-time
transforms). So nothing is made of such padding by itself: for the first positions the kernel's taps
are read in another order, and the number of the position chooses.

What is mirrored behind the last frame comes after the end of a sequence, where a stream never gets.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from edgeseq.frontend.axes import Axes, LayoutError, Value
from edgeseq.frontend.build.arith import where
from edgeseq.frontend.build.joins import join_time, ones_like
from edgeseq.frontend.build.views import shifted
from edgeseq.frontend.context import Context
from edgeseq.frontend.move import grid, place

__all__ = ["first_positions", "made", "more_taps"]

_MOST = 64
"""Positions that read mirrored frames; each is a choice in every step."""

_FIX = "pad with zeros (torch.stft: pad_mode='constant'), or compile in window mode (--window N)"


def more_taps(v: Value, reach: int) -> int:
    """Frames that a kernel over `reach` frames has to read besides, to have what is mirrored.

    Raises:
        LayoutError: all that it reads is padding.
    """
    front = v.pad[0]
    if front >= reach:
        raise LayoutError(f"pads time in mode {v.mirror!r} further than the kernel reaches", _FIX)
    return max(0, 2 * front - reach + 1) if v.mirror == "reflect" else 0


def first_positions(c: Context, seen: Value, mode: str, front: int, stride: int) -> Value:
    """Windows over a sequence with their first positions put right.

    Args:
        c: the Graph under construction.
        seen: [taps, ...]: what each position reads, zeros before the first frame.
        mode: 'reflect' or 'edge'.
        front: frames that are padded.
        stride: frames from one position to the next.
    """
    count = -(-front // stride)
    if count > _MOST:
        raise LayoutError(f"pads time in mode {mode!r} at {count} positions", _FIX)
    d = next(i for i in range(len(seen.axes)) if seen.kind(i) == "T")
    at = grid(seen)
    ones = ones_like(c, seen, d)
    out: Value | None = None
    for j in range(count + 1):
        outside = max(front - j * stride, 0)
        taps = np.arange(at.shape[0])
        taps[:outside] = 2 * outside - taps[:outside] if mode == "reflect" else outside
        here = place(c, seen, at[taps], seen.axes, f"mirrored{j}") if outside else seen
        if out is None:
            out = here
        else:
            out = where(c, c.whole(shifted(c, ones, ones.axes, j, -j)), here, out)
    assert out is not None
    return out


def made(c: Context, v: Value) -> Value:
    """`v` with its padding made, for who cannot take it in.

    Raises:
        LayoutError: frames are mirrored in front of it.
    """
    front, back = v.pad
    plain = replace(v, pad=(0, 0), mirror="")
    if front and v.mirror == "reflect":
        raise LayoutError("pads time in mode 'reflect' for something else than a kernel", _FIX)
    d = next(i for i in range(len(v.axes)) if v.kind(i) == "T")
    if front:
        (atom,) = v.axes[d]
        one: Axes = (*v.axes[:d], (replace(atom, size=1),), *v.axes[d + 1 :])
        short: Axes = (
            *v.axes[:d],
            (replace(atom, size=atom.size - front - back),),
            *v.axes[d + 1 :],
        )
        first = replace(plain, axes=one, head=1)
        plain = join_time(c, [first] * front + [replace(plain, axes=short)], d)
    if back:
        c.ends_otherwise = True
        plain = replace(plain, axes=v.axes, pad=(plain.pad[0], back))
    return c.whole(plain)
