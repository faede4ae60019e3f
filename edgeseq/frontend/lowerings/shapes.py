"""Views, selections and concatenations: bookkeeping where they move batch and time, nodes where
they move features."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from edgeseq.frontend.axes import (
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
from edgeseq.frontend.context import Context, lowers
from edgeseq.frontend.program import Symbol

_LAST = "the last frame is y[:, -1]; to drop or shift frames, do it after the model"
_TO_THE_END = (1 << 63) - 1

# -- views ---------------------------------------------------------------------------------------


@lowers("view", "reshape", "_unsafe_view")
def _view(
    c: Context, self: Value, size: Sequence[int] | None = None, shape: Sequence[int] | None = None
) -> Value:
    v = c.real(self)
    sizes = list(size if size is not None else shape or [])
    total = math.prod(v.sizes)
    if sizes.count(-1) == 1:
        known = math.prod(n for n in sizes if n != -1)
        sizes[sizes.index(-1)] = total // known if known else 0
    if tuple(sizes) == v.sizes:
        return v
    return c.view(v, _featured(regroup(v.axes, sizes), v))


def _featured(axes: Axes, v: Value) -> Axes:
    """Keep a frame of one feature as [1], not [], where the view has a last axis for it."""
    if v.frame and math.prod(v.frame) == 1 and axes and not axes[-1]:
        return (*axes[:-1], (Atom("F", 1),))
    return axes


@lowers("flatten")
def _flatten(c: Context, self: Value, start_dim: int = 0, end_dim: int = -1) -> Value:
    sizes = list(self.sizes)
    start, end = self.axis(start_dim), self.axis(end_dim)
    return _view(c, self, [*sizes[:start], math.prod(sizes[start : end + 1]), *sizes[end + 1 :]])


@lowers("unflatten")
def _unflatten(c: Context, self: Value, dim: int, sizes: Sequence[int]) -> Value:
    d = self.axis(dim)
    have = list(self.sizes)
    known = math.prod(n for n in sizes if n != -1)
    filled = [n if n != -1 else have[d] // known for n in sizes]
    return _view(c, self, [*have[:d], *filled, *have[d + 1 :]])


@lowers("sym_size")
def _sym_size(c: Context, self: Value, dim: int) -> Symbol:
    return Symbol(size_of(self.axes[self.axis(dim)]))


@lowers("unsqueeze")
def _unsqueeze(c: Context, self: Value, dim: int) -> Value:
    v = c.real(self)
    at = dim if dim >= 0 else dim + len(v.axes) + 1
    return replace(v, axes=(*v.axes[:at], (), *v.axes[at:]))


@lowers("squeeze")
def _squeeze(c: Context, self: Value, dim: Any = None) -> Value:
    dims = range(len(self.axes)) if dim is None else [dim] if isinstance(dim, int) else dim
    gone = {self.axis(d) for d in dims}
    if dim is None and any(kind_of(a) in "BT" and is_unit(a) for a in self.axes):
        raise LayoutError(
            "squeezes every axis of size 1, batch or time among them", "name the axis: squeeze(-1)"
        )
    if self.pieces is not None and 0 in gone and len(self.pieces) == 1:
        self = _piece(c, self, 0, keep=True)
    v = c.real(self)
    return c.view(v, tuple(a for i, a in enumerate(v.axes) if i not in gone or not is_unit(a)))


@lowers("permute")
def _permute(c: Context, self: Value, dims: Sequence[int]) -> Value:
    v = c.real(self)
    order = [v.axis(d) for d in dims]
    if sorted(order) != list(range(len(v.axes))):
        raise LayoutError(f"permutes {describe(v.axes)} by {list(dims)}")
    wide = [i for i in order if any(a.label == "F" and a.size > 1 for a in v.axes[i])]
    if wide != sorted(wide):
        raise LayoutError(
            f"transposes the features of a frame: {describe(v.axes)} by {list(dims)}",
            "only batch and time can move; keep the features of a frame in one order",
        )
    return c.view(v, tuple(v.axes[i] for i in order))


@lowers("transpose", "swapaxes")
def _transpose(c: Context, self: Value, dim0: int, dim1: int) -> Value:
    order = list(range(len(self.axes)))
    a, b = self.axis(dim0), self.axis(dim1)
    order[a], order[b] = b, a
    return _permute(c, self, order)


@lowers("t", "numpy_T", "mT")
def _t(c: Context, self: Value) -> Value:
    return _permute(c, self, list(reversed(range(len(self.axes)))))


@lowers("movedim")
def _movedim(c: Context, self: Value, source: Any, destination: Any) -> Value:
    sources = [source] if isinstance(source, int) else source
    targets = [destination] if isinstance(destination, int) else destination
    pairs = sorted((self.axis(t), self.axis(s)) for s, t in zip(sources, targets, strict=True))
    order = [i for i in range(len(self.axes)) if i not in {s for _, s in pairs}]
    for target, s in pairs:
        order.insert(target, s)
    return _permute(c, self, order)


@lowers("expand", "broadcast_to", "repeat")
def _expand(
    c: Context, self: Value, size: Any = None, repeats: Any = None, implicit: bool = False
) -> Value:
    lead = len(size if repeats is None else repeats) - len(self.axes)
    have = (1,) * lead + self.sizes
    if repeats is not None:
        want = [n * r for n, r in zip(have, repeats, strict=True)]
    else:
        want = [h if n == -1 else n for h, n in zip(have, size, strict=True)]
    if tuple(want) != have:
        raise LayoutError(
            f"repeats {describe(self.axes)} to {want}", "let add and mul broadcast instead"
        )
    return replace(c.real(self), axes=((),) * lead + self.axes) if lead else self


# -- selections ----------------------------------------------------------------------------------


def _piece(c: Context, v: Value, index: int, *, keep: bool) -> Value:
    """One of the values stacked along axis 0."""
    axes = ((), *v.axes[1:]) if keep else v.axes[1:]
    name = c.piece(v, index)
    return c.view(Value(name, axes), axes)


def _cut(c: Context, v: Value, dim: int, start: int, stop: int) -> Value:
    """Elements start..stop-1 of feature axis `dim`, kept as an axis."""
    n = size_of(v.axes[dim])
    if start == 0 and stop == n:
        return v
    if not 0 <= start < stop <= n:
        raise LayoutError(f"takes elements {start}..{stop - 1} of an axis of {n}")
    # Seen as [before, n * after], the elements lie together on the last axis.
    before = math.prod(a.size for axis in v.axes[:dim] for a in axis if a.label == "F")
    after = math.prod(a.size for axis in v.axes[dim + 1 :] for a in axis if a.label == "F")
    lead: Axes = ((Atom("F", before),),) if before > 1 else ()
    flat = c.view(v, (*lead, (Atom("F", n * after),)))
    axes = (*v.axes[:dim], (Atom("F", stop - start),), *v.axes[dim + 1 :])
    c.charge(0)
    out = c.graph.add_node(
        "slice", [flat.name], name=c.name("slice"), start=start * after, stop=stop * after
    )
    return c.view(Value(out, axes), axes)


@lowers("select")
def _select(c: Context, self: Value, dim: int, index: int) -> Value:
    d = self.axis(dim)
    n = size_of(self.axes[d])
    if not -n <= index < n:
        raise LayoutError(f"selects element {index} of an axis of {n}")
    if self.pieces is not None and d == 0:
        return _piece(c, self, index % n, keep=False)
    v = c.real(self)
    kind = v.kind(d)
    rest = (*v.axes[:d], *v.axes[d + 1 :])
    if kind == "T":
        return replace(_last(c, v, d, index), axes=rest)
    if kind == "B" and n > 1:
        raise LayoutError("selects one sequence of the batch", "process all of them alike")
    if kind == "mixed":
        raise LayoutError(f"selects from a mixed axis of {describe(v.axes)}", "undo the view first")
    if n > 1:
        v = _cut(c, v, d, index % n, index % n + 1)
    return c.view(v, rest)


def _last(c: Context, v: Value, dim: int, index: int) -> Value:
    """The last frame; any other index is refused, since the length is not known."""
    n = size_of(v.axes[dim])
    if index == n - 1:
        raise LayoutError(
            f"selects frame {index}, the last one only for sequences of {n} frames",
            "write y[:, -1]",
        )
    if index != -1:
        raise LayoutError(
            f"selects frame {index}",
            "only the last frame can be selected (y[:, -1]); for a loop over the frames use "
            "nn.RNN, nn.GRU or nn.LSTM",
        )
    return c.emit("last", [v.name], (*v.axes[:dim], (), *v.axes[dim + 1 :]), suffix="last")


@lowers("slice", "narrow")
def _slice(
    c: Context,
    self: Value,
    dim: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
    length: int | None = None,
) -> Value:
    d = self.axis(dim)
    n = size_of(self.axes[d])
    lo = start or 0
    hi = _TO_THE_END if end is None else end
    if length is not None:
        hi = lo + length
    if step != 1:
        raise LayoutError(f"takes every {step}th element", "use a step of 1")
    whole = lo in (0, -n) and hi == _TO_THE_END
    if whole:
        return self
    kind = self.kind(d)
    if kind == "T":
        if lo == -1 and hi >= n:
            return _last(c, c.real(self), d, -1)
        raise LayoutError(f"takes frames {start}:{end} of a sequence", _LAST)
    first, last, _ = slice(lo, hi).indices(n)
    if first == 0 and last == n and kind != "B":
        return self
    if kind in ("B", "mixed"):
        raise LayoutError(f"takes a part of axis {d} of {describe(self.axes)}", "keep all of it")
    if self.pieces is not None and d == 0:
        axes = ((Atom("F", last - first),) if last - first > 1 else (), *self.axes[1:])
        if last <= first:
            raise LayoutError("takes nothing")
        return replace(self, pieces=self.pieces[first:last], axes=axes)
    return _cut(c, c.real(self), d, first, last)


def _parts(c: Context, v: Value, d: int, sizes: Sequence[int]) -> list[Value]:
    if v.kind(d) not in "F1":
        raise LayoutError(f"splits axis {d} of {describe(v.axes)}", "split the features only")
    if v.pieces is not None and d == 0:
        bounds = [sum(sizes[:i]) for i in range(len(sizes) + 1)]
        return [_slice(c, v, 0, a, b) for a, b in itertools.pairwise(bounds)]
    v, out, at = c.real(v), [], 0
    for n in sizes:
        out.append(_cut(c, v, d, at, at + n))
        at += n
    return out


@lowers("split", "split_with_sizes")
def _split(
    c: Context, self: Value, split_size: Any = None, split_sizes: Any = None, dim: int = 0
) -> list[Value]:
    d = self.axis(dim)
    n = size_of(self.axes[d])
    size = split_size if split_sizes is None else split_sizes
    if isinstance(size, int):
        size = [min(size, n - i) for i in range(0, n, size)]
    return _parts(c, self, d, size)


@lowers("chunk")
def _chunk(c: Context, self: Value, chunks: int, dim: int = 0) -> list[Value]:
    return _split(c, self, -(-size_of(self.axes[self.axis(dim)]) // chunks), dim=dim)


@lowers("unbind")
def _unbind(c: Context, self: Value, dim: int = 0) -> list[Value]:
    d = self.axis(dim)
    if self.kind(d) == "T":
        raise LayoutError(
            "loops over the frames", "use nn.RNN, nn.GRU or nn.LSTM, which are compiled as a loop"
        )
    if self.pieces is not None and d == 0:
        wanted = [i for i, name in enumerate(c.op.outputs) if name in c.used]
        return [
            _piece(c, self, i, keep=False) if i in wanted else self for i in range(len(self.pieces))
        ]
    return [_select(c, self, d, i) for i in range(size_of(self.axes[d]))]


@lowers("glu")
def _glu(c: Context, self: Value, dim: int = -1) -> Value:
    """The first half times the sigmoid of the second."""
    a, b = _chunk(c, self, 2, dim)
    return c.binary("mul", a, c.lut("sigmoid", b, suffix="gate"))


# -- joining -------------------------------------------------------------------------------------


@lowers("cat", "concat")
def _cat(c: Context, tensors: Sequence[Any], dim: int = 0) -> Value:
    values = []
    for t in tensors:
        if not isinstance(t, Value):
            raise LayoutError("joins a constant to a value", "add the constant to a Linear layer")
        values.append(c.real(t))
    d = values[0].axis(dim)
    if len({c.timed(v) for v in values}) > 1:
        raise LayoutError(
            "joins a value of every frame with one of the last frame",
            "join only frame-by-frame values, or only values of the last frame",
        )
    for v in values:
        if v.kind(d) not in "F1":
            word = {"T": "time", "B": "the batch"}.get(v.kind(d), "a mixed axis")
            raise LayoutError(f"joins tensors along {word}", "join along the features only")
        others = [(len(v.axes), *v.axes[:d], *v.axes[d + 1 :]) for v in (values[0], v)]
        if others[0] != others[1]:
            raise LayoutError(
                f"joins {describe(values[0].axes)} and {describe(v.axes)}, whose axes differ"
            )
    total = sum(size_of(v.axes[d]) for v in values)
    first = values[0]
    axes = (*first.axes[:d], (Atom("F", total),), *first.axes[d + 1 :])
    before = math.prod(a.size for axis in first.axes[:d] for a in axis if a.label == "F")
    after = math.prod(a.size for axis in first.axes[d + 1 :] for a in axis if a.label == "F")
    lead: Axes = ((Atom("F", before),),) if before > 1 else ()
    flat = [c.view(v, (*lead, (Atom("F", size_of(v.axes[d]) * after),))) for v in values]
    out = c.graph.add_node("concat", [f.name for f in flat], name=c.name())
    return c.view(Value(out, axes), axes)


@lowers("stack")
def _stack(c: Context, tensors: Sequence[Any], dim: int = 0) -> Value:
    return _cat(c, [_unsqueeze(c, t, dim) if isinstance(t, Value) else t for t in tensors], dim)
