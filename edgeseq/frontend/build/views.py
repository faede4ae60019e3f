"""Views, selections, padding and joining of tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from edgeseq.frontend.axes import (
    ONE_FRAME,
    Atom,
    Axes,
    LayoutError,
    Value,
    describe,
    is_unit,
    kind_of,
    regroup,
    size_of,
)
from edgeseq.frontend.build.rates import at_one_rate, framed, framed_axis, grouped
from edgeseq.frontend.context import Array, Context
from edgeseq.frontend.move import grid, joined, moved
from edgeseq.frontend.past import file_sizes, refuse_scores

__all__ = [
    "concat",
    "expand",
    "flip",
    "last_frame",
    "over_time",
    "permute",
    "reshape",
    "resolve_sizes",
    "select",
    "shifted",
    "slice_axis",
    "slice_time",
    "split",
    "squeeze",
    "stack",
    "take",
    "unsqueeze",
]

TO_THE_END = (1 << 63) - 1


def resolve_sizes(have: Sequence[int], want: Sequence[int]) -> list[int]:
    """Sizes of a view, a -1 among them filled in.

    Raises:
        LayoutError: more than one -1, or sizes that do not fit.
    """
    total, sizes = math.prod(have), [int(n) for n in want]
    if sizes.count(-1) > 1 or any(n < -1 for n in sizes):
        raise LayoutError(f"a view as {sizes}")
    if -1 in sizes:
        known = math.prod(n for n in sizes if n != -1)
        if known == 0 or total % known:
            raise LayoutError(f"a view of {list(have)} as {sizes}: the sizes do not match")
        sizes[sizes.index(-1)] = total // known
    return sizes


def reshape(c: Context, v: Value, sizes: Sequence[int]) -> Value:
    """The same elements in the same order, seen with other sizes (-1: what is left)."""
    sizes = resolve_sizes(v.sizes, sizes) if v.pad != (0, 0) else sizes
    if v.pad != (0, 0) and [n for n in sizes if n != 1] == [n for n in v.sizes if n != 1]:
        return _of_ones(c, v, sizes)
    v = c.real(v)
    if v.keys and sizes and sizes[-1] == file_sizes(v)[-1]:
        sizes = [*sizes[:-1], v.keys]
    sizes = resolve_sizes(v.sizes, sizes)
    if tuple(sizes) == v.sizes:
        return v
    v = grouped(c, v, sizes)
    try:
        axes = regroup(v.axes, sizes)
    except LayoutError:
        seen = framed(c, v, must=False)  # groups of frames that a view lays out
        if seen is v:
            raise
        return reshape(c, seen, sizes)
    if v.frame and math.prod(v.frame) == 1 and axes and not axes[-1]:
        axes = (*axes[:-1], (Atom("F", 1),))  # a frame of one feature stays [1]
    return c.view(v, axes)


def _of_ones(c: Context, v: Value, sizes: Sequence[int]) -> Value:
    """A view that adds or drops axes of size 1 alone: padding of time stays to be made."""
    axes = regroup(v.axes, sizes)
    seen = c.view(replace(v, pad=(0, 0)), axes)
    return replace(seen, pad=v.pad, mirror=v.mirror)


def unsqueeze(c: Context, v: Value, dims: Sequence[int]) -> Value:
    """New axes of size 1 at positions `dims` of the result."""
    if v.pad != (0, 0):
        seen = unsqueeze(c, replace(v, pad=(0, 0)), dims)
        return replace(seen, pad=v.pad, mirror=v.mirror)
    v = c.whole(v)
    rank = len(v.axes) + len(dims)
    at = sorted(d % rank for d in dims)
    if len(set(at)) != len(at):
        raise LayoutError(f"adds axes {list(dims)} twice")
    axes = list(v.axes)
    for d in at:
        axes.insert(d, ())
    if at and at[-1] == rank - 1:
        refuse_scores(v)
    return replace(v, axes=tuple(axes))


def squeeze(c: Context, v: Value, dims: Sequence[int] | None = None) -> Value:
    """Without the axes of size 1 among `dims` (None: without all of them)."""
    if v.pad != (0, 0):
        seen = squeeze(c, replace(v, pad=(0, 0)), dims)
        return replace(seen, pad=v.pad, mirror=v.mirror)
    v = c.whole(v)
    if dims is None:
        if any(kind_of(a) in "BT" and is_unit(a) for a in v.axes):
            raise LayoutError(
                "squeezes every axis of size 1, batch or time among them",
                "name the axis: squeeze(-1)",
            )
        gone = {i for i, a in enumerate(v.axes) if is_unit(a)}
    else:
        gone = {v.axis(d) for d in dims if is_unit(v.axes[v.axis(d)])}
    if any(a.label == "F" for i in gone for a in v.axes[i]):
        v = c.natural(v)
    axes = tuple(a for i, a in enumerate(v.axes) if i not in gone)
    return c.view(v, axes) if v.order is None else replace(v, axes=axes)


def permute(c: Context, v: Value, dims: Sequence[int]) -> Value:
    """Axes in another order. Features of a frame that change places move when they are read."""
    if v.pad == (0, 0):
        v = c.whole(v)
    order = [v.axis(d) for d in dims]
    if sorted(order) != list(range(len(v.axes))):
        raise LayoutError(f"permutes {describe(v.axes)} by {list(dims)}")
    first: dict[int, list[int]] = {}
    count = 0
    for i, axis in enumerate(v.axes):
        n = sum(a.label == "F" for a in axis)
        first[i] = list(range(count, count + n))
        count += n
    # Number, in the new axes, of each atom in the old ones.
    new_of = {old: new for new, old in enumerate(a for i in order for a in first[i])}
    stored = [new_of[i] for i in (v.order or range(count))]
    wide = [a.size for axis in (v.axes[i] for i in order) for a in axis if a.label == "F"]
    keeps = [i for i in stored if wide[i] > 1]
    natural = keeps == sorted(keeps)
    if order and order[-1] != len(order) - 1:
        refuse_scores(v)  # their last axis is known for distances only where it is the last
    out = replace(v, axes=tuple(v.axes[i] for i in order))
    if natural:
        out = replace(out, order=None)
        if c.graph.types[v.name].shape != out.frame:
            return replace(c.view(out, out.axes), pad=v.pad, mirror=v.mirror)
        return out
    return replace(out, order=tuple(stored))


def expand(c: Context, v: Value, sizes: Sequence[int]) -> Value:
    """Repeated along axes of size 1 (numpy's broadcast_to; -1 keeps a size)."""
    lead = len(sizes) - len(v.axes)
    if lead < 0:
        raise LayoutError(f"expands {describe(v.axes)} to {list(sizes)}")
    v = unsqueeze(c, v, range(lead)) if lead else c.whole(v)
    want = [h if n in (-1, h) else n for h, n in zip(v.sizes, sizes, strict=True)]
    if any(h not in (1, n) for h, n in zip(v.sizes, want, strict=True)):
        # ONNX lets both sides broadcast: a wanted size of 1 keeps what is there.
        want = [h if n == 1 else n for h, n in zip(v.sizes, want, strict=True)]
        if any(h not in (1, n) for h, n in zip(v.sizes, want, strict=True)):
            raise LayoutError(f"expands {describe(v.axes)} to {list(sizes)}")
    if tuple(want) == v.sizes:
        return v
    over = [d for d, (h, n) in enumerate(zip(v.sizes, want, strict=True)) if h == 1 != n]
    v = over_time(c, v, [d for d in over if want[d] == c.frames])
    if tuple(want) == v.sizes:
        return v
    at = grid(v)
    dims = [s if h == n else n for s, h, n in zip(at.shape, v.sizes, want, strict=True)]
    return moved(c, v, np.broadcast_to(at, dims), range(len(dims)), "repeat")


def over_time(c: Context, v: Value, dims: Sequence[int]) -> Value:
    """A value that comes with every frame and has no axis of time, seen as a sequence.

    Repeating it for every frame changes nothing: `dims` are axes of size 1 that are to be as long
    as the sequence; one of them becomes time.
    """
    if not c.frames or len(dims) != 1 or not c.steady(v):
        return v
    (d,) = dims
    return replace(v, axes=(*v.axes[:d], (Atom("T", c.frames),), *v.axes[d + 1 :]))


def flip(c: Context, v: Value, dims: Sequence[int]) -> Value:
    """Features in reverse order along `dims`."""
    gone = [v.axis(d) for d in dims]
    if any(v.kind(d) in ("T", "mixed") for d in gone):
        raise LayoutError("reverses time", "a stream cannot be reversed; use a causal model")
    if any(v.kind(d) == "B" and size_of(v.axes[d]) > 1 for d in gone):
        raise LayoutError("reverses the batch", "process all sequences alike")
    return moved(c, v, np.flip(grid(v), tuple(gone)), range(len(v.axes)), "flip")


# -- selections ----------------------------------------------------------------------------------


def last_frame(c: Context, v: Value, dim: int) -> Value:
    """The value at the last frame, axis `dim` kept with size 1."""
    v = c.whole(v)
    if v.order is not None:
        v = c.natural(v)
    return c.emit("last", [v.name], (*v.axes[:dim], (), *v.axes[dim + 1 :]), suffix="last")


def slice_time(c: Context, v: Value, d: int, start: int | None, stop: int, step: int) -> Value:
    """Frames start, start + step, ... before stop of axis `d`, time; what is cut off is a shift.

    Raises:
        LayoutError: frames that a stream does not have.
    """
    n = size_of(v.axes[d])
    if start is not None and start < 0:
        if start == -1 and stop >= n and step == 1:
            return last_frame(c, v, d)
        if c.frames and -start > n // 2:  # nearly all: the model counts how many there are
            start = max(n + start, 0)
    longer = c.longer(v.name)
    if n // 2 < stop < n and (c.frames or n - stop <= longer + sum(v.pad)):
        stop -= n
    if (start is not None and start < 0) or (0 <= stop < n):
        if not start and stop > 0 and step == 1 and v.pad == (0, 0) and not v.head:
            axes = (*v.axes[:d], (Atom("T", stop),), *v.axes[d + 1 :])
            return replace(v, axes=axes, head=stop)  # of use only before other frames
        end = "" if stop >= n else stop
        single = stop - (start or 0) == 1  # as exporters unroll a loop
        raise LayoutError(
            f"takes frames {'' if start is None else start}:{end} of a sequence",
            ONE_FRAME
            if single
            else "the last frame is y[:, -1]; to drop or shift frames, do it after the model",
        )
    lo, cut = start or 0, 0 if stop >= n else -stop
    if v.head:
        c.whole(v)
    if lo + cut >= n:
        raise LayoutError(f"takes no frame of {n}")
    axes = (*v.axes[:d], (Atom("T", n - lo - cut),), *v.axes[d + 1 :])
    if lo <= v.pad[0] and cut <= v.pad[1]:
        v = replace(v, axes=axes, pad=(v.pad[0] - lo, v.pad[1] - cut))
    elif v.mirror:  # what is cut off beyond the padding is cut off the sequence
        front, back = v.pad[0] - lo, v.pad[1] - cut
        y = shifted(c, replace(v, mirror=""), axes, min(front, 0), min(back, 0))
        v = replace(y, pad=(max(front, 0), max(back, 0)), mirror=v.mirror)
    else:
        v = shifted(c, v, axes, v.pad[0] - lo, v.pad[1] - cut)
    if step != 1:
        v = c.natural(c.whole(v))
        n = size_of(v.axes[d])
        axes = (*v.axes[:d], (Atom("T", -(-n // step)),), *v.axes[d + 1 :])
        out = c.graph.add_node("decimate", [v.name], name=c.name("every"), factor=step)
        v = replace(v, name=out, axes=axes)
    return v


def shifted(c: Context, v: Value, axes: Axes, front: int, back: int) -> Value:
    """A sequence with `front` zeros before it and `back` after it; below 0: frames cut off.

    Args:
        c: the Graph under construction.
        v: the sequence; its `pad` is not made.
        axes: of the result.
        front, back: numbers of frames.
    """
    v = c.natural(replace(v, pad=(0, 0)))
    c.charge(0)
    out = c.graph.add_node("shift", [v.name], name=c.name("shift"), frames=front, cut=-front - back)
    y = Value(out, axes)
    if front == 0 and back < 0:
        c.cuts[y.name] = (v, -back)
    return y


def slice_axis(
    c: Context, v: Value, dim: int, start: int | None, stop: int | None, step: int = 1
) -> Value:
    """Elements start, start + step, ... before stop of axis `dim`, as Python slices."""
    d = v.axis(dim)
    n = size_of(v.axes[d])
    if step == 0:
        raise LayoutError("takes elements in steps of 0")
    if len(range(*slice(start, stop, step).indices(n))) < n:
        v = framed_axis(c, v, d)
    kind = v.kind(d)
    end = TO_THE_END if stop is None else stop
    if kind == "T" and step > 0:
        if start in (None, 0) and end >= n and step == 1:
            return v
        return slice_time(c, v, d, start, end, step)
    cut = slice(start, None if stop is None or (step < 0 and stop < -n) else stop, step)
    count = len(range(*cut.indices(n)))
    if count == n and step == 1:
        return v
    if kind == "T":
        raise LayoutError("reverses time", "a stream cannot be reversed; use a causal model")
    if count == 0:
        raise LayoutError(f"takes nothing of an axis of {n}")
    if v.pieces is not None and d == 0 and step == 1:
        first = cut.indices(n)[0]
        axes = ((Atom("F", count),) if count > 1 else (), *v.axes[1:])
        return replace(v, pieces=v.pieces[first : first + count], axes=axes)
    if kind == "B":
        raise LayoutError("takes a part of the batch", "process all sequences alike")
    if kind == "mixed":
        raise LayoutError(f"takes a part of axis {d} of {describe(v.axes)}", "undo the view first")
    at = grid(c.whole(v))[(*[slice(None)] * d, cut)]
    return moved(c, v, at, range(len(v.axes)))


def select(c: Context, v: Value, dim: int, index: int) -> Value:
    """One element of axis `dim`, the axis dropped."""
    d = v.axis(dim)
    n = size_of(v.axes[d])
    if not -n <= index < n:
        raise LayoutError(f"selects element {index} of an axis of {n}")
    if v.pieces is not None and d == 0:
        name = c.piece(v, index % n)
        return c.view(Value(name, v.axes[1:]), v.axes[1:])
    v = framed_axis(c, v, d)
    if v.kind(d) == "T":
        if index == n - 1 and n > 1:
            raise LayoutError(
                f"selects frame {index}, the last one only for sequences of {n} frames",
                "write y[:, -1]",
            )
        if index != -1:
            raise LayoutError(f"selects frame {index}", ONE_FRAME)
        y = last_frame(c, v, d)
    else:
        y = slice_axis(c, v, d, index % n, index % n + 1)
    rest = (*y.axes[:d], *y.axes[d + 1 :])
    if y.order is None:
        return c.view(y, rest)
    return c.view(c.natural(y), rest)


def take(c: Context, v: Value, dim: int, index: Array) -> Value:
    """Elements of a feature axis by constant numbers (numpy's take)."""
    d = v.axis(dim)
    n = size_of(v.axes[d])
    index = np.asarray(index, np.int64)
    if index.size and (index.min() < -n or index.max() >= n):
        raise LayoutError(f"takes elements {int(index.min())}..{int(index.max())} of {n}")
    if index.size == 1:
        v = framed_axis(c, v, d)
    if index.ndim == 0:
        return select(c, v, d, int(index) if v.kind(d) == "T" else int(index) % n)
    if v.kind(d) == "T" and index.size == 1 and int(index.reshape(-1)[0]) == -1:
        y = select(c, v, d, -1)
        return unsqueeze(c, y, range(d, d + index.ndim))
    if v.pieces is not None and d == 0 and index.size == 1:
        y = select(c, v, 0, int(index.reshape(-1)[0]))
        return unsqueeze(c, y, range(index.ndim))
    if v.kind(d) == "T" and index.ndim == 2:
        pieces = _pieces(c, v, d, index)
        if pieces is not None:
            return pieces
    if v.kind(d) == "T" and index.ndim == 1:
        from edgeseq.frontend.build.pads import padded_by_number

        padded = padded_by_number(c, v, d, index)
        if padded is not None:
            return padded
    if v.kind(d) not in "F1":
        raise LayoutError(
            f"takes elements along axis {d} of {describe(v.axes)} by their number",
            "a stream takes every frame, every k-th, or pieces at equal distances",
        )
    at = np.take(grid(c.whole(v)), index % n, axis=d)
    rank = len(v.axes)
    origin = [*range(d), *[None] * index.ndim, *range(d + 1, rank)]
    return moved(c, v, at, origin, "gather")


def _pieces(c: Context, v: Value, d: int, index: Array) -> Value | None:
    """Overlapping pieces of time, axis `d`, by the numbers of their frames.

    Args:
        index: [positions, size] or [size, positions]; positions are the more numerous.

    Returns:
        The pieces in place of axis `d`, as `index` lies; None where it numbers something else.
    """
    from edgeseq.frontend.build.convolve import frames_of_time

    turned = index.shape[0] < index.shape[1]
    rows = index.T if turned else index
    positions, size = rows.shape
    if positions == size:
        return None  # which is which cannot be told
    step, dilation = int(rows[1, 0]), int(rows[0, 1]) if size > 1 else 1
    steps = np.arange(positions)[:, None] * step + np.arange(size) * dilation
    room = size_of(v.axes[d]) - (size - 1) * dilation - 1
    if min(step, dilation) < 1 or not np.array_equal(rows, steps) or positions != room // step + 1:
        return None
    y = frames_of_time(c, v, d, size, step, dilation)  # a last axis of their frames
    order = list(range(len(v.axes)))
    order.insert(d if turned else d + 1, len(v.axes))
    return permute(c, y, order)


def split(c: Context, v: Value, dim: int, sizes: Sequence[int]) -> list[Value]:
    """Parts of the given sizes along axis `dim`."""
    d, at, out = v.axis(dim), 0, []
    if sum(sizes) != size_of(v.axes[d]) or any(n < 1 for n in sizes):
        raise LayoutError(f"splits an axis of {size_of(v.axes[d])} into {list(sizes)}")
    if v.kind(d) not in "F1" and len(sizes) > 1:
        raise LayoutError(f"splits axis {d} of {describe(v.axes)}", "split the features only")
    for n in sizes:
        out.append(slice_axis(c, v, d, at, at + n))
        at += n
    return out


# -- joining and padding -------------------------------------------------------------------------


def concat(c: Context, tensors: Sequence[Any], dim: int) -> Value:
    """Tensors one after another along axis `dim`; some may be constants."""
    moving = [t for t in tensors if isinstance(t, Value)]
    d = moving[0].axis(dim)
    if any(len(t.axes) > d and t.kind(d) in ("T", "mixed") for t in moving):
        from edgeseq.frontend.build.joins import join_time

        return join_time(c, tensors, d)
    moving = at_one_rate(c, [c.real(v) for v in moving])
    if len(moving) < len(tensors):  # a constant is alike in every frame
        moving = [framed(c, v, [i for i in range(len(v.axes)) if i != d]) for v in moving]
    first, left = moving[0], iter(moving)
    values: list[Value] = []
    for t in tensors:
        if isinstance(t, Value):
            values.append(next(left))
        elif (array := np.asarray(t)).size:
            values.append(_constant_value(c, array, first, d))
    for v in values:
        if v.kind(d) not in "F1":
            word = {"T": "time", "B": "the batch"}.get(v.kind(d), "a mixed axis")
            raise LayoutError(f"joins tensors along {word}", "join along the features only")
        if len(v.axes) != len(first.axes) or any(
            x != y and size_of(x) * size_of(y) != 1
            for i, (x, y) in enumerate(zip(v.axes, first.axes, strict=True))
            if i != d
        ):
            raise LayoutError(
                f"joins {describe(first.axes)} and {describe(v.axes)}, whose axes differ"
            )
    timed = {c.timed(v) for v in values if v.name not in c.graph.consts}
    if len(timed) > 1:
        raise LayoutError(
            "joins a value of every frame with one of the last frame",
            "join only frame-by-frame values, or only values of the last frame",
        )
    total = sum(size_of(v.axes[d]) for v in values)
    axes = (*first.axes[:d], (Atom("F", total),), *first.axes[d + 1 :])
    return joined(c, values, d, axes)


def _constant_value(c: Context, array: Array, like: Value, d: int) -> Value:
    """A constant as a tensor whose axes are those of `like` but for axis `d`."""
    if array.ndim != len(like.axes):
        raise LayoutError(f"joins {describe(like.axes)} and a constant of {list(array.shape)}")
    axes: list[tuple[Atom, ...]] = []
    for i, n in enumerate(array.shape):
        lead = tuple(a for a in like.axes[i] if a.label != "F")
        if lead and np.ptp(array, axis=i).max(initial=0) > 0:
            raise LayoutError("joins a constant that varies over time or the batch")
        if lead:
            array = array.take([0], axis=i)
        axes.append(lead if lead else ((Atom("F", n),) if n != 1 else ()))
    value = Value("", tuple(axes))
    return replace(value, name=c.const(array.reshape(value.frame)))


def stack(c: Context, tensors: Sequence[Any], dim: int) -> Value:
    """Tensors side by side along a new axis."""
    rank = next(len(t.axes) for t in tensors if isinstance(t, Value)) + 1
    d = dim % rank
    return concat(
        c,
        [unsqueeze(c, t, [d]) if isinstance(t, Value) else np.expand_dims(t, d) for t in tensors],
        d,
    )
