"""Take packed states apart: one tensor that holds several states becomes several.

Exporters pack the states of all layers into one tensor, h and c side by side. They have different
ranges and different ways of use: a cell state adds to itself and needs 32 bits, an output is read
by a matrix product. So each state element is traced, through movements alone, to the value that
makes it and to the values that read it; runs of elements that one value makes become a state of
their own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseq.ir.graph import Graph, Node, State
from edgeseq.ir.ops import MOVEMENT
from edgeseq.ir.types import Type

__all__ = ["split_states"]

Index = npt.NDArray[np.int64]


def split_states(graph: Graph) -> Graph:
    """`graph` (a real step) with every packed state as several states.

    States that are made by one value stay as they are. The result computes the same.
    """
    graph = graph.copy()
    for state in list(graph.states):
        _split(graph, state)
    graph.prune()
    return graph


def _moved(node: Node, parts: list[tuple[Index, Index]], shapes: list[tuple[int, ...]]) -> Any:
    """(source, element) arrays of the output of a movement node."""
    if node.op == "reshape":
        return parts[0]
    if node.op == "slice":
        start, stop = node.attrs["start"], node.attrs["stop"]
        return tuple(a.reshape(shapes[0])[..., start:stop].reshape(-1) for a in parts[0])
    if node.op == "concat":
        joined = []
        for k in range(2):
            pieces = [p[k].reshape(s) for p, s in zip(parts, shapes, strict=True)]
            rank = max(p.ndim for p in pieces)
            lead = next(p.shape[:-1] for p in pieces if p.ndim == rank)
            full = [np.broadcast_to(p, (*lead, p.shape[-1])) for p in pieces]
            joined.append(np.concatenate(full, axis=-1).reshape(-1))
        return tuple(joined)
    at = np.full((), node.attrs["offset"], np.int64)
    for d, s in zip(node.attrs["shape"], node.attrs["strides"], strict=True):
        at = at[..., None] + np.arange(d, dtype=np.int64) * s
    return tuple(a[at.reshape(-1)] for a in parts[0])


def _trace(graph: Graph, value: str, roots: dict[str, int]) -> tuple[Index, Index]:
    """Elements of `value`, followed back through movements to the values that are not moved."""
    producers = graph.producers()
    known: dict[str, tuple[Index, Index]] = {}
    stack = [value]
    while stack:
        v = stack[-1]
        if v in known:
            stack.pop()
            continue
        node = producers.get(v)
        size = graph.types[v].size
        if node is None or node.op not in MOVEMENT:
            number = roots.setdefault(v, len(roots))
            known[v] = (np.full(size, number, np.int64), np.arange(size, dtype=np.int64))
            stack.pop()
            continue
        missing = [x for x in node.inputs if x not in known]
        if missing:
            stack.extend(missing)
            continue
        shapes = [graph.types[x].shape for x in node.inputs]
        known[v] = _moved(node, [known[x] for x in node.inputs], shapes)
        stack.pop()
    return known[value]


def _split(graph: Graph, state: State) -> None:
    roots: dict[str, int] = {}
    source, element = _trace(graph, state.output, roots)
    names = list(roots)
    parts: list[tuple[str, Index]] = []  # producing value, state elements in its order
    for number, name in enumerate(names):
        at = np.flatnonzero(source == number)
        if len(at) == 0:
            continue
        order = np.argsort(element[at], kind="stable")
        made = element[at][order]
        if name in graph.consts or name == state.input:
            return  # part of the state stays or is reset: leave it whole
        if len(made) != graph.types[name].size or np.any(made != np.arange(len(made))):
            return  # only a part of what is made is carried, or some twice
        parts.append((name, at[order]))
    if len(parts) < 2:
        return
    pieces: list[tuple[str, Index]] = []
    init = state.init.reshape(-1)
    for k, (name, at) in enumerate(parts):
        value = graph.fresh(f"{state.input}_{k}")
        t = graph.types[name]
        graph.types[value] = Type(t.shape)
        start = init[at].reshape(t.shape)
        graph.states.append(State(value, value, name, start.astype(np.float32)))
        pieces.append((value, at))
    _rewire(graph, state, pieces)


def _rewire(graph: Graph, state: State, pieces: list[tuple[str, Index]]) -> None:
    """Let readers of the old state read the new ones, then drop it."""
    table = np.full(graph.types[state.input].size, -1, np.int64)
    inner = np.zeros_like(table)
    for k, (_, at) in enumerate(pieces):
        table[at] = k
        inner[at] = np.arange(len(at))
    made: dict[str, str] = {}
    fresh: list[Node] = []
    # A movement of the state that takes elements of one piece, in order, is that piece.
    arrays: dict[str, tuple[Index, Index]] = {state.input: (table, inner)}
    for node in graph.nodes:
        if node.op not in MOVEMENT or not all(v in arrays for v in node.inputs):
            continue
        shapes = [graph.types[v].shape for v in node.inputs]
        arrays[node.output] = _moved(node, [arrays[v] for v in node.inputs], shapes)
    for value, (which, at) in arrays.items():
        k = int(which[0])
        name, where = pieces[k]
        n = len(where)
        if np.all(which == k) and len(at) == n and np.array_equal(at, np.arange(n)):
            shape = graph.types[value].shape
            if shape == graph.types[name].shape:
                made[value] = name
            else:
                out = graph.fresh(f"{name}_as")
                graph.types[out] = Type(shape)
                fresh.append(Node("reshape", (name,), (out,), {"shape": shape}, f"{out}.reshape"))
                made[value] = out
    readers = {v for n in graph.nodes if n.outputs[0] not in arrays for v in n.inputs}
    needed = (readers | set(graph.outputs) | {s.output for s in graph.states}) & set(arrays)
    needed -= set(made)
    graph.nodes[:0] = fresh
    if needed:  # somebody reads across the pieces: put the state together again for them
        _joined(graph, state, pieces, table, inner)
    else:
        graph.rename_uses(made)
        graph.states.remove(state)
        _drop(graph, state.input, set(arrays) - {state.input} - set(made.values()))
        return
    graph.rename_uses(made)


def _joined(
    graph: Graph, state: State, pieces: list[tuple[str, Index]], table: Index, inner: Index
) -> None:
    """The old state's value, made of the new ones by movements."""
    flats, offset, starts = [], 0, []
    nodes: list[Node] = []
    for name, at in pieces:
        out = graph.fresh(f"{name}_flat")
        graph.types[out] = Type((len(at),))
        nodes.append(Node("reshape", (name,), (out,), {"shape": (len(at),)}, f"{out}.reshape"))
        flats.append(out)
        starts.append(offset)
        offset += len(at)
    whole = graph.fresh(f"{state.input}_all")
    graph.types[whole] = Type((offset,))
    nodes.append(Node("concat", tuple(flats), (whole,), {}, f"{whole}.concat"))
    order = np.asarray(starts)[table] + inner
    value = state.input
    graph.states.remove(state)
    shape = graph.types[value].shape
    runs = np.flatnonzero(np.diff(order) != 1) + 1
    pieces_of = np.split(order, runs)
    names = []
    for i, run in enumerate(pieces_of):
        out = graph.fresh(f"{value}_run{i}")
        graph.types[out] = Type((len(run),))
        attrs = {"start": int(run[0]), "stop": int(run[0]) + len(run)}
        nodes.append(Node("slice", (whole,), (out,), attrs, f"{out}.slice"))
        names.append(out)
    flat = names[0]
    if len(names) > 1:
        flat = graph.fresh(f"{value}_joined")
        graph.types[flat] = Type((offset,))
        nodes.append(Node("concat", tuple(names), (flat,), {}, f"{flat}.concat"))
    nodes.append(Node("reshape", (flat,), (value,), {"shape": shape}, f"{value}.whole"))
    graph.nodes[:0] = nodes


def _drop(graph: Graph, value: str, moved: set[str]) -> None:
    """Remove a value that is no longer, with the movements made of it."""
    graph.nodes = [n for n in graph.nodes if not (n.op in MOVEMENT and n.output in moved)]
    for name in (value, *moved):
        graph.types.pop(name, None)
