"""Operators on sequences of tensors ("lists"), which exporters write for unbind and split."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgeseq.frontend.axes import LayoutError, Value, size_of
from edgeseq.frontend.build import views
from edgeseq.frontend.context import Context
from edgeseq.frontend.onnx_registry import (
    Frames,
    Growing,
    Inputs,
    Several,
    constant,
    number,
    onnx,
)

_MOST = 4096


def _parts(c: Context, x: Any) -> tuple[Any, ...]:
    if isinstance(x, Frames) and x.value.kind(x.dim) != "T":
        n = x.value.sizes[x.dim]
        return tuple(_slice(c, x.value, x.dim, i, i + 1, keep=x.keep) for i in range(n))
    if isinstance(x, Frames):
        raise LayoutError(
            "takes frames of a sequence by number: the exporter unrolled a loop over time",
            "export with torch.onnx.export(..., dynamo=False), which keeps RNN, GRU and LSTM "
            "operators; or compile in window mode (--window N --hop N)",
        )
    if not isinstance(x, Several):
        raise LayoutError("reads a tensor where a sequence of tensors belongs")
    return x.parts


def _place(x: Any, count: int) -> int:
    at = int(number(x, "position") or 0)
    if not -count <= at < count:
        raise LayoutError(f"takes tensor {at} of {count}")
    return at % count


def _slice(c: Context, x: Any, d: int, start: int, stop: int, *, keep: bool) -> Any:
    if not isinstance(x, Value):
        part = np.take(np.asarray(x), np.arange(start, stop), axis=d)
        return part if keep else part.squeeze(d)
    if keep:
        return views.slice_axis(c, x, d, start, stop)
    return views.select(c, x, d, start)


@onnx("SplitToSequence")
def _split(c: Context, x: Inputs, axis: int = 0, keepdims: int = 1, **_: Any) -> Several | Frames:
    v = x[0]
    split = constant(x[1], "split") if len(x) > 1 and x[1] is not None else None
    if isinstance(v, Value):
        d = v.axis(axis)
        n = size_of(v.axes[d])
        if split is None or (split.ndim == 0 and split == 1):
            return Frames(v, d, keep=bool(keepdims) or split is not None)
        if v.kind(d) == "T" and n > 1:
            raise LayoutError("takes a sequence apart in pieces of several frames")
    else:
        d = axis % max(np.ndim(v), 1)
        n = np.shape(v)[d]
    if split is None:
        sizes = [1] * n
    elif split.ndim == 0:
        each = int(split)
        if each < 1:
            raise LayoutError(f"splits an axis of {n} into parts of {each}")
        sizes = [min(each, n - at) for at in range(0, n, each)]
    else:
        sizes = [int(k) for k in split]
    if sum(sizes) != n or len(sizes) > _MOST or min(sizes, default=0) < 1:
        raise LayoutError(f"splits an axis of {n} into {len(sizes)} parts")
    keep = bool(keepdims) or split is not None
    ends = np.cumsum(sizes)
    return Several(
        tuple(
            _slice(c, v, d, int(end) - size, int(end), keep=keep)
            for size, end in zip(sizes, ends, strict=True)
        )
    )


@onnx("SequenceAt")
def _at(c: Context, x: Inputs, **_: Any) -> Any:
    timed = isinstance(x[0], Frames) and x[0].value.kind(x[0].dim) == "T"
    if timed and np.all(constant(x[1], "position") == -1):
        y = views.last_frame(c, x[0].value, x[0].dim)
        return y if x[0].keep else views.squeeze(c, y, [x[0].dim])
    parts = _parts(c, x[0])
    return parts[_place(x[1], len(parts))]


@onnx("SequenceLength")
def _length(c: Context, x: Inputs, **_: Any) -> Any:
    if isinstance(x[0], Frames):
        return np.array(x[0].value.sizes[x[0].dim], np.int64)
    return np.array(len(_parts(c, x[0])), np.int64)


@onnx("SequenceEmpty")
def _empty(c: Context, x: Inputs, **_: Any) -> Several:
    return Several(())


@onnx("SequenceConstruct")
def _construct(c: Context, x: Inputs, **_: Any) -> Several:
    return Several(tuple(x))


@onnx("SequenceInsert")
def _insert(c: Context, x: Inputs, **_: Any) -> Several | Growing:
    if isinstance(x[0], Growing):
        if x[0].last is not None or (len(x) > 2 and x[2] is not None):
            raise LayoutError("appends several tensors in a turn", "append one")
        if not isinstance(x[1], Value):
            raise LayoutError("appends a constant in every turn")
        return Growing(x[0].name, x[1])
    parts = _parts(c, x[0])
    at = len(parts) if len(x) < 3 or x[2] is None else _place(x[2], len(parts) + 1)
    return Several((*parts[:at], x[1], *parts[at:]))


@onnx("SequenceErase")
def _erase(c: Context, x: Inputs, **_: Any) -> Several:
    parts = _parts(c, x[0])
    at = len(parts) - 1 if len(x) < 2 or x[1] is None else _place(x[1], len(parts))
    return Several((*parts[:at], *parts[at + 1 :]))


@onnx("ConcatFromSequence")
def _concat(c: Context, x: Inputs, axis: int = 0, new_axis: int = 0, **_: Any) -> Any:
    if isinstance(x[0], Frames):
        return _together(c, x[0], axis, new=bool(new_axis))
    parts = _parts(c, x[0])
    if not any(isinstance(p, Value) for p in parts):
        arrays = [np.asarray(p) for p in parts]
        return np.stack(arrays, axis) if new_axis else np.concatenate(arrays, axis)
    return views.stack(c, parts, axis) if new_axis else views.concat(c, parts, axis)


def _together(c: Context, f: Frames, axis: int, *, new: bool) -> Value:
    """Frames that were taken apart, stacked or joined along an axis of one of them."""
    v, d = f.value, f.dim
    if new and f.keep:
        raise LayoutError("stacks frames that keep an axis of 1", "join them along that axis")
    rank = len(v.axes) - (0 if f.keep or new else 1)
    at = axis % rank
    if not new:
        # Joined along an axis of size 1, or that of the frames itself.
        if f.keep and at == d:
            return v
        rest = v.axes[:d] + v.axes[d + 1 :] if not f.keep else v.axes
        if f.keep or size_of(rest[at]) != 1:
            raise LayoutError("joins frames along an axis of the frame", "stack them")
        v = views.squeeze(c, v, [at if at < d else at + 1])
        d = d - 1 if at < d else d
    order = [i for i in range(len(v.axes)) if i != d]
    order.insert(at, d)
    return views.permute(c, v, order)
