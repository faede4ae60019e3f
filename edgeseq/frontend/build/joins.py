"""Frames put before a sequence, or zeros after it: tensors joined along time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from edgeseq.frontend.axes import Atom, Axes, LayoutError, Value, size_of
from edgeseq.frontend.build.arith import where
from edgeseq.frontend.build.pads import pad_time
from edgeseq.frontend.build.views import shifted
from edgeseq.frontend.context import Array, Context

__all__ = ["join_time", "ones_like"]

_MOST_BEFORE = 64
"""Frames before a sequence that may be other than zero; each is a choice in every step."""


def join_time(c: Context, tensors: Sequence[Any], d: int) -> Value:
    """Constants and first frames, one sequence, and zeros, one after another along axis `d`.

    Zeros are padding, which a convolution takes in. Other frames before the sequence are chosen
    while they last: how many frames there have been is known from ones, later.

    Raises:
        LayoutError: two sequences, or frames after the end that are not zero.
    """
    at = [i for i, t in enumerate(tensors) if isinstance(t, Value) and not t.head]
    if len(at) != 1:
        raise LayoutError("joins tensors along time", "join along the features only")
    (i,) = at
    first, v, last = tensors[:i], tensors[i], tensors[i + 1 :]
    if any(isinstance(t, Value) or np.any(t) for t in last):
        raise LayoutError(
            "puts frames after the end of a sequence", "a stream has no end; put zeros there"
        )
    front, back = (
        sum(size_of(t.axes[d]) if isinstance(t, Value) else np.shape(t)[d] for t in part)
        for part in (first, last)
    )
    if not any(isinstance(t, Value) or np.any(t) for t in first):
        return pad_time(c, v, d, front, back)
    if front > _MOST_BEFORE:
        raise LayoutError(
            f"puts {front} frames before a sequence", f"put at most {_MOST_BEFORE}, or zeros"
        )
    y = c.whole(pad_time(c, v, d, front, 0))
    ones, end = ones_like(c, y, d), front
    for t in reversed(first):
        for frames, item in _frames(c, t, y, d, end):
            begun = c.whole(shifted(c, ones, ones.axes, end, -end))
            y = where(c, begun, y, item)
            end -= frames
    return pad_time(c, y, d, 0, back) if back else y


def _frames(c: Context, t: Any, y: Value, d: int, end: int) -> list[tuple[int, Any]]:
    """What lies before frame `end` of `y`, the last first: how many frames, and of what."""
    if isinstance(t, Value):
        n, begin = t.head, end - t.head
        source = replace(t, head=0, axes=(*t.axes[:d], y.axes[d], *t.axes[d + 1 :]))
        return [(n, _late(c, source, begin, c.longer(y.name) - c.longer(t.name)))]
    array = np.asarray(t, np.float64)
    rows: list[Array] = [array.take([k], axis=d) for k in range(array.shape[d])]
    runs: list[tuple[int, Array]] = []
    for row in reversed(rows):
        if runs and np.array_equal(runs[-1][1], row):
            runs[-1] = (runs[-1][0] + 1, row)
        else:
            runs.append((1, row))
    return list(runs)


def _late(c: Context, source: Value, begin: int, more: int) -> Value:
    """The frames of `source` from place `begin` on, as a sequence longer than it by `more`."""
    if begin == 0 and more == 0:
        return c.whole(source)
    return c.whole(shifted(c, source, source.axes, begin, more - begin))


def ones_like(c: Context, v: Value, d: int) -> Value:
    """1 in every frame of `v`, for choosing along all its axes."""
    axes: Axes = tuple(tuple(a for a in axis if a.label != "F") for axis in v.axes)
    free = next((i for i in range(len(axes)) if i != d and not axes[i]), None)
    if free is not None:
        axes = (*axes[:free], (Atom("F", 1),), *axes[free + 1 :])
    return c.view(Value(c.ones(v), axes), axes)
