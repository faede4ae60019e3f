"""Moving the elements of a frame: one engine for every view, selection, padding and reordering.

A movement is written as an index array: for every element of the result, the number of the element
of the source frame it is, or -1 for a zero. Numpy makes such arrays (transpose, slice, flip, pad,
take, ... of `grid`); `place` finds the cheapest nodes that realise one: nothing, a reshape, a
slice, a strided view, or a concatenation of these.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from edgeseq.frontend.axes import Atom, Axes, LayoutError, Value, describe, kind_of
from edgeseq.frontend.context import Context

__all__ = ["affine", "carried", "grid", "joined", "moved", "place"]

Index = npt.NDArray[np.int64]

_MOST_PIECES = 256
_MOST_PHASES = 8


def grid(v: Value) -> Index:
    """Numbers of the stored elements, in the axes of the tensor; axes of time and batch are 1."""
    sizes = [math.prod(a.size for a in axis if a.label == "F") for axis in v.axes]
    at: Index = np.arange(math.prod(sizes), dtype=np.int64)
    if v.order is not None:
        at = at.reshape(v.stored).transpose(np.argsort(v.order))
    return at.reshape(sizes)


def carried(v: Value, dim: int) -> tuple[Atom, ...]:
    """The atoms of time and batch of an axis."""
    return tuple(a for a in v.axes[dim] if a.label != "F")


def moved(c: Context, v: Value, at: Index, origin: Sequence[int | None], suffix: str = "") -> Value:
    """The tensor whose elements are those of `v` numbered in `at`.

    Args:
        c: the Graph under construction.
        v: the source.
        at: an axis per axis of the result (size 1 for time and batch); -1 is zero.
        origin: per axis of the result, the axis of `v` whose time and batch it carries, or None.
        suffix: for names.

    Raises:
        LayoutError: time or features of a merged axis would be torn apart, or the order is too
            irregular.
    """
    v = c.whole(v)
    axes: list[tuple[Atom, ...]] = []
    used: set[int] = set()
    for n, source in zip(at.shape, origin, strict=True):
        lead = () if source is None else carried(v, source)
        if source is not None and lead:
            used.add(source)
            whole = math.prod(a.size for a in v.axes[source] if a.label == "F")
            if len(lead) < len(v.axes[source]) and n != whole:
                raise LayoutError(
                    f"takes a part of a merged axis of {describe(v.axes)}", "undo the view first"
                )
            axes.append(v.axes[source])
        else:
            axes.append((Atom("F", n),) if n != 1 else ())
    lost = [i for i in range(len(v.axes)) if carried(v, i) and i not in used]
    if any(a.size > 1 for i in lost for a in carried(v, i)):
        raise LayoutError(f"drops time or the batch of {describe(v.axes)}")
    return place(c, v, at, tuple(axes), suffix)


def place(c: Context, v: Value, at: Index, axes: Axes, suffix: str = "") -> Value:
    """As `moved`, with the axes of the result given."""
    v = replace(c.whole(v), order=None)  # `at` numbers the elements as they are stored
    size = math.prod(v.frame)
    frame = Value("", axes).frame
    at = np.asarray(at, np.int64).reshape(frame)
    if at.size == size and np.array_equal(at.reshape(-1), np.arange(size)):
        return c.view(v, axes)
    if at.size > c.most_frame:
        raise LayoutError(f"a frame of {list(frame)} elements is too large")
    name = _realise(c, v.name, at, suffix)
    return c.view(Value(name, axes), axes)


def joined(c: Context, values: Sequence[Value], dim: int, axes: Axes) -> Value:
    """Tensors one after another along axis `dim` of their frames; `axes` are the result's."""
    values = [c.real(v) for v in values]
    first = values[0]
    before = math.prod(a.size for axis in first.axes[:dim] for a in axis if a.label == "F")
    names = [v.name for v in values]
    rows = [math.prod(v.frame) // before for v in values]
    return c.view(Value(_concat(c, names, before, rows), axes), axes)


def affine(at: Index) -> tuple[int, tuple[int, ...]] | None:
    """(offset, strides) where ``at[i] = offset + sum i_j strides_j``, else None."""
    if at.size == 0 or at.min() < 0:
        return None
    origin = (0,) * at.ndim
    offset = int(at[origin])
    strides = []
    want = np.full(at.shape, offset, np.int64)
    for j, n in enumerate(at.shape):
        step = int(at[(*origin[:j], 1, *origin[j + 1 :])]) - offset if n > 1 else 0
        strides.append(step)
        want += (np.arange(n, dtype=np.int64) * step).reshape(-1, *[1] * (at.ndim - j - 1))
    return (offset, tuple(strides)) if np.array_equal(at, want) else None


def _flat(c: Context, name: str, shape: Sequence[int]) -> str:
    shape = tuple(shape)
    if c.graph.types[name].shape == shape:
        return name
    c.charge(0)
    return c.graph.add_node("reshape", [name], name=c.name("reshape"), shape=shape)


def _concat(c: Context, names: Sequence[str], before: int, rows: Sequence[int]) -> str:
    parts = [
        _flat(c, n, (before, r) if before > 1 else (r,)) for n, r in zip(names, rows, strict=True)
    ]
    if len(parts) == 1:
        return parts[0]
    c.charge(0)
    return c.graph.add_node("concat", parts, name=c.name())


def _realise(c: Context, source: str, at: Index, suffix: str) -> str:
    """Nodes that make the frame `at` of `source`; returns its name (any shape of that size)."""
    size = c.graph.types[source].size
    if at.size and np.all(at < 0):
        return _zeros(c, source, at.shape)
    found = affine(at)
    if found is not None:
        offset, strides = found
        run = np.arange(offset, offset + at.size)
        if np.array_equal(at.reshape(-1), run):
            flat = _flat(c, source, (size,))
            if at.size == size:
                return flat
            c.charge(0)
            return c.graph.add_node(
                "slice", [flat], name=c.name(suffix or "slice"), start=offset,
                stop=offset + at.size,
            )  # fmt: skip
        shape, kept = _squeezed(at.shape, strides)
        c.charge(0)
        return c.graph.add_node(
            "strided", [source], name=c.name(suffix or "move"), shape=shape, strides=kept,
            offset=offset,
        )  # fmt: skip
    axis, cuts = _cuts(at)
    turns = _phases(at, len(cuts))
    if turns is not None:  # such as zeros between elements
        axis, step = turns
        before = math.prod(at.shape[: axis + 1]) // step
        parts = [
            _realise(c, source, np.take(at, np.arange(k, at.shape[axis], step), axis), suffix)
            for k in range(step)
        ]
        return _concat(c, parts, before, [math.prod(at.shape[axis + 1 :])] * step)
    if len(cuts) > _MOST_PIECES:
        raise LayoutError(
            "moves the elements of a frame in an irregular order",
            "use slices, transposes and regular steps",
        )
    before = math.prod(at.shape[:axis])
    parts, rows = [], []
    for start, stop in cuts:
        piece = at[(*[slice(None)] * axis, slice(start, stop))]
        parts.append(_realise(c, source, piece, suffix))
        rows.append(piece.size // before)
    return _concat(c, parts, before, rows)


def _zeros(c: Context, source: str, shape: tuple[int, ...]) -> str:
    """Zeros that move as `source` does (a constant has no time)."""
    zero = c.const(np.zeros(shape), "zeros")
    if c.graph.types[source].time is None:
        return zero
    # A value of every frame, made of nothing: 0 times the first element, repeated.
    key = (source, shape)
    if key not in c.zeros:
        one = c.graph.add_node(
            "strided", [source], name=c.name("first"), shape=shape, strides=(0,) * len(shape),
            offset=0,
        )  # fmt: skip
        zero = c.const(np.zeros(1), "zero")
        c.zeros[key] = c.graph.add_node("mul", [one, zero], name=c.name("zeros"))
    return c.zeros[key]


def _squeezed(
    shape: tuple[int, ...], strides: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Neighbouring axes merged where one stride continues the other."""
    out: list[list[int]] = []
    for n, s in zip(shape, strides, strict=True):
        if n == 1:
            continue
        if out and out[-1][1] == s * n:
            out[-1] = [out[-1][0] * n, s]
        else:
            out.append([n, s])
    if not out:
        return (1,), (0,)
    return tuple(n for n, _ in out), tuple(s for _, s in out)


def _cuts(at: Index) -> tuple[int, list[tuple[int, int]]]:
    """The axis along which the fewest regular pieces make up `at`, and where they lie."""
    best: tuple[int, list[tuple[int, int]]] | None = None
    for axis in range(at.ndim):
        if at.shape[axis] < 2:
            continue
        rows = np.moveaxis(at, axis, 0).reshape(at.shape[axis], -1)
        cuts = _runs(rows)
        # One run is no progress: its rows themselves are irregular.
        if len(cuts) > 1 and (best is None or len(cuts) < len(best[1])):
            best = (axis, cuts)
    assert best is not None  # regular along every axis is affine
    return best


def _phases(at: Index, most: int) -> tuple[int, int] | None:
    """An axis and a step so that elements k, k + step, ... are regular for each k.

    None where that takes no fewer than `most` pieces.
    """
    for axis in range(at.ndim):
        n = at.shape[axis]
        for step in range(2, min(_MOST_PHASES, most - 1) + 1):
            if n % step or n == step:
                continue
            rows = [np.take(at, np.arange(k, n, step), axis) for k in range(step)]
            if all(np.all(r < 0) or affine(r) is not None for r in rows):
                return axis, step
    return None


def _runs(rows: Index) -> list[tuple[int, int]]:
    """Maximal runs of rows that differ by one constant step (or are all zero)."""
    n = len(rows)
    step = rows[1:] - rows[:-1]
    regular = np.all(step == step[:, :1], axis=1)
    zero = np.all(rows < 0, axis=1)
    cuts, start = [], 0
    while start < n:
        stop = start + 1
        if zero[start]:
            while stop < n and zero[stop]:
                stop += 1
        else:
            while (
                stop < n
                and not zero[stop]
                and regular[stop - 1]
                and step[stop - 1, 0] == step[start, 0]
            ):
                stop += 1
        cuts.append((start, stop))
        start = stop
    return cuts


def kinds(v: Value) -> str:
    """One letter per axis: see `edgeseq.frontend.axes.kind_of` ('?' for a mixture)."""
    return "".join(k if len(k) == 1 else "?" for k in map(kind_of, v.axes))
