"""A `strided` view as few operators that every file format has.

A view is written as steps: reshape, slices of axes, a transposition, a gather of rows with constant
indices. Permutations and parts of an array need no indices; whatever else (repetitions, reversals,
overlapping windows) gathers rows that are as long as the view allows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Move", "moves"]

_Dims = list[tuple[int, int]]  # length and stride of each axis


@dataclass(frozen=True)
class Move:
    """One step. Axes and shapes are those of one frame, without the batch axis.

    Attributes:
        kind: 'reshape'; 'take' (one index of axis 0, which goes away); 'slice'; 'transpose'; or
            'gather' (rows of an axis by constant indices).
        shape: of the result.
        starts: of a slice: first index of each axis.
        perm: of a transposition: the axis of x that each axis of the result is.
        axis: of a gather.
        indices: of a gather [rows], of a take [].
    """

    kind: str
    shape: tuple[int, ...]
    starts: tuple[int, ...] = ()
    perm: tuple[int, ...] = ()
    axis: int = 0
    indices: npt.NDArray[Any] = field(default_factory=lambda: np.zeros(0, np.int64))


def moves(
    source: Sequence[int],
    shape: Sequence[int],
    strides: Sequence[int],
    offset: int,
    *,
    most_axes: int = 5,
) -> list[Move]:
    """Steps from a frame of shape `source` to the view of shape `shape`.

    Args:
        source: shape of x.
        shape, strides, offset: attributes of the `strided` node.
        most_axes: of any array on the way.
    """
    source, shape = tuple(source), tuple(shape)
    size = math.prod(source)
    dims = _merged(shape, strides)
    taken = _take(source, shape, dims, offset)
    if taken is not None:
        return [taken]
    steps = _factored(size, dims, offset, most_axes) or _gathered(size, dims, offset)
    out: list[Move] = []
    for step in [*steps, Move("reshape", shape)]:
        if out and step.kind == out[-1].kind == "reshape":
            out.pop()
        before = out[-1].shape if out else source
        if step.kind != "reshape" or step.shape != before:
            out.append(step)
    return out


def _merged(shape: Sequence[int], strides: Sequence[int]) -> _Dims:
    """Axes of the view without those of length 1, neighbours joined where they can be."""
    dims: _Dims = []
    for n, s in zip(shape, strides, strict=True):
        if n == 1:
            continue
        if dims and dims[-1][1] == n * s:
            dims[-1] = (dims[-1][0] * n, s)
        else:
            dims.append((n, s))
    return dims


def _take(source: tuple[int, ...], shape: tuple[int, ...], dims: _Dims, offset: int) -> Move | None:
    """One index of axis 0, where the view is that."""
    size = math.prod(shape)
    rows = not dims or dims == [(size, 1)]
    if len(source) > 1 and source[1:] == shape and source[0] > 1 and rows and offset % size == 0:
        return Move("take", shape, indices=np.array(offset // size))
    return None


def _factored(size: int, dims: _Dims, offset: int, most_axes: int) -> list[Move] | None:
    """Reshape, slice, transpose: where every stride is that of an axis of some shape of x."""
    order = sorted(range(len(dims)), key=lambda i: -dims[i][1])
    axes, starts, counts = [], [], []
    outer = size
    for n, s in (dims[i] for i in order):
        if s < 1 or outer % s:
            return None
        axes.append(outer // s)
        starts.append(offset % outer // s)
        counts.append(n)
        outer = s
    if outer > 1:  # one element of an inner axis
        axes.append(outer)
        starts.append(offset % outer)
        counts.append(1)
    if len(axes) > most_axes or any(
        a + n > d for a, n, d in zip(starts, counts, axes, strict=True)
    ):
        return None
    steps = [Move("reshape", tuple(axes))]
    if counts != axes:
        steps.append(Move("slice", tuple(counts), starts=tuple(starts)))
    perm = [order.index(i) for i in range(len(dims))]
    if perm != sorted(perm):
        perm += range(len(dims), len(axes))
        steps.append(Move("transpose", tuple(counts[i] for i in perm), perm=tuple(perm)))
    return steps


def _gathered(size: int, dims: _Dims, offset: int) -> list[Move]:
    """Rows of equal length, gathered within each part that the leading axes divide x into."""
    lead = 1
    while len(dims) > 1 and dims[0][0] * dims[0][1] == size // lead:
        part = dims[0][1]
        low = offset + sum((n - 1) * s for n, s in dims[1:] if s < 0)
        high = offset + sum((n - 1) * s for n, s in dims[1:] if s > 0)
        if low < 0 or high >= part:
            break
        lead *= dims[0][0]
        dims = dims[1:]
    part = size // lead
    last = dims[-1][0] if dims and dims[-1][1] == 1 else 1
    others = dims[:-1] if last > 1 else dims
    row = math.gcd(last, offset, part, *(s for _, s in others))
    shape = [n for n, _ in others] + [last // row]
    strides = [s // row for _, s in others] + [1]
    at = np.full((), offset // row, np.int64)
    for n, s in zip(shape, strides, strict=True):
        at = at[..., None] + np.arange(n, dtype=np.int64) * s
    indices = at.reshape(-1)
    steps = [Move("reshape", (lead, part // row, row))]
    return [*steps, Move("gather", (lead, indices.size, row), axis=1, indices=indices)]
