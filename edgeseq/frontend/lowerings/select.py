"""Selecting, joining, padding and writing elements."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from edgeseq.frontend.axes import Atom, Axes, LayoutError, Value, describe, size_of
from edgeseq.frontend.build import arith, pads, products, reduce, views
from edgeseq.frontend.build.elements import take_along
from edgeseq.frontend.build.rates import is_laid_out
from edgeseq.frontend.context import Array, Context, lowers
from edgeseq.frontend.move import grid, moved, place
from edgeseq.frontend.past import file_sizes
from edgeseq.frontend.program import Symbol

# -- selections ----------------------------------------------------------------------------------


@lowers("select", "select_copy")
def _select(c: Context, self: Value, dim: int, index: Any) -> Value:
    if isinstance(index, Value):
        raise LayoutError("selects by a value", "select by a constant number")
    d = self.axis(dim)
    if self.kind(d) == "B" and size_of(self.axes[d]) > 1:
        raise LayoutError("selects one sequence of the batch", "process all of them alike")
    return views.select(c, self, d, int(index))


@lowers("slice", "narrow", "slice_copy", "narrow_copy")
def _slice(
    c: Context,
    self: Value,
    dim: int = 0,
    start: Any = None,
    end: Any = None,
    step: int = 1,
    length: Any = None,
) -> Value:
    if isinstance(start, Value) or isinstance(end, Value):
        raise LayoutError("cuts at a place that is a value", "cut at constant places")
    d = self.axis(dim)
    if length is not None:
        end = (start or 0) + length
    if end is not None and end >= views.TO_THE_END:
        end = None
    if self.kind(d) == "T" or is_laid_out(self.axes[d]):
        return _slice_time(c, self, d, start, end, step)
    return views.slice_axis(c, self, d, start, end, step)


def _slice_time(c: Context, v: Value, d: int, start: Any, end: Any, step: int) -> Value:
    """A size of the input as the place of a cut counts from the end."""
    n = size_of(v.axes[d])
    if isinstance(end, Symbol):
        end = int(end) - n if 0 <= end < n else None
    if isinstance(start, Symbol):
        start = int(start) - n if 0 < start < n else int(start)
    return views.slice_axis(c, v, d, start, end, step)


def _parts(c: Context, v: Value, d: int, sizes: Sequence[int]) -> list[Value]:
    return views.split(c, v, d, sizes)


@lowers("split", "split_with_sizes", "split_with_sizes_copy", "split_copy")
def _split(
    c: Context, self: Value, split_size: Any = None, split_sizes: Any = None, dim: int = 0
) -> list[Value]:
    d = self.axis(dim)
    n = size_of(self.axes[d])
    size = split_size if split_sizes is None else split_sizes
    if isinstance(size, int):
        size = [min(size, n - i) for i in range(0, n, size)]
    return _parts(c, self, d, list(size))


@lowers("chunk")
def _chunk(c: Context, self: Value, chunks: int, dim: int = 0) -> list[Value]:
    return _split(c, self, -(-size_of(self.axes[self.axis(dim)]) // chunks), dim=dim)


@lowers("tensor_split")
def _tensor_split(
    c: Context, self: Value, sections: int | None = None, indices: Any = None, dim: int = 0
) -> list[Value]:
    d = self.axis(dim)
    n = size_of(self.axes[d])
    if sections is not None:
        each, more = divmod(n, sections)
        return _parts(c, self, d, [each + (i < more) for i in range(sections)])
    edges = [0, *indices, n]
    return _parts(c, self, d, [b - a for a, b in itertools.pairwise(edges)])


@lowers("unbind", "unbind_copy")
def _unbind(c: Context, self: Value, dim: int = 0) -> list[Any]:
    d = self.axis(dim)
    if self.kind(d) == "T":
        raise LayoutError(
            "loops over the frames",
            "use nn.RNN, nn.GRU or nn.LSTM, or a loop whose turns are all alike: "
            "for x_t in x.unbind(1): h = f(x_t, h)",
        )
    n = size_of(self.axes[d])
    names = c.op.outputs
    wanted = [i for i in range(n) if i >= len(names) or names[i] in c.used]
    return [views.select(c, self, d, i) if i in wanted else None for i in range(n)]


@lowers("index_select")
def _index_select(c: Context, self: Value, dim: int, index: Any) -> Value:
    return views.take(c, self, self.axis(dim), _whole_numbers(index))


def _whole_numbers(index: Any) -> Array:
    if isinstance(index, Value):
        raise LayoutError("looks a value up by another value", "use constant indices")
    return np.asarray(index)


@lowers("gather")
def _gather(c: Context, self: Any, dim: int, index: Any, sparse_grad: bool = False) -> Value:
    return take_along(c, self, dim, _whole_numbers(index))


@lowers("index")
def _index(c: Context, self: Value, indices: Sequence[Any]) -> Value:
    """numpy's indexing by constant arrays (None: the whole axis)."""
    found = [None if i is None else _indices(i) for i in indices]
    used = [d for d, i in enumerate(found) if i is not None]
    if not used:
        return self
    if len(used) == 1 and found[used[0]] is not None:
        only = found[used[0]]
        assert only is not None
        if len(only) == 1:
            return views.take(c, self, used[0], only[0])
    arrays: list[Any] = []
    for i in found:
        arrays += [slice(None)] if i is None else list(i)
    v = c.whole(self)
    touched = [d for d, a in enumerate(arrays) if not isinstance(a, slice)]
    if any(v.kind(d) not in "F1" for d in touched):
        raise LayoutError(f"looks frames of {describe(v.axes)} up by number", "take features only")
    at = grid(v)[tuple(arrays)]
    shape = np.broadcast_shapes(*(np.shape(arrays[d]) for d in touched))
    together = touched == list(range(touched[0], touched[-1] + 1))
    rest: list[int | None] = [d for d in range(len(v.axes)) if d not in touched]
    first = touched[0] if together else 0
    origin = [*rest[:first], *[None] * len(shape), *rest[first:]]
    return moved(c, v, at, origin, "index")


def _indices(x: Any) -> list[Array]:
    array = _whole_numbers(x)
    return list(np.nonzero(array)) if array.dtype == bool else [array]


# -- joining and padding -------------------------------------------------------------------------


@lowers("cat", "concat", "concatenate")
def _cat(c: Context, tensors: Sequence[Any], dim: int = 0) -> Value:
    # torch lets empty tensors of one axis pass
    kept = [t for t in tensors if isinstance(t, Value) or np.size(t)]
    return kept[0] if len(kept) == 1 else views.concat(c, kept, dim)


@lowers("stack")
def _stack(c: Context, tensors: Sequence[Any], dim: int = 0) -> Value:
    return views.stack(c, tensors, dim)


@lowers("hstack", "vstack", "column_stack")
def _hstack(c: Context, tensors: Sequence[Any]) -> Value:
    rank = next(len(t.axes) for t in tensors if isinstance(t, Value))
    if rank < 2:
        raise LayoutError("joins vectors", "use torch.cat")
    return views.concat(c, tensors, 0 if c.op.base == "vstack" else 1)


_MODES = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


@lowers("pad", "constant_pad_nd")
def _pad(
    c: Context, self: Value, pad: Sequence[int], mode: str = "constant", value: Any = None
) -> Value:
    pairs = [(0, 0)] * len(self.axes)
    for i in range(len(pad) // 2):
        pairs[-1 - i] = (int(pad[2 * i]), int(pad[2 * i + 1]))
    fill = 0.0 if value is None else float(np.reshape(value, ()))
    return pads.pad(c, self, pairs, _MODES.get(mode, mode), fill)


@lowers("reflection_pad1d", "reflection_pad2d")
def _reflection(c: Context, self: Value, padding: Sequence[int]) -> Value:
    return _pad(c, self, padding, "reflect")


@lowers("replication_pad1d", "replication_pad2d")
def _replication(c: Context, self: Value, padding: Sequence[int]) -> Value:
    return _pad(c, self, padding, "replicate")


# -- writing -------------------------------------------------------------------------------------


@lowers("copy")
def _copy(c: Context, self: Any, src: Any, non_blocking: bool = False) -> Any:
    """`src` in the shape of `self`."""
    sizes = self.sizes if isinstance(self, Value) else np.shape(self)
    if isinstance(src, Value):
        return views.expand(c, src, sizes)
    full = np.broadcast_to(np.asarray(src, np.float32), sizes)
    if isinstance(self, Value) and any(a.label == "T" for axis in self.axes for a in axis):
        return c.binary("add", c.binary("mul", self, 0.0, suffix="zero"), full)
    return full


def _written(c: Context, data: Any, new: Any, put: Callable[[Any, Any], Any]) -> Value:
    """Elements of `new` over those of `data`: both side by side, then picked by `put`."""
    parts = [t for t in (data, new) if isinstance(t, Value)]
    if any(a.label == "T" for t in parts for axis in t.axes for a in axis) and not (
        isinstance(data, Value) or (isinstance(new, Value) and new.sizes == np.shape(data))
    ):
        raise LayoutError("writes frames by number", "collect them in a list and stack it")
    like = next(t for t in parts)
    values: list[Value] = []
    grids: list[Array] = []
    offset = 0
    for t in (data, new):
        if isinstance(t, Value):
            v = c.real(t)
        else:
            array = np.asarray(t, np.float64)
            axes = tuple(((Atom("F", n),) if n != 1 else ()) for n in array.shape)
            v = replace(Value("", axes), name=c.const(array.reshape(Value("", axes).frame or (1,))))
        at = grid(v) + offset
        offset += at.size
        values.append(v)
        grids.append(at)
    picked = put(grids[0], grids[1])
    flat = [
        c.graph.add_node("reshape", [v.name], name=c.name("flat"), shape=(g.size,))
        for v, g in zip(values, grids, strict=True)
    ]
    joined = c.graph.add_node("concat", flat, name=c.name("both"))
    base = values[0]
    shown: Axes = base.axes
    if not isinstance(data, Value) and any(a.label in "BT" for axis in like.axes for a in axis):
        shown = tuple(
            tuple(a for a in x if a.label != "F") or y
            for x, y in zip(like.axes, base.axes, strict=True)
        )
    return place(c, Value(joined, ((Atom("F", offset),),)), picked, shown, "write")


def _frame_axis(v: Any, dim: int) -> int:
    if not isinstance(v, Value):
        return dim % np.ndim(v)
    d = v.axis(dim)
    if v.kind(d) not in "F1":
        raise LayoutError(
            f"writes a part of {describe(v.axes)} along {'time' if v.kind(d) == 'T' else 'it'}",
            "collect frames in a list and stack it",
        )
    return d


@lowers("select_scatter")
def _select_scatter(c: Context, self: Any, src: Any, dim: int, index: int) -> Value:
    d = _frame_axis(self, dim)
    return _slice_scatter(
        c, self, _inserted(c, src, d), dim, index, None if index == -1 else index + 1
    )


def _inserted(c: Context, t: Any, d: int) -> Any:
    return views.unsqueeze(c, t, [d]) if isinstance(t, Value) else np.expand_dims(np.asarray(t), d)


@lowers("slice_scatter")
def _slice_scatter(
    c: Context, self: Any, src: Any, dim: int = 0, start: Any = None, end: Any = None, step: int = 1
) -> Value:
    d = _frame_axis(self, dim)
    sizes = self.sizes if isinstance(self, Value) else np.shape(self)
    cut = slice(start, None if end is None or end >= views.TO_THE_END else end, step)
    if len(range(*cut.indices(sizes[d]))) == sizes[d] and step == 1:
        return _copy(c, self, src)
    if isinstance(src, Value) and isinstance(self, Value):
        # Along one axis, what stays and what is written lie one after another.
        lo, hi, stride = cut.indices(sizes[d])
        if stride == 1:
            parts: list[Any] = []
            if lo > 0:
                parts.append(views.slice_axis(c, self, d, 0, lo))
            parts.append(src)
            if hi < sizes[d]:
                parts.append(views.slice_axis(c, self, d, hi, None))
            return views.concat(c, parts, d)

    def put(at: Any, new: Any) -> Any:
        out = at.copy()
        out[(*[slice(None)] * d, cut)] = new
        return out

    return _written(c, self, src, put)


@lowers("index_put", "_unsafe_index_put")
def _index_put(
    c: Context, self: Any, indices: Sequence[Any], values: Any, accumulate: bool = False
) -> Value:
    if accumulate:
        raise LayoutError("adds to elements by number", "use arithmetic on whole tensors")
    where = tuple(slice(None) if i is None else _whole_numbers(i) for i in indices)
    for d, i in enumerate(where):
        if not isinstance(i, slice):
            _frame_axis(self, d)

    def put(at: Any, new: Any) -> Any:
        out = at.copy()
        out[where] = new
        return out

    return _written(c, self, values, put)


@lowers("masked_fill")
def _masked_fill(c: Context, self: Any, mask: Any, value: Any) -> Value:
    if not isinstance(value, Value):
        value = np.asarray(value, np.float64)
    return arith.where(c, mask, value, self)


@lowers("where")
def _where(c: Context, condition: Any, self: Any = None, other: Any = None) -> Value:
    if self is None and other is None:
        raise LayoutError("has a result whose size depends on the input", "use fixed sizes")
    return arith.where(c, condition, self, other)


@lowers("tril", "triu")
def _triangle(c: Context, self: Value, diagonal: int = 0) -> Value:
    n, m = file_sizes(self)[-2:]
    keep = np.tril(np.ones((n, m)), diagonal)
    if c.op.base == "triu":
        keep = np.triu(np.ones((n, m)), diagonal)
    return products.scaled(c, self, keep)


@lowers("cumsum")
def _cumsum(c: Context, self: Value, dim: int, dtype: Any = None) -> Value:
    return products.running_sum(c, self, dim)


@lowers("amax", "amin")
def _amax(c: Context, self: Value, dim: Any = None, keepdim: bool = False) -> Value:
    dims = None if dim is None or dim == [] else [dim] if isinstance(dim, int) else list(dim)
    return reduce.greatest(c, self, dims, keep=keepdim, op=c.op.base[1:])
