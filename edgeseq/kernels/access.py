"""Where the elements of a value lie: affine views of what is stored.

A value that only rearranges another one (reshape, slice, transpose, window) needs no memory: it is
a `View` of the stored value, its *root*. Elements of a view are counted row by row, whatever its
shape; `dims` says where they lie as nested loops do, outermost first: (count, stride), strides in
elements of the root. Dims are kept in one form: axes of 1 left out, neighbours joined where one
stride continues the other. So a view is one run of memory exactly if it has one dim of stride 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from edgeseq.ir.graph import Graph, Node

__all__ = [
    "Dims",
    "View",
    "collapse",
    "compose",
    "plain",
    "refine",
    "split",
    "stretch",
    "suffixes",
    "views",
]

Dims = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class View:
    """A value as elements of `root`: the first at `offset`, the others as `dims` say."""

    root: str
    offset: int
    dims: Dims

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(c for c, _ in self.dims)

    @property
    def is_plain(self) -> bool:
        """Whether the elements follow each other in memory."""
        return self.dims == plain(self.size)

    @property
    def span(self) -> tuple[int, int]:
        """First and last element of the root that it holds."""
        low = self.offset + sum((c - 1) * s for c, s in self.dims if s < 0)
        return low, self.offset + sum((c - 1) * s for c, s in self.dims if s > 0)


def plain(size: int) -> Dims:
    """Dims of `size` elements in a row."""
    return ((size, 1),) if size > 1 else ()


def collapse(dims: Iterable[tuple[int, int]]) -> Dims:
    """The one form of dims."""
    out: list[tuple[int, int]] = []
    for count, stride in dims:
        if count == 1:
            continue
        if out and out[-1][1] == count * stride:
            out[-1] = (out[-1][0] * count, stride)
        else:
            out.append((count, stride))
    return tuple(out)


def suffixes(dims: Dims) -> list[int]:
    """Elements that one step of each dim covers, outermost first."""
    return [math.prod(c for c, _ in dims[k + 1 :]) for k in range(len(dims))]


def stretch(dims: Dims, times: int) -> Dims:
    """The same elements over again, `times` times."""
    return collapse(((times, 0), *dims))


def split(dims: Dims, inner: int) -> tuple[Dims, Dims] | None:
    """Dims of whole runs of `inner` elements, and of the elements in a run; None if they mix."""
    total, left = 1, list(dims)
    last: list[tuple[int, int]] = []
    while total < inner:
        if not left:
            return None
        count, stride = left.pop()
        need = inner // total
        if count <= need:
            if need % count:
                return None
            last.insert(0, (count, stride))
            total *= count
        else:
            if count % need:
                return None
            left.append((count // need, stride * need))
            last.insert(0, (need, stride))
            total *= need
    return (collapse(left), collapse(last)) if total == inner else None


def compose(base: Dims, offset: int, axes: Sequence[tuple[int, int]]) -> tuple[int, Dims] | None:
    """A view of a view.

    Args:
        base: of the value that is viewed.
        offset: element of that value, counted row by row.
        axes: (count, stride) in elements of that value.

    Returns:
        Offset and dims in elements of the root; None if they are not affine.
    """
    if len(base) <= 1:
        step = base[0][1] if base else 0
        return offset * step, collapse((c, s * step) for c, s in axes)
    units = suffixes(base)
    digits = [offset // u % c for u, (c, _) in zip(units, base, strict=True)]
    low, high = list(digits), list(digits)
    out: list[tuple[int, int]] = []
    queue = [a for a in axes if a[0] > 1]
    while queue:
        count, stride = queue.pop(0)
        if stride == 0:
            out.append((count, 0))
            continue
        # The digit that the stride counts: the largest unit it is not smaller than.
        k = next(k for k, u in enumerate(units) if u <= abs(stride))
        unit, size = units[k], base[k][0]
        step, rest = divmod(abs(stride), unit)
        if rest:
            return None
        per = size // step if size % step == 0 else 0
        if stride > 0 and digits[k] < step and per and count > per and count % per == 0:
            queue[:0] = [(count // per, unit * size), (per, stride)]
            continue
        reach = (count - 1) * step
        low[k], high[k] = (low[k] - reach, high[k]) if stride < 0 else (low[k], high[k] + reach)
        out.append((count, (step if stride > 0 else -step) * base[k][1]))
    if any(a < 0 or b >= c for a, b, (c, _) in zip(low, high, base, strict=True)):
        return None
    start = sum(d * s for d, (_, s) in zip(digits, base, strict=True))
    return start, collapse(out)


def refine(accesses: Sequence[Dims], total: int) -> tuple[list[int], list[list[int]]] | None:
    """Common nested loops of several accesses to `total` elements each.

    Returns:
        Extents, outermost first, and per access its stride at every level; None where their rows
        cut each other.
    """
    ends = {1, total}
    for dims in accesses:
        ends |= {u * c for u, (c, _) in zip(suffixes(dims), dims, strict=True)} | set(
            suffixes(dims)
        )
    chain = sorted(ends)
    if any(b % a for a, b in pairwise(chain)):
        return None
    lows = chain[:-1][::-1] or [1]
    extents = [b // a for a, b in pairwise(chain)][::-1] or [1]
    strides = []
    for dims in accesses:
        parts = [(u, u * c, s) for u, (c, s) in zip(suffixes(dims), dims, strict=True)]
        strides.append(
            [sum(s * (low // u) for u, end, s in parts if u <= low < end) for low in lows]
        )
    return extents, strides


def _rows(shape: tuple[int, ...]) -> list[int]:
    """Strides of an array that is stored row by row."""
    out: list[int] = []
    n = 1
    for d in reversed(shape):
        out.insert(0, n)
        n *= d
    return out


def _axes(graph: Graph, node: Node) -> tuple[int, list[tuple[int, int]]]:
    """Offset and axes of a view node, in elements of its input."""
    if node.op == "strided":
        shape = [int(d) for d in node.attrs["shape"]]
        strides = [int(s) for s in node.attrs["strides"]]
        return int(node.attrs["offset"]), list(zip(shape, strides, strict=True))
    source, out = graph.types[node.inputs[0]].shape, graph.types[node.output].shape
    start = int(node.attrs["start"]) if node.op == "slice" else 0
    if node.op == "reshape":
        return 0, [(math.prod(out), 1)]
    return start, list(zip(out, _rows(source), strict=True))


def views(graph: Graph) -> tuple[dict[str, View], dict[str, View]]:
    """The view of every value, and the values that must be stored after all.

    A value that is not a view is its own root. A view of a view that is no longer affine has its
    input stored: the second table says of what that input is a copy.
    """
    table = {name: View(name, 0, plain(t.size)) for name, t in graph.types.items()}
    stored: dict[str, View] = {}
    for node in graph.nodes:
        if node.op not in ("reshape", "slice", "strided"):
            continue
        source = node.inputs[0]
        offset, axes = _axes(graph, node)
        base = table[source]
        made = compose(base.dims, offset, axes)
        if made is None:
            stored[source] = base
            base = table[source] = View(source, 0, plain(base.size))
            made = compose(base.dims, offset, axes)
            assert made is not None
        table[node.output] = View(base.root, base.offset + made[0], made[1])
    return table, stored
