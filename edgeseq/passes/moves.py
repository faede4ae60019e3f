"""Join operations that only move elements.

Front ends write each view, transpose and selection on its own, and several often amount to one, or
to nothing.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseq.ir.graph import Graph, Node

__all__ = ["join_moves"]

Index = npt.NDArray[np.int64]
Shape = tuple[int, ...]

_MOST_ELEMENTS = 1 << 22


def join_moves(graph: Graph) -> Graph:
    """`graph` with chains of reshape, slice and strided joined where one such node does the same.

    A `strided` that is a slice or a reshape becomes one, and what changes nothing goes. A slice and
    a reshape are not joined to a `strided`: both leave the elements in one run, which back ends
    need not copy.
    """
    graph = graph.copy()
    graph.prune()  # what nobody needs reads nothing
    for node in graph.nodes:
        body = node.attrs.get("body")
        if isinstance(body, Graph):
            node.attrs["body"] = join_moves(body)
    carried = {s.output for s in graph.states}
    uses = Counter(v for node in graph.nodes for v in node.inputs)
    uses.update(graph.outputs)
    uses.update(s.output for s in graph.states)
    producers: dict[str, Node] = {}
    same: dict[str, str] = {}
    for node in graph.nodes:
        node.inputs = tuple(same.get(v, v) for v in node.inputs)
        if node.op in _INDEX:
            _join(graph, node, producers, uses)
        if _changes_nothing(graph, node) and not (
            # What leaves a step is made by a node of its own.
            node.output in graph.outputs
            or (node.output in carried and node.inputs[0] not in producers)
        ):
            (x,) = node.inputs
            same[node.output] = x
            uses[x] += uses[node.output] - 1
        else:
            producers.update((v, node) for v in node.outputs)
    graph.rename_uses(same)
    graph.prune()
    return graph


def _changes_nothing(graph: Graph, node: Node) -> bool:
    if node.op == "concat":
        return len(node.inputs) == 1
    if node.op not in ("reshape", "slice"):
        return False
    return graph.types[node.inputs[0]].shape == graph.types[node.output].shape


def _join(graph: Graph, node: Node, producers: Mapping[str, Node], uses: Counter[str]) -> None:
    """Let `node` read as far back as one operation can."""
    while True:
        (x,) = node.inputs
        before = producers.get(x)
        if before is None or before.op not in _INDEX:
            break
        found = _both(graph, before, node, single=uses[x] == 1)
        if found is None:
            break
        uses[x] -= 1
        if uses[x]:  # else `before` is gone, and `node` reads in its place
            uses[before.inputs[0]] += 1
        node.op, node.attrs = found
        node.inputs = before.inputs
    if node.op == "strided":
        node.op, node.attrs = _simplest(graph, node)


def _both(
    graph: Graph, first: Node, then: Node, *, single: bool
) -> tuple[str, dict[str, Any]] | None:
    """One operation that does what `first` and `then` do, or None.

    Args:
        graph: holds both.
        first, then: movements; `then` reads `first`.
        single: nobody else reads `first`.
    """
    if first.op == "reshape" and then.op in ("reshape", "strided"):
        return then.op, then.attrs  # a view counts elements row by row, whatever their shape
    source, out = graph.types[first.inputs[0]].shape, graph.types[then.output].shape
    if not single or max(math.prod(source), math.prod(out)) > _MOST_ELEMENTS:
        return None
    inner = _INDEX[first.op](first.attrs, source).reshape(-1)
    index = inner[_INDEX[then.op](then.attrs, graph.types[first.output].shape)]
    op = _expressed(index, source, out)
    if op is None or (op[0] == "strided" and "strided" not in (first.op, then.op)):
        return None
    return op


def _simplest(graph: Graph, node: Node) -> tuple[str, dict[str, Any]]:
    source, out = graph.types[node.inputs[0]].shape, graph.types[node.output].shape
    if math.prod(out) > _MOST_ELEMENTS:
        return node.op, node.attrs
    op = _expressed(_strided(node.attrs, source), source, out)
    return op if op is not None and op[0] != "strided" else (node.op, node.attrs)


def _expressed(index: Index, source: Shape, out: Shape) -> tuple[str, dict[str, Any]] | None:
    """The simplest operation that makes element i of its result element ``index[i]`` of a source.

    Args:
        index: shape `out`.
        source: shape of what is read.
        out: shape of the result.
    """
    total = math.prod(source)
    flat = index.reshape(-1)
    start = int(flat[0])
    run = bool(np.array_equal(flat, np.arange(start, start + flat.size)))
    if run and flat.size == total:
        return "reshape", {"shape": out}
    if source and out and source[:-1] == out[:-1] and start < source[-1]:
        stop = start + out[-1]
        rows = np.arange(total).reshape(source)[..., start:stop]
        if stop <= source[-1] and np.array_equal(rows, index):
            return "slice", {"start": start, "stop": stop}
    strides = []
    want = np.full((), start, np.int64)
    for axis, d in enumerate(out):
        second = (0,) * axis + (1,) + (0,) * (len(out) - axis - 1)
        strides.append(int(index[second]) - start if d > 1 else 0)
        want = want[..., None] + np.arange(d, dtype=np.int64) * strides[-1]
    if not np.array_equal(want, index):
        return None
    return "strided", {"shape": out, "strides": tuple(strides), "offset": start}


def _reshaped(attrs: Mapping[str, Any], source: Shape) -> Index:
    return np.arange(math.prod(source), dtype=np.int64).reshape(tuple(attrs["shape"]))


def _sliced(attrs: Mapping[str, Any], source: Shape) -> Index:
    every = np.arange(math.prod(source), dtype=np.int64).reshape(source)
    return every[..., attrs["start"] : attrs["stop"]]


def _strided(attrs: Mapping[str, Any], source: Sequence[int]) -> Index:
    at = np.full((), attrs["offset"], np.int64)
    for d, s in zip(attrs["shape"], attrs["strides"], strict=True):
        at = at[..., None] + np.arange(d, dtype=np.int64) * s
    return at


_INDEX = {"reshape": _reshaped, "slice": _sliced, "strided": _strided}
"""Which element of its source each element of a movement is, from its attributes."""
