"""Axes resized, by the nearest element or linearly, and channels that become positions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgeseq.frontend.axes import LayoutError, Value, describe, size_of
from edgeseq.frontend.build import products, rates
from edgeseq.frontend.build.views import permute, reshape
from edgeseq.frontend.context import Array, Context
from edgeseq.frontend.move import grid, moved

__all__ = ["depth_to_space", "linear", "nearest", "space_to_depth"]


def nearest(c: Context, v: Value, dim: int, index: Array) -> Value:
    """Elements of an axis by number; of time only such that every frame is repeated alike.

    Args:
        index: [m], which of the old elements each new one is.
    """
    v = rates.framed_axis(c, v, dim)
    d, m = v.axis(dim), len(index)
    n = size_of(v.axes[d])
    if v.kind(d) == "T" and m % n == 0 and np.array_equal(index, np.arange(m) // (m // n)):
        return rates.repeat_frames(c, v, d, m // n)
    if v.kind(d) not in "F1":
        raise LayoutError("resizes time or the batch", "repeat every frame a whole number of times")
    return moved(c, v, np.take(grid(c.whole(v)), index, axis=d), range(len(v.axes)), "resize")


def linear(c: Context, v: Value, dim: int, places: Array) -> Value:
    """Linear interpolation along an axis of the frame or over time.

    Args:
        places: [m], where the new elements lie among the old ones; beyond the first and the last
            they are these.
    """
    d = v.axis(dim)
    if v.kind(d) == "T" or rates.is_laid_out(v.axes[d]):
        return rates.between(c, v, d, places)
    if v.kind(d) not in "F1":
        raise LayoutError(f"interpolates along axis {d} of {describe(v.axes)}")
    n, m = size_of(v.axes[d]), len(places)
    inside = np.clip(places, 0, n - 1)
    low = np.floor(inside).astype(int)
    part = inside - low
    matrix = np.zeros((m, n))
    np.add.at(matrix, (np.arange(m), low), 1.0 - part)
    np.add.at(matrix, (np.arange(m), np.minimum(low + 1, n - 1)), part)
    last = [*(i for i in range(len(v.axes)) if i != d), d]
    turned = products.linear(c, permute(c, v, last), matrix)
    return permute(c, turned, [int(i) for i in np.argsort(last)])


def depth_to_space(c: Context, v: Value, block: int, *, channels_first: bool = True) -> Value:
    """[..., C b b, H, W] as [..., C, H b, W b]; H or W may be time, of which b frames come then.

    Args:
        block: b.
        channels_first: the channels count C before the place in the block (PyTorch's pixel shuffle,
            ONNX's CRD), not after it (DCR).
    """
    *lead, ch, h, w = v.sizes
    n, b = len(lead), block
    if ch % (b * b):
        raise LayoutError(f"makes blocks of {b} by {b} of {ch} channels")
    inner = [ch // (b * b), b, b] if channels_first else [b, b, ch // (b * b)]
    y = reshape(c, v, [*lead, *inner, h, w])
    channel, row, column = (n, n + 1, n + 2) if channels_first else (n + 2, n, n + 1)
    y = permute(c, y, [*range(n), channel, n + 3, row, n + 4, column])
    return reshape(c, y, [*lead, ch // (b * b), h * b, w * b])


def space_to_depth(c: Context, v: Value, block: int, *, channels_first: bool = True) -> Value:
    """[..., C, H b, W b] as [..., C b b, H, W]; the reverse of `depth_to_space`."""
    *lead, ch, h, w = v.sizes
    n, b = len(lead), block
    if h % b or w % b:
        raise LayoutError(f"takes blocks of {b} by {b} of {h} by {w} positions")
    y = reshape(c, v, [*lead, ch, h // b, b, w // b, b])
    place: Sequence[int] = (n, n + 2, n + 4) if channels_first else (n + 2, n + 4, n)
    y = permute(c, y, [*range(n), *place, n + 1, n + 3])
    return reshape(c, y, [*lead, ch * b * b, h // b, w // b])
