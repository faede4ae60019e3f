"""Operators that move elements."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from edgeseq.frontend.axes import Atom, LayoutError, Value, describe, size_of
from edgeseq.frontend.build import pads as padding
from edgeseq.frontend.build import resize, views
from edgeseq.frontend.build.elements import take_along
from edgeseq.frontend.context import Context
from edgeseq.frontend.move import grid, moved, place
from edgeseq.frontend.onnx_registry import Inputs, constant, ints, number, onnx


@onnx("Reshape")
def _reshape(c: Context, x: Inputs, allowzero: int = 0, **_: Any) -> Value:
    v = x[0]
    want = ints(x[1], "shape") or []
    have = v.sizes
    if not allowzero:
        want = [have[i] if n == 0 and i < len(have) else n for i, n in enumerate(want)]
    return views.reshape(c, v, want)


@onnx("Flatten")
def _flatten(c: Context, x: Inputs, axis: int = 1, **_: Any) -> Value:
    sizes = x[0].sizes
    d = axis if axis >= 0 else axis + len(sizes)
    return views.reshape(c, x[0], [math.prod(sizes[:d]), math.prod(sizes[d:])])


@onnx("Transpose")
def _transpose(c: Context, x: Inputs, perm: Any = None, **_: Any) -> Value:
    rank = len(x[0].axes)
    return views.permute(c, x[0], list(perm) if perm else list(reversed(range(rank))))


@onnx("Unsqueeze")
def _unsqueeze(c: Context, x: Inputs, **_: Any) -> Value:
    return views.unsqueeze(c, x[0], ints(x[1], "axes") or [])


@onnx("Squeeze")
def _squeeze(c: Context, x: Inputs, **_: Any) -> Value:
    axes = ints(x[1], "axes") if len(x) > 1 else None
    v = x[0]
    if axes is not None and any(size_of(v.axes[v.axis(d)]) != 1 for d in axes):
        raise LayoutError(f"drops axes {axes} of {describe(v.axes)}, which are not of size 1")
    return views.squeeze(c, v, axes)


@onnx("Expand")
def _expand(c: Context, x: Inputs, **_: Any) -> Value:
    return views.expand(c, x[0], ints(x[1], "shape") or [])


@onnx("Tile")
def _tile(c: Context, x: Inputs, **_: Any) -> Value:
    v, repeats = c.whole(x[0]), ints(x[1], "repeats") or []
    if len(repeats) == len(v.axes) and c.frames:
        whole = [d for d, n in enumerate(repeats) if n == c.frames and v.sizes[d] == 1]
        v = views.over_time(c, v, whole)
        repeats = [1 if v.sizes[d] == c.frames and d in whole else n for d, n in enumerate(repeats)]
    if all(n == 1 for n in repeats):
        return v
    if any(n != 1 and v.kind(d) in ("T", "B", "mixed") and size_of(v.axes[d]) > 1
           for d, n in enumerate(repeats)):  # fmt: skip
        raise LayoutError("repeats time or the batch")
    return moved(c, v, np.tile(grid(v), repeats), range(len(repeats)), "tile")


@onnx("Slice")
def _slice(c: Context, x: Inputs, **_: Any) -> Value:
    v = x[0]
    starts, ends = ints(x[1], "starts") or [], ints(x[2], "ends") or []
    axes = ints(x[3], "axes") if len(x) > 3 else None
    steps = ints(x[4], "steps") if len(x) > 4 else None
    axes = list(range(len(starts))) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    for d, lo, hi, step in zip(axes, starts, ends, steps, strict=True):
        n = size_of(v.axes[v.axis(d)])
        stop: int | None = hi
        if step > 0 and hi >= n:
            stop = None
        if step < 0 and hi < -n:
            stop = None
        v = views.slice_axis(c, v, d, lo, stop, step)
    return v


@onnx("Split")
def _split(c: Context, x: Inputs, axis: int = 0, num_outputs: int | None = None, **_: Any) -> Any:
    v = x[0]
    sizes = ints(x[1], "split") if len(x) > 1 else None
    n = size_of(v.axes[v.axis(axis)])
    if sizes is None:
        parts = num_outputs or len(c.op.outputs)
        each = -(-n // parts)
        sizes = [each] * (parts - 1) + [n - each * (parts - 1)]
    return views.split(c, v, axis, sizes)


@onnx("Concat")
def _concat(c: Context, x: Inputs, axis: int = 0, **_: Any) -> Value:
    return views.concat(c, [t for t in x if t is not None], axis)


@onnx("Gather")
def _gather(c: Context, x: Inputs, axis: int = 0, **_: Any) -> Value:
    data, index = x[0], x[1]
    if isinstance(index, Value):
        if isinstance(data, Value):
            raise LayoutError("looks a value up by another value")
        return _embed(c, np.asarray(data), index, axis)
    return views.take(c, data, axis, np.asarray(index))


def _embed(c: Context, table: Any, index: Value, axis: int) -> Value:
    if table.ndim == 1:
        table = table[:, None]
        y = _rows(c, table, index)
        return views.squeeze(c, y, [-1])
    if axis % table.ndim:
        table = np.moveaxis(table, axis, 0)
        if len(index.axes) != 0 and size_of(index.axes[-1]) != 1:
            raise LayoutError("looks up columns of a table", "store the table row by row")
    sizes = table.shape[1:]
    y = _rows(c, table.reshape(len(table), -1), index)
    return y if len(sizes) == 1 else views.reshape(c, y, [*y.sizes[:-1], *sizes])


def _rows(c: Context, table: Any, index: Value) -> Value:
    v = c.real(index)
    axes = (*v.axes, (Atom("F", table.shape[1]),))
    out = c.graph.add_node("embed", [v.name, c.const(table, "table")], name=c.name())
    return c.view(Value(out, axes), axes)


@onnx("GatherElements")
def _gather_elements(c: Context, x: Inputs, axis: int = 0, **_: Any) -> Value:
    return take_along(c, x[0], axis, constant(x[1], "index"))


@onnx("GatherND")
def _gather_nd(c: Context, x: Inputs, batch_dims: int = 0, **_: Any) -> Value:
    v, index = c.whole(x[0]), constant(x[1], "index").astype(np.int64)
    if batch_dims or any(v.kind(d) in ("T", "mixed") for d in range(index.shape[-1])):
        raise LayoutError(
            "looks up frames by number",
            "an interpolation over time that the exporter took apart: export it by "
            "torch.onnx.export(dynamo=False), or compile the .pt2 file",
        )
    at = grid(v)
    k = index.shape[-1]
    picked = at[tuple(index[..., i] for i in range(k))]
    origin = [*[None] * (index.ndim - 1), *range(k, len(v.axes))]
    return moved(c, v, picked, origin, "gather")


@onnx("ScatterND")
def _scatter_nd(c: Context, x: Inputs, reduction: str = "none", **_: Any) -> Value:
    if reduction not in ("none", None):
        raise LayoutError(f"scatters with reduction {reduction!r}")
    index = constant(x[1], "index").astype(np.int64)

    def put(at: Any, new: Any) -> Any:
        out = at.copy()
        out[tuple(index[..., i] for i in range(index.shape[-1]))] = new
        return out

    return _put(c, x[0], x[2], put)


@onnx("ScatterElements")
def _scatter_elements(
    c: Context, x: Inputs, axis: int = 0, reduction: str = "none", **_: Any
) -> Value:
    if reduction not in ("none", None):
        raise LayoutError(f"scatters with reduction {reduction!r}")
    index = constant(x[1], "index").astype(np.int64)
    for i, n in enumerate(x[0].sizes if isinstance(x[0], Value) else ()):
        if x[0].kind(i) in ("T", "mixed"):  # every frame alike
            if i == axis % index.ndim or index.shape[i] != n or np.any(index != index.take([0], i)):
                raise LayoutError("writes frames by number")
            index = index.take([0], i)

    def put(at: Any, new: Any) -> Any:
        # The index may be smaller than what is written to; along other axes it starts at 0.
        out = at.copy()
        where = list(np.indices(index.shape))
        where[axis] = index % out.shape[axis]
        out[tuple(where)] = new[tuple(slice(n) for n in index.shape)]
        return out

    return _put(c, x[0], x[2], put)


def _put(c: Context, data: Any, new: Any, put: Any) -> Value:
    """Elements of `new` over those of `data`: both side by side, then picked."""
    like = data if isinstance(data, Value) else new
    if isinstance(data, Value):
        data = c.whole(data)
        if any(a.label == "T" for axis in data.axes for a in axis):
            if isinstance(new, Value) and data.sizes == new.sizes:
                data = c.real(data)
            else:
                raise LayoutError("writes frames by number")
    values: list[Value] = []
    grids = []
    offset = 0
    for t in (data, new):
        if isinstance(t, Value):
            v = c.real(t)
        else:
            array = np.asarray(t)
            axes = tuple(((Atom("F", n),) if n != 1 else ()) for n in array.shape)
            v = Value("", axes)
            v = replace(v, name=c.const(array.reshape(v.frame or (1,)), "written"))
        at = grid(v) + offset
        offset += at.size
        values.append(v)
        grids.append(at)
    picked = put(grids[0], grids[1].reshape(np.shape(grids[1])))
    flat = [
        c.graph.add_node("reshape", [v.name], name=c.name("flat"), shape=(g.size,))
        for v, g in zip(values, grids, strict=True)
    ]
    joined = c.graph.add_node("concat", flat, name=c.name("both"))
    source = Value(joined, ((Atom("F", offset),),))
    out = (
        values[0].axes
        if isinstance(data, Value)
        else tuple(((Atom("F", n),) if n != 1 else ()) for n in np.shape(data))
    )
    assert like is not None
    return place(c, source, picked, out, "scatter")


@onnx("Pad")
def _pad(c: Context, x: Inputs, mode: str = "constant", **_: Any) -> Value:
    v = x[0]
    pads = ints(x[1], "pads") or []
    fill = number(x[2], "value") if len(x) > 2 else None
    axes = ints(x[3], "axes") if len(x) > 3 else None
    axes = list(range(len(v.axes))) if axes is None else [v.axis(d) for d in axes]
    half = len(pads) // 2
    pairs = [(0, 0)] * len(v.axes)
    for i, d in enumerate(axes):
        pairs[d] = (pads[i], pads[half + i])
    return padding.pad(c, v, pairs, mode, fill or 0.0)


@onnx("DepthToSpace")
def _depth_to_space(
    c: Context, x: Inputs, blocksize: int = 1, mode: str = "DCR", **_: Any
) -> Value:
    return resize.depth_to_space(c, x[0], blocksize, channels_first=mode == "CRD")


@onnx("SpaceToDepth")
def _space_to_depth(
    c: Context, x: Inputs, blocksize: int = 1, mode: str = "DCR", **_: Any
) -> Value:
    return resize.space_to_depth(c, x[0], blocksize, channels_first=mode == "CRD")


@onnx("ReverseSequence")
def _reverse(c: Context, x: Inputs, time_axis: int = 0, **_: Any) -> Value:
    lengths = constant(x[1], "lengths")
    n = size_of(x[0].axes[time_axis])
    if np.any(lengths != n):
        raise LayoutError("reverses sequences of different lengths")
    return views.flip(c, x[0], [time_axis])


@onnx("Resize")
def _resize(c: Context, x: Inputs, mode: str = "nearest", **attrs: Any) -> Value:
    v = c.whole(x[0])
    scales = None if len(x) < 3 or x[2] is None else np.asarray(x[2], float)
    sizes = ints(x[3], "sizes") if len(x) > 3 else None
    have = v.sizes
    named = [v.axis(d) for d in attrs.get("axes") or ()]
    if named and sizes is not None:
        sizes = [sizes[named.index(i)] if i in named else n for i, n in enumerate(have)]
    elif named and scales is not None:
        scales = np.array([scales[named.index(i)] if i in named else 1.0 for i in range(len(have))])
    if sizes is None:
        assert scales is not None
        sizes = [int(n * s) for n, s in zip(have, scales, strict=True)]
    if attrs.get("keep_aspect_ratio_policy") not in (None, "stretch"):
        raise LayoutError("keeps an aspect ratio", "state the sizes")
    if attrs.get("antialias") or attrs.get("exclude_outside"):
        raise LayoutError("resizes with a filter", "use nearest or linear without antialias")
    transform = attrs.get("coordinate_transformation_mode", "half_pixel")
    rounding = attrs.get("nearest_mode", "round_prefer_floor")
    y = v
    for d, (n, m) in enumerate(zip(have, sizes, strict=True)):
        if n == m and (scales is None or float(scales[d]) == 1.0):
            continue
        places = _positions(n, m, m / n if scales is None else float(scales[d]), transform)
        if mode == "nearest":
            y = resize.nearest(c, y, d, _nearest(places, n, rounding))
        elif mode == "linear":
            y = resize.linear(c, y, d, places)
        else:
            raise LayoutError(f"resizes in mode {mode!r}", "use nearest or linear")
    return y


def _nearest(place: Any, n: int, rounding: str) -> Any:
    """Which of n old elements each position takes."""
    index = {
        "floor": np.floor(place),
        "ceil": np.ceil(place),
        "round_prefer_floor": np.ceil(place - 0.5),
        "round_prefer_ceil": np.floor(place + 0.5),
    }[rounding]
    return np.clip(index, 0, n - 1).astype(int)


def _positions(n: int, m: int, scale: float, transform: str) -> Any:
    """Where the elements of a resized axis lie in the old one."""
    i = np.arange(m, dtype=float)
    if transform == "asymmetric":
        return i / scale
    if transform == "half_pixel" or (transform == "pytorch_half_pixel" and m > 1):
        return (i + 0.5) / scale - 0.5
    if transform == "pytorch_half_pixel":
        return np.zeros(m)
    if transform == "align_corners" and abs(n * scale - m) < 1e-6:
        return i * (n - 1) / max(m - 1, 1)
    if transform == "half_pixel_symmetric":
        adjust = m / (scale * n)
        return n / 2 * (1 - adjust) + (i + 0.5) / scale - 0.5
    raise LayoutError(f"resizes by {transform!r}")
