"""Elements that an index names one by one."""

from __future__ import annotations

import numpy as np

from edgeseq.frontend.axes import LayoutError, Value, describe
from edgeseq.frontend.context import Array, Context
from edgeseq.frontend.move import grid, moved

__all__ = ["take_along"]


def take_along(c: Context, v: Value, dim: int, index: Array) -> Value:
    """PyTorch's gather, ONNX's GatherElements: element (i, j, ...) of the result is that of `v` at
    (index[i, j, ...], j, ...) for axis 0. The index may be smaller than `v` along the other axes.

    Raises:
        LayoutError: the index differs from frame to frame, names frames, or takes some of them.
    """
    v = c.whole(v)
    d, at = v.axis(dim), grid(v)
    if index.ndim != at.ndim:
        raise LayoutError(f"takes elements of {describe(v.axes)} by an index of {index.ndim} axes")
    for i, n in enumerate(v.sizes):
        if v.kind(i) in "F1":
            if i != d:
                at = np.take(at, range(index.shape[i]), i)
        elif i == d or index.shape[i] != n or np.any(index != np.take(index, [0], i)):
            word = "sequences of the batch" if v.kind(i) == "B" else "frames"
            raise LayoutError(
                f"looks up {word} by number", "let the index say the same for all of them"
            )
        else:
            index = np.take(index, [0], i)
    take = np.take_along_axis(at, np.asarray(index) % at.shape[d], d)
    return moved(c, v, take, range(len(v.axes)), "gather")
