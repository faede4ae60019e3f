"""Window mode: a model of a whole window as a step that takes the hop's new frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from edgeseq.ir import Graph, Type

__all__ = ["as_window"]


def as_window(
    graph: Graph, window: int, hop: int, wholes: Mapping[str, tuple[Sequence[int], int]]
) -> Graph:
    """A step that keeps the last frames and answers for the window that ends with the new ones.

    Args:
        graph: a real step whose inputs are whole windows.
        window: frames of a window.
        hop: new frames of a step, 1..window.
        wholes: by the Graph's input, what it is in the model: its sizes, that of the batch 1, and
            which axis is the window. Other inputs stay as they are.

    Returns:
        The step; its inputs are [hop, *frame] with the frames first. ``meta["window"]`` and
        ``meta["hop"]`` say so; answers before the first full window see zeros for missing frames.
    """
    out = graph.copy()
    out.meta["window"], out.meta["hop"] = window, hop
    for name in [v for v in out.inputs if v in wholes]:
        sizes, axis = wholes[name]
        before = [n for i, n in enumerate(sizes) if i < axis and n != 1]
        after = [n for i, n in enumerate(sizes) if i > axis and n != 1]
        inner = int(np.prod(after, dtype=np.int64))
        outer = int(np.prod(before, dtype=np.int64))
        frame = (*before, *after) or (1,)
        _feed(out, name, window, hop, outer, inner, frame)
    return out


def _feed(
    g: Graph, name: str, window: int, hop: int, outer: int, inner: int, frame: tuple[int, ...]
) -> None:
    """Replace input `name` by new frames joined to the last ones."""
    whole = g.types[name]
    size = outer * inner
    fresh = Graph(g.name, meta=dict(g.meta))
    new = fresh.add_input(name, Type((hop, *frame)))
    flat = fresh.add_node("reshape", [new], name=f"{name}.new", shape=(hop * size,))
    if hop < window:
        kept = window - hop
        past = fresh.add_state(f"{name}_past", Type((kept * size,)))
        flat = fresh.add_node("concat", [past, flat], name=f"{name}.window")
        last = fresh.add_node(
            "slice", [flat], name=f"{name}.keep", start=hop * size, stop=window * size
        )
        fresh.set_state(past, last)
    if outer > 1:  # the file has axes before the window
        flat = fresh.add_node(
            "strided", [flat], name=f"{name}.turn", shape=(outer, window, inner),
            strides=(inner, size, 1), offset=0,
        )  # fmt: skip
    made = fresh.add_node("reshape", [flat], name=f"{name}.frames", shape=whole.shape)
    table = {name: made}
    _append(fresh, g, table, name)
    g.types, g.inputs, g.states, g.consts, g.nodes, g.outputs = (
        fresh.types, fresh.inputs, fresh.states, fresh.consts, fresh.nodes, fresh.outputs,
    )  # fmt: skip


def _append(fresh: Graph, g: Graph, table: dict[str, str], skip: str) -> None:
    """The rest of `g` after what `fresh` holds, names translated by `table`."""
    for value in g.inputs:
        if value != skip:
            table[value] = fresh.add_input(value, g.types[value])
    order = list(g.inputs)
    fresh.inputs.sort(key=lambda v: order.index(v) if v in order else len(order))
    for value, array in g.consts.items():
        table[value] = fresh.add_const(value, array, g.types[value])
    for s in g.states:
        table[s.input] = fresh.add_state(s.name, g.types[s.input], s.init, bound=s.bound)
    for node in g.nodes:
        fresh.add_node(
            node.op, [table[v] for v in node.inputs], name=node.name,
            types=[g.types[v] for v in node.outputs], **node.attrs,
        )  # fmt: skip
        for value, made in zip(node.outputs, fresh.nodes[-1].outputs, strict=True):
            table[value] = made
    for s in g.states:
        fresh.set_state(table[s.input], table[s.output])
    fresh.outputs = [table[v] for v in g.outputs]
